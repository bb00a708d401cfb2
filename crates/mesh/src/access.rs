//! Who may do what in the store of a cluster, by the common name of the client certificate
//! (mesh-protocol 5.3).

use causeway_kvstore::KeyRange;
use causeway_kvstore::auth::{Action, Auth, ROOT};
use causeway_kvstore::server::Access;
use causeway_model::ClusterName;

use crate::keys;

/// What those who may do everything in the store's own process may do through the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Administrators {
    /// Everything, as in Cilium's etcd.
    Write,
    /// Read everything: for a store that is written from within, and trusts authorities of others,
    /// who could sign any name.
    Read,
}

/// The users and roles of the store of cluster `own`, for the embedded server. They can be listed
/// and changed as in any etcd; `remote-<peer>` has the role `remote` for every legal peer name,
/// whether listed or not, since the certificate authority decides who gets a certificate.
pub fn rules(own: &ClusterName, administrators: Administrators) -> Access {
    Access::deriving(users(own, administrators), |common_name| {
        let peer = common_name.strip_prefix("remote-")?;
        peer.parse::<ClusterName>().ok().map(|_| "remote".to_owned())
    })
}

/// The table behind [`rules`], without unlisted users.
fn users(own: &ClusterName, administrators: Administrators) -> Auth {
    let mut auth = Auth::default();
    let administrator = match administrators {
        Administrators::Write => ROOT,
        Administrators::Read => "reader",
    };
    let users = [
        (ROOT.to_owned(), administrator),
        (format!("admin-{own}"), administrator),
        (format!("local-{own}"), "local"),
        ("remote".to_owned(), "remote"),
    ];
    let fill = |auth: &mut Auth| {
        for (user, role) in &users {
            auth.user_add(user, None)?;
            if auth.role(role).is_err() {
                auth.role_add(role)?;
                let ranges = match permission(own, user) {
                    Some(Permission::Read(ranges)) => ranges,
                    Some(Permission::Root) if *role != ROOT => vec![(vec![0], vec![0])],
                    Some(Permission::Root) | None => Vec::new(),
                };
                for (key, range_end) in ranges {
                    let range = KeyRange::new(key.into(), range_end.into());
                    auth.role_grant(role, causeway_kvstore::auth::Permission::new(Action::Read, &range))?;
                }
            }
            auth.user_grant_role(user, role)?;
        }
        auth.enforce()
    };
    fill(&mut auth).expect("no name is empty or occurs twice");
    auth
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Read and write everything.
    Root,
    /// Read inside these half-open ranges of keys; write nothing.
    Read(Vec<(Vec<u8>, Vec<u8>)>),
}

/// The permissions of a common name in the store of cluster `own`; `None` for an unknown user.
///
/// Remote users (`remote`, and `remote-<peer>` in the mode with one user per cluster) see this
/// cluster's own data only: a mesh is never transitive.
pub fn permission(own: &ClusterName, common_name: &str) -> Option<Permission> {
    let prefix = |prefix: &str| (prefix.as_bytes().to_vec(), keys::range_end(prefix.as_bytes()));
    let local = || {
        Permission::Read(vec![
            prefix(keys::HEARTBEAT),
            prefix(&format!("{}/", keys::CACHE)),
            prefix(&format!("{}/", keys::CLUSTER_CONFIG)),
            prefix(&format!("{}/", keys::SYNCED)),
        ])
    };
    let remote = || {
        let config = keys::cluster_config(own).into_bytes();
        let after = [&config[..], &[0]].concat();
        Permission::Read(vec![
            prefix(keys::HEARTBEAT),
            prefix(&format!("{}/", keys::STATE)),
            (config, after),
            prefix(&keys::marker_prefix(own)),
        ])
    };
    match common_name {
        "root" => Some(Permission::Root),
        "remote" => Some(remote()),
        _ => match common_name.split_once('-') {
            Some(("admin", cluster)) if cluster == own.as_str() => Some(Permission::Root),
            Some(("local", cluster)) if cluster == own.as_str() => Some(local()),
            // Any legal peer name: the certificate authority decides who gets a certificate.
            Some(("remote", peer)) if peer.parse::<ClusterName>().is_ok() => Some(remote()),
            _ => None,
        },
    }
}

