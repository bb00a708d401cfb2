//! Every call that is answered, by name.

/// A call of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    /// As metrics call it: `unary`, `server_stream` or `bidi_stream`.
    pub(super) kind: &'static str,
}

const fn unary(service: &'static str, name: &'static str) -> Method {
    Method { service, name, kind: "unary" }
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const HEALTH: &str = "grpc.health.v1.Health";

const fn reflection(service: &'static str) -> Method {
    Method { service, name: "ServerReflectionInfo", kind: "bidi_stream" }
}

/// All of them; those of `KV` first, in the order of [`super::kv::Method`].
pub(super) const ALL: [Method; 44] = [
    unary(KV, "Range"),
    unary(KV, "Put"),
    unary(KV, "DeleteRange"),
    unary(KV, "Txn"),
    unary(KV, "Compact"),
    Method { service: "etcdserverpb.Watch", name: "Watch", kind: "bidi_stream" },
    unary(LEASE, "LeaseGrant"),
    unary(LEASE, "LeaseRevoke"),
    Method { service: LEASE, name: "LeaseKeepAlive", kind: "bidi_stream" },
    unary(LEASE, "LeaseTimeToLive"),
    unary(LEASE, "LeaseLeases"),
    unary(CLUSTER, "MemberAdd"),
    unary(CLUSTER, "MemberRemove"),
    unary(CLUSTER, "MemberUpdate"),
    unary(CLUSTER, "MemberList"),
    unary(CLUSTER, "MemberPromote"),
    unary(MAINTENANCE, "Alarm"),
    unary(MAINTENANCE, "Status"),
    unary(MAINTENANCE, "Defragment"),
    unary(MAINTENANCE, "Hash"),
    unary(MAINTENANCE, "HashKV"),
    Method { service: MAINTENANCE, name: "Snapshot", kind: "server_stream" },
    unary(MAINTENANCE, "MoveLeader"),
    unary(AUTH, "AuthEnable"),
    unary(AUTH, "AuthDisable"),
    unary(AUTH, "AuthStatus"),
    unary(AUTH, "Authenticate"),
    unary(AUTH, "UserAdd"),
    unary(AUTH, "UserGet"),
    unary(AUTH, "UserList"),
    unary(AUTH, "UserDelete"),
    unary(AUTH, "UserChangePassword"),
    unary(AUTH, "UserGrantRole"),
    unary(AUTH, "UserRevokeRole"),
    unary(AUTH, "RoleAdd"),
    unary(AUTH, "RoleGet"),
    unary(AUTH, "RoleList"),
    unary(AUTH, "RoleDelete"),
    unary(AUTH, "RoleGrantPermission"),
    unary(AUTH, "RoleRevokePermission"),
    unary(HEALTH, "Check"),
    Method { service: HEALTH, name: "Watch", kind: "server_stream" },
    reflection("grpc.reflection.v1.ServerReflection"),
    reflection("grpc.reflection.v1alpha.ServerReflection"),
];

/// The place in [`ALL`] of the stream of watches.
pub(super) const WATCH: usize = 5;

/// The place in [`ALL`] of the method behind a path.
pub(super) fn index(path: &str) -> Option<usize> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    ALL.iter().position(|method| method.service == service && method.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::kv;
    use super::*;

    #[test]
    fn methods_are_found_by_their_path() {
        for (n, method) in ALL.iter().enumerate() {
            assert_eq!(index(&format!("/{}/{}", method.service, method.name)), Some(n));
        }
        assert_eq!(index("/etcdserverpb.KV/Other"), None);
        assert_eq!(index("/etcdserverpb.Watch/Watch"), Some(WATCH));
        for method in ALL.iter().filter(|method| method.service == KV) {
            let path = format!("/{KV}/{}", method.name);
            assert_eq!(kv::Method::of(&path).map(|m| m as usize), index(&path));
        }
    }
}
