//! A small CNI runtime: what a container runtime does with network configuration lists (CNI 1.1, section 3 and 4).
//!
//! Knows no Kubernetes: an [`Attachment`] names a container, its network namespace and interface; [`Cni`] reads the
//! configuration, executes the plugins and remembers results so that DEL and CHECK see what ADD returned. Used by the
//! pod sandbox code and by the node's readiness check.

mod cache;
mod config;
mod invoke;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cache::CachedAttachment;
pub use config::{NetworkList, Plugin};
pub use invoke::PluginError;
use serde_json::{Value, json};

use self::invoke::{Call, Command};

/// Why a CNI operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable network configuration: what a node shows before its network add-on is installed.
    #[error("no networks found in {dir}: cni config uninitialized")]
    Uninitialized {
        /// The configuration directory.
        dir: PathBuf,
    },
    /// A plugin's executable is not there.
    #[error("failed to find plugin {plugin:?} in path {paths:?}")]
    PluginMissing {
        /// The `type` of the plugin.
        plugin: String,
        /// Where it was looked for.
        paths: Vec<PathBuf>,
    },
    /// A plugin answered with an error.
    #[error("plugin type={plugin:?} failed ({command}): {source}")]
    Plugin {
        /// The `type` of the plugin.
        plugin: String,
        /// ADD, DEL, CHECK, STATUS or GC.
        command: &'static str,
        /// What it said.
        source: PluginError,
    },
    /// Executing a plugin failed, or it did not end in time.
    #[error("plugin type={plugin:?} ({command}): {message}")]
    Execution {
        /// The `type` of the plugin.
        plugin: String,
        /// ADD, DEL, CHECK, STATUS or GC.
        command: &'static str,
        /// What went wrong.
        message: String,
    },
    /// The cache directory cannot be used.
    #[error("CNI result cache {path}: {source}")]
    Cache {
        /// File or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// One interface of one container.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Identifier of the sandbox, at most 64 characters of `[A-Za-z0-9_.-]`.
    pub container_id: String,
    /// Path of the network namespace; none once it is gone (DEL only).
    pub netns: Option<PathBuf>,
    /// Name of the interface inside.
    pub ifname: String,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// Arguments of capabilities; a plugin gets those it declares.
    pub capabilities: BTreeMap<String, Value>,
}

impl Attachment {
    fn env(&self) -> Vec<(&'static str, String)> {
        let args: Vec<String> = self.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        vec![
            ("CNI_CONTAINERID", self.container_id.clone()),
            ("CNI_NETNS", self.netns.as_ref().map(|p| p.display().to_string()).unwrap_or_default()),
            ("CNI_IFNAME", self.ifname.clone()),
            ("CNI_ARGS", args.join(";")),
        ]
    }
}

/// What ADD gave: the last plugin's result as it stands, and the addresses in it.
#[derive(Debug, Clone)]
pub struct AddResult {
    /// Addresses of the container's interface, in the plugin's order.
    pub ips: Vec<IpAddr>,
    /// The whole result.
    pub raw: Value,
}

/// A CNI runtime over a configuration directory, plugin directories and a result cache.
#[derive(Debug, Clone)]
pub struct Cni {
    /// Directory of network configuration lists; read anew for each operation.
    pub conf_dir: PathBuf,
    /// Directories of plugin executables (`CNI_PATH`).
    pub bin_dirs: Vec<PathBuf>,
    /// Directory of cached results.
    pub cache_dir: PathBuf,
    /// How long one plugin may take.
    pub timeout: Duration,
}

impl Cni {
    /// The configuration in force.
    ///
    /// # Errors
    /// [`Error::Uninitialized`] if the directory has no valid one.
    pub fn network(&self) -> Result<NetworkList, Error> {
        config::load(&self.conf_dir).ok_or_else(|| Error::Uninitialized { dir: self.conf_dir.clone() })
    }

    /// Attaches: ADD along the chain, each plugin given the previous one's result. After a failure DEL is called, as the
    /// specification asks, and its own failure only logged.
    ///
    /// # Errors
    /// No configuration, a plugin missing or failing, or a cache that cannot be written.
    pub async fn add(&self, at: &Attachment) -> Result<AddResult, Error> {
        let list = self.network()?;
        let added = self.add_chain(&list, at).await;
        if added.is_err()
            && let Err(error) = self.del_chain(&list, at, None).await
        {
            tracing::debug!(container = at.container_id, %error, "CNI DEL after a failed ADD");
        }
        let raw = added?;
        let cached = CachedAttachment::new(&list, at, raw.clone());
        if let Err(error) = cache::write(&self.cache_dir, &cached) {
            let _ = self.del_chain(&list, at, Some(&raw)).await;
            return Err(error);
        }
        Ok(AddResult { ips: addresses(&raw), raw })
    }

