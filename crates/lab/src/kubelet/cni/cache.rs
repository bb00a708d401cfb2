//! Results of ADD on disk, one file per attachment, so that DEL and CHECK work after a restart and with the
//! configuration ADD was called with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attachment, Error, NetworkList};

/// What is remembered of an attachment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedAttachment {
    /// Identifier of the sandbox.
    pub container_id: String,
    /// Interface inside.
    pub if_name: String,
    /// Name of the network.
    pub network_name: String,
    netns: Option<PathBuf>,
    cni_args: Vec<(String, String)>,
    capability_args: BTreeMap<String, Value>,
    config: Value,
    /// The result of ADD.
    pub result: Option<Value>,
}

impl CachedAttachment {
    pub(super) fn new(list: &NetworkList, at: &Attachment, result: Value) -> Self {
        CachedAttachment {
            container_id: at.container_id.clone(),
            if_name: at.ifname.clone(),
            network_name: list.name.clone(),
            netns: at.netns.clone(),
            cni_args: at.args.clone(),
            capability_args: at.capabilities.clone(),
            config: list.raw.clone(),
            result: Some(result),
        }
    }

    /// The list ADD was called with.
    pub(super) fn list(&self) -> Result<NetworkList, Error> {
        NetworkList::parse(&self.config).map_err(|why| Error::Cache {
            path: format!("{}-{}", self.network_name, self.container_id).into(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, why),
        })
    }

    /// The attachment, for calls after a restart; its namespace only if it still exists.
    pub fn attachment(&self) -> Attachment {
        Attachment {
            container_id: self.container_id.clone(),
            netns: self.netns.clone().filter(|p| p.exists()),
            ifname: self.if_name.clone(),
            args: self.cni_args.clone(),
            capabilities: self.capability_args.clone(),
        }
    }

    fn file(&self) -> String {
        format!("{}-{}-{}.json", self.network_name, self.container_id, self.if_name)
    }
}

pub(super) fn write(dir: &Path, cached: &CachedAttachment) -> Result<(), Error> {
    let path = dir.join(cached.file());
    let failed = |source| Error::Cache { path: path.clone(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let bytes = serde_json::to_vec(cached).map_err(|e| failed(e.into()))?;
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes).map_err(failed)?;
    std::fs::rename(&temporary, &path).map_err(failed)
}

/// All entries that can be read, in the order of their file names.
pub(super) fn all(dir: &Path) -> Vec<CachedAttachment> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.retain(|p| p.extension().is_some_and(|x| x == "json"));
    files.sort();
    files.iter().filter_map(|p| serde_json::from_slice(&std::fs::read(p).ok()?).ok()).collect()
}

pub(super) fn find(dir: &Path, container_id: &str, ifname: &str) -> Option<CachedAttachment> {
    all(dir).into_iter().find(|c| c.container_id == container_id && c.if_name == ifname)
}

pub(super) fn remove(dir: &Path, cached: &CachedAttachment) {
    let _ = std::fs::remove_file(dir.join(cached.file()));
}
