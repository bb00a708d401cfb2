//! Kubeconfigs: the merged one of a lab, and merging it into a person's own.

use std::path::{Path, PathBuf};

use kube::config::Kubeconfig;

use crate::error::{Error, Result};
use crate::runtime::{Context, write_atomic};

/// Several kubeconfigs as one; the first's current context is the current one.
///
/// # Errors
/// If a file cannot be read.
pub fn merge(files: &[PathBuf]) -> Result<String> {
    let mut merged = Kubeconfig::default();
    for file in files {
        merged = join(merged, read(file)?)?;
    }
    text(&merged)
}

/// Puts a lab's contexts into another kubeconfig, replacing those of the same names. The file is created if absent;
/// its other contexts and its current context stay.
///
/// # Errors
/// If a file cannot be read or written.
pub fn merge_into(lab: &Path, target: &Path) -> Result<Vec<String>> {
    let lab = read(lab)?;
    let mut own = if target.exists() { read(target)? } else { Kubeconfig::default() };
    own.clusters.retain(|c| lab.clusters.iter().all(|l| l.name != c.name));
    own.auth_infos.retain(|u| lab.auth_infos.iter().all(|l| l.name != u.name));
    own.contexts.retain(|c| lab.contexts.iter().all(|l| l.name != c.name));
    let names = lab.contexts.iter().map(|c| c.name.clone()).collect();
    let merged = text(&join(own, lab)?)?;
    if let Some(dir) = target.parent() {
        std::fs::create_dir_all(dir).what(|| format!("create {}", dir.display()))?;
    }
    write_atomic(target, merged.as_bytes())?;
    Ok(names)
}

/// A client for one context of a kubeconfig file.
///
/// # Errors
/// If the file has no such context.
pub async fn client(file: &Path, context: &str) -> Result<kube::Client> {
    let options = kube::config::KubeConfigOptions { context: Some(context.into()), ..Default::default() };
    let wrong = |e: &dyn std::fmt::Display| Error::refused(format!("{}: {e}", file.display()));
    let config = kube::Config::from_custom_kubeconfig(read(file)?, &options).await.map_err(|e| wrong(&e))?;
    kube::Client::try_from(config).map_err(|e| wrong(&e))
}

fn read(file: &Path) -> Result<Kubeconfig> {
    Kubeconfig::read_from(file).map_err(|e| Error::refused(format!("{}: {e}", file.display())))
}

fn join(a: Kubeconfig, b: Kubeconfig) -> Result<Kubeconfig> {
    a.merge(b).map_err(|e| Error::refused(format!("kubeconfigs do not fit together: {e}")))
}

fn text(config: &Kubeconfig) -> Result<String> {
    serde_saphyr::to_string(config).map_err(|e| Error::refused(format!("kubeconfig: {e}")))
}
