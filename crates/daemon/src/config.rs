//! Settings of a role: flag > environment > configuration directory > default.
//!
//! A role declares its settings as a table of [`Key`]s; [`Loader`] is told where values may come
//! from and produces one [`Config`]. The directory has one file per key, as Kubernetes mounts a
//! ConfigMap and as Cilium's `cilium-config` is used. Keys nobody declared are reported, never
//! refused, because a shared ConfigMap also holds other components' settings.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use crate::Error;

/// Prefixes of environment variables, strongest first.
const ENV_PREFIXES: [&str; 2] = ["CAUSEWAY_", "CILIUM_"];

/// One setting a role knows.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the ConfigMap and, with `--` before it, its flag; lower case with hyphens.
    pub name: &'static str,
    /// Its value when given nowhere; `None` = it must be given where it is read with
    /// [`Config::require`].
    pub default: Option<&'static str>,
}

impl Key {
    /// A setting with a default.
    pub const fn with_default(name: &'static str, default: &'static str) -> Self {
        Self { name, default: Some(default) }
    }

    /// A setting without one.
    pub const fn without_default(name: &'static str) -> Self {
        Self { name, default: None }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Env(String),
    /// This file of the configuration directory.
    File(PathBuf),
    /// The default of the program.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("the command line"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A value with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The text as given, surrounding white space removed.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Collects the sources of a configuration; see the module documentation for their precedence.
#[derive(Debug)]
pub struct Loader {
    keys: Vec<Key>,
    flags: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    dir: BTreeMap<String, (String, PathBuf)>,
}

impl Loader {
    /// A loader of these settings that has seen no source yet.
    pub fn new(keys: &[Key]) -> Self {
        Self { keys: keys.to_vec(), flags: BTreeMap::new(), env: BTreeMap::new(), dir: BTreeMap::new() }
    }

    /// Adds one flag; `None` (not given) changes nothing.
    #[must_use]
    pub fn flag(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.flags.insert(name.to_owned(), value.to_string());
        }
        self
    }

    /// Adds environment variables, usually `std::env::vars()`; those without a prefix of ours are
    /// skipped.
    #[must_use]
    pub fn env(mut self, vars: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env
            .extend(vars.into_iter().filter(|(name, _)| ENV_PREFIXES.iter().any(|p| name.starts_with(p))));
        self
    }

    /// Adds the directory: every regular file (symlinks followed, hidden names skipped) is a key.
    /// A directory that does not exist holds no keys.
    ///
    /// # Errors
    /// [`Error::ConfigDir`] when it exists and cannot be read.
    pub fn dir(mut self, path: &Path) -> Result<Self, Error> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::ConfigDir { path, source }
        };
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(e) => return Err(fail(path)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(fail(path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = entry.path();
            // `..data` and the timestamped directories are how Kubernetes swaps a whole ConfigMap.
            if name.starts_with('.') || !file.is_file() {
                continue;
            }
            let value = std::fs::read_to_string(&file).map_err(fail(&file))?;
            self.dir.insert(name, (value, file));
        }
        Ok(self)
    }

    /// The effective configuration.
    pub fn load(self) -> Config {
        let mut settings = BTreeMap::new();
        for key in &self.keys {
            if let Some(setting) = self.lookup(key) {
                settings.insert(key.name, setting);
            }
        }
        let known = |name: &str| self.keys.iter().any(|key| key.name == name);
        let unknown = self.dir.keys().filter(|name| !known(name)).cloned().collect();
        Config { settings, unknown }
    }

    fn lookup(&self, key: &Key) -> Option<Setting> {
        let setting = |value: &str, origin| Setting { value: value.trim().to_owned(), origin };
        if let Some(value) = self.flags.get(key.name) {
            return Some(setting(value, Origin::Flag));
        }
        for prefix in ENV_PREFIXES {
            let name = format!("{prefix}{}", env_tail(key.name));
            if let Some(value) = self.env.get(&name) {
                return Some(setting(value, Origin::Env(name)));
            }
        }
        if let Some((value, file)) = self.dir.get(key.name) {
            return Some(setting(value, Origin::File(file.clone())));
        }
        key.default.map(|value| setting(value, Origin::Default))
    }
}

/// `cluster-name` → `CLUSTER_NAME`.
fn env_tail(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// The effective configuration of one process; never changes after start.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Every setting that has a value, in order of the names.
    pub settings: BTreeMap<&'static str, Setting>,
    /// Keys of the directory that this role does not know, in order.
    pub unknown: Vec<String>,
}

impl Config {
    /// The text of a setting; `None` when it is absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|s| s.value.as_str()).filter(|value| !value.is_empty())
    }

