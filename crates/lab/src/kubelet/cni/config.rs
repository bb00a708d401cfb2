//! Network configuration lists: found in a directory, checked, and turned into the input of a plugin.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A network configuration list.
#[derive(Debug, Clone)]
pub struct NetworkList {
    /// Name of the network.
    pub name: String,
    /// Version of the specification it is written for.
    pub cni_version: String,
    /// CHECK must not be called.
    pub disable_check: bool,
    /// GC must not be called.
    pub disable_gc: bool,
    /// Plugins in the order of ADD.
    pub plugins: Vec<Plugin>,
    /// The list as it was read.
    pub raw: Value,
}

/// One plugin of a list.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Name of its executable.
    pub kind: String,
    /// Capabilities it declares.
    pub capabilities: Vec<String>,
    conf: Map<String, Value>,
}

impl NetworkList {
    /// Reads a list, or a single plugin's configuration (`*.conf`), which counts as a list of one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(raw: &Value) -> Result<Self, String> {
        let text = |key: &str| raw[key].as_str().unwrap_or("").to_string();
        let flag = |key: &str| raw[key].as_bool().unwrap_or(false) || raw[key] == "true";
        let single = [raw.clone()];
        let plugins = match &raw["plugins"] {
            Value::Array(list) => list.as_slice(),
            Value::Null if raw["type"].is_string() => &single[..],
            _ => return Err("\"plugins\" is missing".into()),
        };
        let name = text("name");
        if name.is_empty() {
            return Err("\"name\" is missing".into());
        }
        if plugins.is_empty() {
            return Err("\"plugins\" is empty".into());
        }
        let plugins = plugins.iter().map(plugin).collect::<Result<Vec<_>, _>>()?;
        let cni_version = if raw["cniVersion"].is_null() { "0.1.0".into() } else { text("cniVersion") };
        if version(&cni_version).is_none() {
            return Err(format!("cniVersion {cni_version:?} is no version"));
        }
        let (disable_check, disable_gc) = (flag("disableCheck"), flag("disableGC"));
        Ok(NetworkList { name, cni_version, disable_check, disable_gc, plugins, raw: raw.clone() })
    }

    /// Whether the list's version is at least `major.minor`.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        version(&self.cni_version).is_some_and(|v| v >= (major, minor))
    }

    /// What a plugin reads from standard input.
    pub fn input(&self, plugin: &Plugin, args: &BTreeMap<String, Value>, previous: Option<&Value>) -> Value {
        let mut conf = plugin.conf.clone();
        conf.insert("name".into(), json!(self.name));
        conf.insert("cniVersion".into(), json!(self.cni_version));
        let wanted: Map<String, Value> = args
            .iter()
            .filter(|(name, _)| plugin.capabilities.contains(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        // The specification: "capabilities" must not be passed on, runtimeConfig takes its place.
        conf.remove("capabilities");
        if !wanted.is_empty() {
            conf.insert("runtimeConfig".into(), Value::Object(wanted));
        }
        if let Some(previous) = previous {
            conf.insert("prevResult".into(), previous.clone());
        }
        Value::Object(conf)
    }
}

fn plugin(raw: &Value) -> Result<Plugin, String> {
    let conf = raw.as_object().cloned().ok_or("a plugin is not an object")?;
    let kind = raw["type"].as_str().filter(|t| !t.is_empty()).ok_or("a plugin has no \"type\"")?.to_string();
    if kind.contains('/') {
        return Err(format!("plugin type {kind:?} must be a file name"));
    }
    let declared = raw["capabilities"].as_object().cloned().unwrap_or_default();
    let capabilities = declared.into_iter().filter(|(_, on)| *on == true).map(|(name, _)| name).collect();
    Ok(Plugin { kind, capabilities, conf })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(|p| p.parse::<u32>().ok());
    Some((parts.next()??, parts.next()??))
}

/// The lexically first valid configuration of a directory. Invalid files before it are reported in the log.
pub(super) fn load(dir: &Path) -> Option<NetworkList> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|x| ["conf", "conflist", "json"].iter().any(|k| x == *k)))
        .collect();
    files.sort();
    files.into_iter().find_map(|path| {
        let parsed = std::fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|b| serde_json::from_slice::<Value>(&b).map_err(|e| e.to_string()))
            .and_then(|v| NetworkList::parse(&v));
        parsed
            .map_err(|error| tracing::warn!(path = %path.display(), error, "network configuration ignored"))
            .ok()
    })
}