impl Permission {
    /// True if the whole range `[start, end)` may be read. An empty `end` means the single key.
    pub fn reads(&self, start: &[u8], end: &[u8]) -> bool {
        let Permission::Read(ranges) = self else { return true };
        let single;
        let end = if end.is_empty() {
            single = [start, &[0]].concat();
            &single[..]
        } else if end == [0] {
            // "To the end of the key space": no role reaches that far.
            return false;
        } else {
            end
        };
        // No two ranges of a role touch, so the request must lie inside one of them.
        ranges.iter().any(|(from, to)| from.as_slice() <= start && end <= to.as_slice() && start < end)
    }

    /// True if everything may be written.
    pub fn writes(&self) -> bool {
        *self == Permission::Root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_users_and_roles() {
        let own = ClusterName::new("cls-b").unwrap();
        let auth = users(&own, Administrators::Write);
        assert_eq!(auth.users().collect::<Vec<_>>(), ["admin-cls-b", "local-cls-b", "remote", "root"]);
        assert_eq!(auth.roles().collect::<Vec<_>>(), ["local", "remote", "root"]);
        let shown = |role| {
            let permissions = auth.role(role).unwrap().iter();
            permissions.map(|p| String::from_utf8(p.key.clone()).unwrap()).collect::<Vec<_>>()
        };
        let own_data =
            ["cilium/.heartbeat", "cilium/cluster-config/cls-b", "cilium/state/", "cilium/synced/cls-b/"];
        assert_eq!(shown("remote"), own_data);
        let all = ["cilium/.heartbeat", "cilium/cache/", "cilium/cluster-config/", "cilium/synced/"];
        assert_eq!(shown("local"), all);
        assert!(auth.enabled());
        // No name a foreign authority could sign may write or change users.
        let auth = users(&own, Administrators::Read);
        for user in auth.users() {
            assert!(!auth.user(user).unwrap().roles.contains(ROOT), "{user}");
        }
        assert!(auth.user("admin-cls-b").unwrap().roles.contains("reader"));
        let all = &auth.role("reader").unwrap()[0];
        assert_eq!((&all.key[..], &all.range_end[..], all.action), (&[0][..], &[0][..], Action::Read));
    }

    #[test]
    fn users_of_the_specification() {
        let own = ClusterName::new("cls-b").unwrap();
        let of = |cn| permission(&own, cn);
        for cn in ["admin-cls-b", "root"] {
            assert!(of(cn).unwrap().writes() && of(cn).unwrap().reads(b"", b"\0"));
        }
        for cn in ["admin-cls-a", "local-cls-a", "local", "nobody", "", "remote-", "remote-UP"] {
            assert_eq!(of(cn), None, "{cn}");
        }
        let remote = of("remote").unwrap();
        assert_eq!(of("remote-cls-a").unwrap(), remote);
        for (start, end, allowed) in [
            ("cilium/.heartbeat", "cilium/.heartbeau", true),
            ("cilium/.heartbeat", "", true),
            ("cilium/state/identities/v1/id", "cilium/state/identities/v1/ie", true),
            ("cilium/state/nodes/v1/cls-b/", "cilium/state/nodes/v1/cls-b0", true),
            ("cilium/cluster-config/cls-b", "", true),
            ("cilium/cluster-config/cls-a", "", false),
            ("cilium/cluster-config/", "cilium/cluster-config0", false),
            ("cilium/synced/cls-b/", "cilium/synced/cls-b0", true),
            ("cilium/synced/cls-a/", "cilium/synced/cls-a0", false),
            ("cilium/cache/", "cilium/cache0", false),
            ("cilium/state/", "cilium/state1", false),
            ("cilium/state/", "\0", false),
        ] {
            assert_eq!(remote.reads(start.as_bytes(), end.as_bytes()), allowed, "{start} {end}");
        }
        assert!(!remote.writes());
        let local = of("local-cls-b").unwrap();
        assert!(local.reads(b"cilium/cache/nodes/v1/x/", b"cilium/cache/nodes/v1/x0"));
        assert!(!local.reads(b"cilium/state/", b"cilium/state0"));
    }
}