    /// A setting as a value of `T`; `None` when it is absent or empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it does not parse.
    pub fn get<T>(&self, name: &'static str) -> Result<Option<T>, Error>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let Some(setting) = self.settings.get(name).filter(|s| !s.value.is_empty()) else {
            return Ok(None);
        };
        setting.value.parse().map(Some).map_err(|reason: T::Err| Error::Invalid {
            name,
            value: setting.value.clone(),
            origin: setting.origin.clone(),
            reason: reason.to_string(),
        })
    }

    /// A setting that must have a value.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Invalid`].
    pub fn require<T>(&self, name: &'static str) -> Result<T, Error>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.get(name)?.ok_or_else(|| Error::Missing { name, env: env_tail(name) })
    }

    /// Logs the effective configuration once, and the keys nobody knows.
    pub fn log(&self) {
        for (name, setting) in &self.settings {
            tracing::info!(setting = name, value = %setting.value, origin = %setting.origin, "configuration");
        }
        if !self.unknown.is_empty() {
            tracing::info!(keys = %self.unknown.join(" "), "configuration keys this role does not use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] = &[
        Key::without_default("cluster-name"),
        Key::with_default("cluster-id", "0"),
        Key::with_default("max-connected-clusters", "255"),
    ];

    fn vars(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn precedence() {
        let dir = std::env::temp_dir().join(format!("causeway-config-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("..data")).unwrap();
        std::fs::write(dir.join("cluster-name"), "from-dir\n").unwrap();
        std::fs::write(dir.join("cluster-id"), "3").unwrap();
        std::fs::write(dir.join("enable-hubble"), "true").unwrap();
        let load = |env: &[(&str, &str)], flag: Option<&str>| {
            Loader::new(KEYS).flag("cluster-id", flag).env(vars(env)).dir(&dir).unwrap().load()
        };
        let config = load(&[], None);
        assert_eq!(config.text("cluster-name"), Some("from-dir"), "white space is trimmed");
        assert_eq!(config.unknown, ["enable-hubble"]);
        assert_eq!(config.settings["max-connected-clusters"].origin, Origin::Default);
        assert_eq!(config.require::<u32>("cluster-id").unwrap(), 3);
        let both = [("CILIUM_CLUSTER_ID", "4"), ("CAUSEWAY_CLUSTER_ID", "5"), ("HOME", "/")];
        assert_eq!(load(&both[..1], None).require::<u32>("cluster-id").unwrap(), 4);
        assert_eq!(load(&both, None).require::<u32>("cluster-id").unwrap(), 5);
        assert_eq!(load(&both, Some("6")).require::<u32>("cluster-id").unwrap(), 6);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn errors_name_the_setting_and_the_fix() {
        let config = Loader::new(KEYS).env(vars(&[("CILIUM_CLUSTER_ID", "x")])).load();
        let text = config.require::<u32>("cluster-id").unwrap_err().to_string();
        assert!(
            text.contains("`cluster-id` = \"x\" (from environment variable CILIUM_CLUSTER_ID)"),
            "{text}"
        );
        let text = config.require::<String>("cluster-name").unwrap_err().to_string();
        assert!(text.contains("CAUSEWAY_CLUSTER_NAME"), "{text}");
        assert!(Loader::new(KEYS).dir(Path::new("/nonexistent/causeway")).is_ok());
    }
}
