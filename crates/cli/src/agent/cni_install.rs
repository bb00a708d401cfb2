//! Makes the container runtime use us: the plugin's binary first, its configuration last, since the
//! configuration is what tells the runtime that pods can be connected.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use causeway_datapath::cni;

use super::files::replace;

/// Sorts before other plugins' files, as Cilium's does.
const CONF: &str = "05-causeway.conflist";
/// The plugin's type and file name.
pub(crate) const PLUGIN: &str = "causeway-cni";

/// Installs binary and configuration, each whole or not at all.
pub(super) fn install(bin_dir: &Path, conf_dir: &Path, socket: &Path) -> Result<()> {
    for dir in [bin_dir, conf_dir] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let own = std::env::current_exe().context("find our own executable")?;
    let target = bin_dir.join(PLUGIN);
    replace(&target, |fresh| std::fs::copy(&own, fresh).map(drop))?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
    let conf = serde_json::json!({
        "cniVersion": cni::VERSION,
        "name": "causeway",
        "plugins": [{ "type": PLUGIN, "agent-socket": socket }],
    });
    let text = serde_json::to_string_pretty(&conf)? + "\n";
    replace(&conf_dir.join(CONF), |fresh| std::fs::write(fresh, &text))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_configuration_is_one_the_plugin_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, conf) = (dir.path().join("bin"), dir.path().join("net.d"));
        for _ in 0..2 {
            super::install(&bin, &conf, "/run/x.sock".as_ref()).unwrap();
        }
        let list: serde_json::Value =
            serde_json::from_slice(&std::fs::read(conf.join(super::CONF)).unwrap()).unwrap();
        let mut plugin = list["plugins"][0].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        let parsed = causeway_datapath::cni::network_config(plugin.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.agent_socket.as_deref(), Some("/run/x.sock"));
        assert!(bin.join(super::PLUGIN).exists());
        assert_eq!(std::fs::read_dir(&conf).unwrap().count(), 1, "no temporary file is left");
    }
}