    async fn add_chain(&self, list: &NetworkList, at: &Attachment) -> Result<Value, Error> {
        let mut previous: Option<Value> = None;
        for plugin in &list.plugins {
            let input = list.input(plugin, &at.capabilities, previous.as_ref());
            let out = self.call(plugin, Command::Add, at.env(), input).await?;
            previous = Some(out.ok_or_else(|| Error::Execution {
                plugin: plugin.kind.clone(),
                command: Command::Add.name(),
                message: "ended without printing a result".into(),
            })?);
        }
        Ok(previous.unwrap_or_else(|| json!({"cniVersion": list.cni_version})))
    }

    /// Detaches: DEL in reverse order with the configuration and result of the ADD, or the present configuration if
    /// nothing is cached. The cache entry goes only when all plugins succeeded.
    ///
    /// # Errors
    /// The first plugin that fails; the following ones are not called.
    pub async fn del(&self, at: &Attachment) -> Result<(), Error> {
        let cached = cache::find(&self.cache_dir, &at.container_id, &at.ifname);
        let (list, result) = match &cached {
            Some(c) => (c.list()?, c.result.clone()),
            None => match self.network() {
                Ok(list) => (list, None),
                // Never attached and no network: nothing to take back.
                Err(_) => return Ok(()),
            },
        };
        self.del_chain(&list, at, result.as_ref()).await?;
        if let Some(c) = cached {
            cache::remove(&self.cache_dir, &c);
        }
        Ok(())
    }

    async fn del_chain(
        &self,
        list: &NetworkList,
        at: &Attachment,
        result: Option<&Value>,
    ) -> Result<(), Error> {
        for plugin in list.plugins.iter().rev() {
            let input = list.input(plugin, &at.capabilities, result);
            self.call(plugin, Command::Del, at.env(), input).await?;
        }
        Ok(())
    }

    /// Asks whether an attachment is as ADD left it. Lists with `disableCheck` and those before 0.4 are not asked.
    ///
    /// # Errors
    /// The first plugin that says no.
    pub async fn check(&self, at: &Attachment) -> Result<(), Error> {
        let Some(cached) = cache::find(&self.cache_dir, &at.container_id, &at.ifname) else { return Ok(()) };
        let list = cached.list()?;
        if list.disable_check || !list.at_least(0, 4) {
            return Ok(());
        }
        for plugin in &list.plugins {
            let input = list.input(plugin, &at.capabilities, cached.result.as_ref());
            self.call(plugin, Command::Check, at.env(), input).await?;
        }
        Ok(())
    }

    /// Asks whether the network can take containers. Lists before 1.1 have no STATUS and count as ready.
    ///
    /// # Errors
    /// No configuration, a plugin missing, or one that is not ready.
    pub async fn status(&self) -> Result<(), Error> {
        let list = self.network()?;
        for plugin in &list.plugins {
            if list.at_least(1, 1) {
                let input = list.input(plugin, &BTreeMap::new(), None);
                self.call(plugin, Command::Status, Vec::new(), input).await?;
            } else {
                invoke::find(&self.bin_dirs, &plugin.kind)?;
            }
        }
        Ok(())
    }

    /// Takes back everything that belongs to no valid container: DEL for stale cached attachments, then GC with the valid
    /// ones, so plugins can free what they still hold.
    ///
    /// # Errors
    /// The first plugin whose GC fails. A stale attachment whose DEL fails stays cached and is logged.
    pub async fn gc(&self, valid: &[(String, String)]) -> Result<(), Error> {
        for cached in cache::all(&self.cache_dir) {
            if valid.iter().any(|(id, ifname)| *id == cached.container_id && *ifname == cached.if_name) {
                continue;
            }
            let at = cached.attachment();
            if let Err(error) = self.del(&at).await {
                tracing::warn!(container = at.container_id, %error, "stale network attachment cannot be removed");
            }
        }
        let list = self.network()?;
        if list.disable_gc || !list.at_least(1, 1) {
            return Ok(());
        }
        let attachments: Vec<Value> =
            valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
        for plugin in &list.plugins {
            let mut input = list.input(plugin, &BTreeMap::new(), None);
            input["cni.dev/valid-attachments"] = Value::Array(attachments.clone());
            self.call(plugin, Command::Gc, Vec::new(), input).await?;
        }
        Ok(())
    }

    /// Attachments that have a cached result.
    pub fn cached(&self) -> Vec<CachedAttachment> {
        cache::all(&self.cache_dir)
    }

    async fn call(
        &self,
        plugin: &Plugin,
        command: Command,
        env: Vec<(&'static str, String)>,
        input: Value,
    ) -> Result<Option<Value>, Error> {
        let call =
            Call { plugin: &plugin.kind, command, env, input, dirs: &self.bin_dirs, timeout: self.timeout };
        call.run().await
    }
}

/// The container's addresses in a result: those of interfaces inside a sandbox, or without interface.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let inside = |ip: &Value| match ip["interface"].as_u64() {
        None => true,
        Some(i) => result["interfaces"]
            .get(usize::try_from(i).unwrap_or(usize::MAX))
            .is_none_or(|f| f["sandbox"].as_str().is_some_and(|s| !s.is_empty())),
    };
    let ips = result["ips"].as_array().map_or(&[][..], Vec::as_slice);
    ips.iter()
        .filter(|ip| inside(ip))
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}

/// Whether a path is a file that can be executed.
fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
