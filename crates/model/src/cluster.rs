//! Who the members of a mesh are: names, ids, and what a member announces about itself.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, NumericIdentity};

/// The name of a cluster: 1 to 32 characters, `^([a-z0-9][-a-z0-9]*)?[a-z0-9]$`
/// (behaviours 1.2). It is part of every kvstore key, so it is validated once, here. Copies share the
/// text: every backend and every entry of another cluster carries one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// Longest legal name in bytes (behaviours 1.2).
    pub const MAX_LEN: usize = 32;

    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`Error::ClusterName`] naming the broken rule; `default` is refused, since a mesh member
    /// (id other than 0) may not use it.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let rule = if name.is_empty() {
            "it is empty; give 1 to 32 characters"
        } else if name.len() > Self::MAX_LEN {
            "it is longer than 32 characters"
        } else if name.chars().any(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')) {
            "only lower-case letters, digits and '-' are allowed"
        } else if !edge(name.chars().next()) || !edge(name.chars().last()) {
            "it must begin and end with a lower-case letter or a digit"
        } else if name == "default" {
            "\"default\" is reserved for clusters outside a mesh; choose another name"
        } else {
            return Ok(Self(name.into()));
        };
        Err(Error::ClusterName { name, rule })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        Self::new(s)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        Self::new(s)
    }
}

impl From<ClusterName> for String {
    fn from(n: ClusterName) -> String {
        n.as_str().to_owned()
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many clusters a mesh may have; it fixes where the cluster id sits in an identity number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum MaxClusters {
    /// Ids 1 to 255, 16 bits of identities per cluster.
    #[default]
    C255,
    /// Ids 1 to 511, 15 bits of identities per cluster.
    C511,
}

impl MaxClusters {
    /// The highest cluster id.
    pub const fn max_id(self) -> u32 {
        match self {
            Self::C255 => 255,
            Self::C511 => 511,
        }
    }

    /// How far the cluster id is shifted left in an identity number (mesh-protocol 4).
    pub const fn shift(self) -> u32 {
        match self {
            Self::C255 => 16,
            Self::C511 => 15,
        }
    }
}

impl TryFrom<u32> for MaxClusters {
    type Error = Error;
    fn try_from(n: u32) -> Result<Self, Error> {
        match n {
            255 => Ok(Self::C255),
            511 => Ok(Self::C511),
            n => Err(Error::MaxClusters(n)),
        }
    }
}

impl From<MaxClusters> for u32 {
    fn from(m: MaxClusters) -> u32 {
        m.max_id()
    }
}

/// The numeric id of a mesh member: 1 to 255 or 1 to 511; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ClusterId(u16);

impl ClusterId {
    /// Checks an id against the size of the mesh.
    ///
    /// # Errors
    /// [`Error::ClusterId`] for 0 and for ids above the maximum.
    pub const fn new(id: u32, max: MaxClusters) -> Result<Self, Error> {
        if id == 0 || id > max.max_id() {
            return Err(Error::ClusterId { id, max: max.max_id() });
        }
        Ok(Self(id as u16))
    }

    /// The id as a number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The identity numbers this cluster may allocate, both ends included (mesh-protocol 4).
    pub const fn identities(self, max: MaxClusters) -> std::ops::RangeInclusive<NumericIdentity> {
        let shift = max.shift();
        let low = (self.0 as u32) << shift;
        NumericIdentity(low)..=NumericIdentity(low + (1 << shift) - 1)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who we are in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Our name.
    pub name: ClusterName,
    /// Our id.
    pub id: ClusterId,
    /// The size of the mesh; equal in all members.
    pub max_clusters: MaxClusters,
}

/// What a cluster announces about itself (mesh-protocol 2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its id as announced, unchecked: the reader decides whether it is acceptable.
    pub id: u32,
    /// Sync markers will appear; wait for each before listing its prefix.
    pub synced_canaries: bool,
    /// The data lives under the cached prefixes.
    pub cached: bool,
    /// Its `max-connected-clusters`; 0 when not announced.
    pub max_connected_clusters: u32,
    /// Absent: unknown to that version; false: known, off; true: on.
    pub service_exports_enabled: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "cls-gz3k8a2m", "0", "a-b-c", &"x".repeat(32)] {
            assert!(ClusterName::new(good).is_ok(), "{good}");
        }
        for (bad, says) in [
            ("", "empty"),
            ("Cls-a", "lower-case"),
            (&"x".repeat(33), "longer than 32"),
            ("-a", "begin and end"),
            ("a-", "begin and end"),
            ("a.b", "only lower-case"),
            ("default", "reserved"),
        ] {
            let text = ClusterName::new(bad).unwrap_err().to_string();
            assert!(text.contains(says), "{bad}: {text}");
        }
    }

    #[test]
    fn ids_and_ranges() {
        assert!(ClusterId::new(0, MaxClusters::C255).is_err());
        assert!(ClusterId::new(256, MaxClusters::C255).is_err());
        assert!(ClusterId::new(256, MaxClusters::C511).is_ok());
        assert!(ClusterId::new(512, MaxClusters::C511).is_err());
        // Rows of mesh-protocol 4.
        for (id, max, low, high) in [
            (1, MaxClusters::C255, 65_536, 131_071),
            (255, MaxClusters::C255, 16_711_680, 16_777_215),
            (1, MaxClusters::C511, 32_768, 65_535),
            (511, MaxClusters::C511, 16_744_448, 16_777_215),
        ] {
            let range = ClusterId::new(id, max).unwrap().identities(max);
            assert_eq!((range.start().0, range.end().0), (low, high));
        }
    }
}
