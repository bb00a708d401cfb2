//! Executing one plugin: environment and standard input in, a result or an error out.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::{Error, executable};

/// The error a plugin prints: `{"cniVersion", "code", "msg", "details"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details} (code {code})", if .details.is_empty() { "" } else { ": " })]
pub struct PluginError {
    /// 1-99 of the specification, 100 and more of the plugin.
    pub code: u32,
    /// Short message.
    pub msg: String,
    /// Long message, may be empty.
    #[serde(default)]
    pub details: String,
}

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Command {
    pub(super) fn name(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Status => "STATUS",
            Command::Gc => "GC",
        }
    }
}

/// One execution.
pub(super) struct Call<'a> {
    pub(super) plugin: &'a str,
    pub(super) command: Command,
    pub(super) env: Vec<(&'static str, String)>,
    pub(super) input: Value,
    pub(super) dirs: &'a [PathBuf],
    pub(super) timeout: Duration,
}

/// The executable of a plugin.
pub(super) fn find(dirs: &[PathBuf], plugin: &str) -> Result<PathBuf, Error> {
    dirs.iter()
        .map(|d| d.join(plugin))
        .find(|p| executable(p))
        .ok_or_else(|| Error::PluginMissing { plugin: plugin.into(), paths: dirs.to_vec() })
}

impl Call<'_> {
    /// Runs the plugin; `None` if it succeeded without printing anything.
    pub(super) async fn run(self) -> Result<Option<Value>, Error> {
        let path = find(self.dirs, self.plugin)?;
        let failed = |message: String| Error::Execution {
            plugin: self.plugin.into(),
            command: self.command.name(),
            message,
        };
        let dirs: Vec<String> = self.dirs.iter().map(|d| d.display().to_string()).collect();
        let mut child = tokio::process::Command::new(&path)
            .env("CNI_COMMAND", self.command.name())
            .env("CNI_PATH", dirs.join(":"))
            .envs(self.env.iter().map(|(k, v)| (*k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(format!("cannot execute {}: {e}", path.display())))?;
        let mut stdin = child.stdin.take();
        let input = self.input.to_string();
        let feed = async {
            if let Some(pipe) = stdin.as_mut() {
                // A plugin may end without reading its input; its answer is what counts.
                let _ = pipe.write_all(input.as_bytes()).await;
            }
            drop(stdin);
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(self.timeout, both)
            .await
            .map_err(|_| failed(format!("did not end within {} s", self.timeout.as_secs())))?
            .map_err(|e| failed(e.to_string()))?;
        let printed: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() {
            return match printed {
                None if output.stdout.iter().any(|b| !b.is_ascii_whitespace()) => {
                    Err(failed(format!("result is not JSON: {}", clip(&output.stdout))))
                }
                printed => Ok(printed),
            };
        }
        if let Some(source) = printed.and_then(|v| serde_json::from_value::<PluginError>(v).ok()) {
            return Err(Error::Plugin { plugin: self.plugin.into(), command: self.command.name(), source });
        }
        Err(failed(format!(
            "{}, without an error object: {} {}",
            output.status,
            clip(&output.stdout),
            clip(&output.stderr)
        )))
    }
}

fn clip(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().take(512).collect()
}
