//! Users and roles.

use super::conformance;

conformance!(
    users,
    roles,
    enabling_needs_root,
    tokens,
    permissions,
    permissions_of_leases_and_watches,
    root_stays,
    administration_is_roots,
);

mod cases {
    use causeway_kvstore::pb::{self, permission::Type, watch_request::RequestUnion};
    use tonic::metadata::MetadataValue;
    use tonic::{Code, Request};

    use super::super::common::Target;
    use super::super::{delete, get, op, prefix, put, refusal};

    type Refusal = (Code, String);

    fn precondition(text: &str) -> Refusal {
        (Code::FailedPrecondition, format!("etcdserver: {text}"))
    }

    fn invalid(text: &str) -> Refusal {
        (Code::InvalidArgument, format!("etcdserver: {text}"))
    }

    fn denied() -> Refusal {
        (Code::PermissionDenied, "etcdserver: permission denied".to_owned())
    }

    /// A request by the user with this token, anonymous with an empty one.
    fn by<T>(token: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !token.is_empty() {
            request.metadata_mut().insert("token", MetadataValue::try_from(token).unwrap());
        }
        request
    }

    fn user(name: &str, password: &str) -> pb::AuthUserAddRequest {
        pb::AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() }
    }

    fn role(name: &str) -> pb::AuthRoleAddRequest {
        pb::AuthRoleAddRequest { name: name.into() }
    }

    fn grant(user: &str, role: &str) -> pb::AuthUserGrantRoleRequest {
        pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() }
    }

    fn permit(name: &str, kind: Type, key: &str, end: &str) -> pb::AuthRoleGrantPermissionRequest {
        let perm = pb::Permission {
            perm_type: kind as i32,
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
        };
        pb::AuthRoleGrantPermissionRequest { name: name.into(), perm: Some(perm) }
    }

    async fn login(t: &Target, name: &str, password: &str) -> Result<String, Refusal> {
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        let answer = t.auth().authenticate(request).await;
        answer.map(|answer| answer.into_inner().token).map_err(refusal)
    }

    /// `root` with password `r` and authentication enabled; its token.
    async fn enabled(t: &Target) -> String {
        let mut auth = t.auth();
        auth.user_add(user("root", "r")).await.unwrap();
        auth.role_add(role("root")).await.unwrap();
        auth.user_grant_role(grant("root", "root")).await.unwrap();
        auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        login(t, "root", "r").await.unwrap()
    }

    pub(super) async fn users(t: Target) {
        let mut auth = t.auth();
        auth.user_add(user("b", "x")).await.unwrap();
        auth.user_add(user("a", "x")).await.unwrap();
        let options = Some(pb::UserAddOptions { no_password: true });
        auth.user_add(pb::AuthUserAddRequest { options, ..user("cert", "") }).await.unwrap();
        let refused = refusal(auth.user_add(user("a", "y")).await.unwrap_err());
        assert_eq!(refused, precondition("user name already exists"));
        assert_eq!(refusal(auth.user_add(user("", "y")).await.unwrap_err()), invalid("user name is empty"));
        let mut list = auth.user_list(pb::AuthUserListRequest {}).await.unwrap().into_inner().users;
        list.sort();
        assert_eq!(list, ["a", "b", "cert"]);
        auth.role_add(role("r2")).await.unwrap();
        auth.role_add(role("r1")).await.unwrap();
        for role in ["r2", "r1", "r1"] {
            auth.user_grant_role(grant("a", role)).await.unwrap();
        }
        let get = |name: &str| pb::AuthUserGetRequest { name: name.into() };
        assert_eq!(auth.user_get(get("a")).await.unwrap().into_inner().roles, ["r1", "r2"]);
        let no_user = precondition("user name not found");
        let no_role = precondition("role name not found");
        assert_eq!(refusal(auth.user_get(get("x")).await.unwrap_err()), no_user);
        assert_eq!(refusal(auth.user_grant_role(grant("x", "r1")).await.unwrap_err()), no_user);
        assert_eq!(refusal(auth.user_grant_role(grant("a", "x")).await.unwrap_err()), no_role);
        let revoke =
            |name: &str, role: &str| pb::AuthUserRevokeRoleRequest { name: name.into(), role: role.into() };
        auth.user_revoke_role(revoke("a", "r1")).await.unwrap();
        let not_granted = precondition("role is not granted to the user");
        assert_eq!(refusal(auth.user_revoke_role(revoke("a", "r1")).await.unwrap_err()), not_granted);
        assert_eq!(refusal(auth.user_revoke_role(revoke("x", "r1")).await.unwrap_err()), no_user);
        let change = |name: &str| pb::AuthUserChangePasswordRequest {
            name: name.into(),
            password: "z".into(),
            ..Default::default()
        };
        auth.user_change_password(change("a")).await.unwrap();
        assert_eq!(refusal(auth.user_change_password(change("x")).await.unwrap_err()), no_user);
        let remove = |name: &str| pb::AuthUserDeleteRequest { name: name.into() };
        auth.user_delete(remove("a")).await.unwrap();
        assert_eq!(refusal(auth.user_delete(remove("a")).await.unwrap_err()), no_user);
    }

    pub(super) async fn roles(t: Target) {
        let mut auth = t.auth();
        auth.role_add(role("b")).await.unwrap();
        auth.role_add(role("a")).await.unwrap();
        let refused = refusal(auth.role_add(role("a")).await.unwrap_err());
        assert_eq!(refused, precondition("role name already exists"));
        let mut list = auth.role_list(pb::AuthRoleListRequest {}).await.unwrap().into_inner().roles;
        list.sort();
        assert_eq!(list, ["a", "b"]);
        for (kind, key, end) in [
            (Type::Read, "k2", "k3"),
            (Type::Write, "k1", ""),
            (Type::Read, "k4", "\0"),
            (Type::Readwrite, "k1", ""),
        ] {
            auth.role_grant_permission(permit("a", kind, key, end)).await.unwrap();
        }
        let get = |name: &str| pb::AuthRoleGetRequest { role: name.into() };
        let shown = auth.role_get(get("a")).await.unwrap().into_inner().perm;
        let shown: Vec<_> = shown.iter().map(|p| (p.perm_type(), &p.key[..], &p.range_end[..])).collect();
        assert_eq!(
            shown,
            [(Type::Readwrite, &b"k1"[..], &b""[..]), (Type::Read, b"k2", b"k3"), (Type::Read, b"k4", b"\0")]
        );
        let no_role = precondition("role name not found");
        assert_eq!(refusal(auth.role_get(get("x")).await.unwrap_err()), no_role);
        let refused = auth.role_grant_permission(permit("x", Type::Read, "k", "")).await;
        assert_eq!(refusal(refused.unwrap_err()), no_role);
        let revoke = |role: &str, key: &str, end: &str| pb::AuthRoleRevokePermissionRequest {
            role: role.into(),
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
        };
        auth.role_revoke_permission(revoke("a", "k2", "k3")).await.unwrap();
        let not_granted = precondition("permission is not granted to the role");
        let refused = auth.role_revoke_permission(revoke("a", "k2", "k3")).await;
        assert_eq!(refusal(refused.unwrap_err()), not_granted);
        let refused = auth.role_revoke_permission(revoke("x", "k2", "k3")).await;
        assert_eq!(refusal(refused.unwrap_err()), no_role);
        let remove = |name: &str| pb::AuthRoleDeleteRequest { role: name.into() };
        auth.user_add(user("u", "x")).await.unwrap();
        auth.user_grant_role(grant("u", "a")).await.unwrap();
        auth.role_delete(remove("a")).await.unwrap();
        assert_eq!(refusal(auth.role_delete(remove("a")).await.unwrap_err()), no_role);
        let u = auth.user_get(pb::AuthUserGetRequest { name: "u".into() }).await.unwrap().into_inner();
        assert_eq!(u.roles, [""; 0], "a deleted role is nobody's");
    }

    pub(super) async fn enabling_needs_root(t: Target) {
        let mut auth = t.auth();
        let enable = pb::AuthEnableRequest {};
        let refused = refusal(auth.auth_enable(enable).await.unwrap_err());
        assert_eq!(refused, precondition("root user does not exist"));
        auth.user_add(user("root", "r")).await.unwrap();
        let refused = refusal(auth.auth_enable(enable).await.unwrap_err());
        assert_eq!(refused, precondition("root user does not have root role"));
        let refused = login(&t, "root", "r").await.unwrap_err();
        assert_eq!(refused, precondition("authentication is not enabled"));
        // Disabling what is not enabled is no error.
        auth.auth_disable(pb::AuthDisableRequest {}).await.unwrap();
        auth.user_grant_role(grant("root", "root")).await.unwrap();
        auth.auth_enable(enable).await.unwrap();
        let token = login(&t, "root", "r").await.unwrap();
        auth.auth_enable(by(&token, enable)).await.unwrap();
        auth.auth_disable(by(&token, pb::AuthDisableRequest {})).await.unwrap();
        t.kv().put(put("k", "anybody may again")).await.unwrap();
    }

    pub(super) async fn tokens(t: Target) {
        let root = enabled(&t).await;
        let failed = invalid("authentication failed, invalid user ID or password");
        assert_eq!(login(&t, "root", "wrong").await.unwrap_err(), failed);
        assert_eq!(login(&t, "nobody", "r").await.unwrap_err(), failed);
        assert_eq!(refusal(t.kv().range(get("k")).await.unwrap_err()), invalid("user name is empty"));
        let unknown = (Code::Unauthenticated, "etcdserver: invalid auth token".to_owned());
        assert_eq!(refusal(t.kv().range(by("x.1", get("k"))).await.unwrap_err()), unknown);
        t.kv().put(by(&root, put("k", "v"))).await.unwrap();
        // A changed password ends the tokens given for the old one.
        t.auth().user_add(by(&root, user("u", "one"))).await.unwrap();
        t.auth().user_grant_role(by(&root, grant("u", "root"))).await.unwrap();
        let token = login(&t, "u", "one").await.unwrap();
        t.kv().range(by(&token, get("k"))).await.unwrap();
        let change = pb::AuthUserChangePasswordRequest {
            name: "u".into(),
            password: "two".into(),
            ..Default::default()
        };
        t.auth().user_change_password(by(&root, change)).await.unwrap();
        assert_eq!(refusal(t.kv().range(by(&token, get("k"))).await.unwrap_err()), unknown);
        assert_eq!(login(&t, "u", "one").await.unwrap_err(), failed);
        let token = login(&t, "u", "two").await.unwrap();
        t.kv().range(by(&token, get("k"))).await.unwrap();
        t.auth().user_delete(by(&root, pb::AuthUserDeleteRequest { name: "u".into() })).await.unwrap();
        assert_eq!(refusal(t.kv().range(by(&token, get("k"))).await.unwrap_err()), unknown);
    }

    /// A user with password `u` who reads [a, c), in two parts, and writes [b, d).
    async fn some_user(t: &Target, root: &str) -> String {
        let mut auth = t.auth();
        auth.user_add(by(root, user("u", "u"))).await.unwrap();
        auth.role_add(by(root, role("some"))).await.unwrap();
        for (kind, key, end) in [(Type::Read, "a", "b"), (Type::Read, "b", "c"), (Type::Write, "b", "d")] {
            auth.role_grant_permission(by(root, permit("some", kind, key, end))).await.unwrap();
        }
        auth.user_grant_role(by(root, grant("u", "some"))).await.unwrap();
        login(t, "u", "u").await.unwrap()
    }

    pub(super) async fn permissions(t: Target) {
        let root = enabled(&t).await;
        let token = some_user(&t, &root).await;
        let mut kv = t.kv();
        let range = |key, end: &str| pb::RangeRequest { range_end: end.to_owned().into(), ..get(key) };
        for (request, allowed) in [
            (get("a"), true),
            (range("a", "c"), true),
            (range("a", "d"), false),
            (range("a", "\0"), false),
            (get("c"), false),
        ] {
            let answer = kv.range(by(&token, request.clone())).await.map(drop).map_err(refusal);
            assert_eq!(answer, if allowed { Ok(()) } else { Err(denied()) }, "{request:?}");
        }
        let previous = |key| pb::PutRequest { prev_kv: true, ..put(key, "v") };
        for (request, allowed) in [
            (put("a", "v"), false),
            (put("b", "v"), true),
            (previous("b"), true),
            (put("c", "v"), true),
            (previous("c"), false),
        ] {
            let answer = kv.put(by(&token, request.clone())).await.map(drop).map_err(refusal);
            assert_eq!(answer, if allowed { Ok(()) } else { Err(denied()) }, "{request:?}");
        }
        for (key, end, allowed) in [("b", "d", true), ("a", "", false), ("c", "e", false)] {
            let request = pb::DeleteRangeRequest { range_end: end.to_owned().into(), ..delete(key) };
            let answer = kv.delete_range(by(&token, request)).await.map(drop).map_err(refusal);
            assert_eq!(answer, if allowed { Ok(()) } else { Err(denied()) }, "{key} {end}");
        }
        // A transaction needs what both its branches need.
        use pb::request_op::Request as Op;
        let txn = |failure| pb::TxnRequest {
            success: vec![op(Op::RequestPut(put("b", "v")))],
            failure: vec![op(failure)],
            ..Default::default()
        };
        kv.txn(by(&token, txn(Op::RequestRange(get("a"))))).await.unwrap();
        let refused = kv.txn(by(&token, txn(Op::RequestRange(get("d"))))).await;
        assert_eq!(refusal(refused.unwrap_err()), denied());
        // What a role gains or loses binds from the next call on.
        let mut auth = t.auth();
        auth.role_grant_permission(by(&root, permit("some", Type::Read, "x", "y"))).await.unwrap();
        kv.range(by(&token, prefix("x"))).await.unwrap();
        let revoke = pb::AuthRoleRevokePermissionRequest {
            role: "some".into(),
            key: "x".into(),
            range_end: "y".into(),
        };
        auth.role_revoke_permission(by(&root, revoke)).await.unwrap();
        assert_eq!(refusal(kv.range(by(&token, prefix("x"))).await.unwrap_err()), denied());
    }

    pub(super) async fn permissions_of_leases_and_watches(t: Target) {
        let root = enabled(&t).await;
        let token = some_user(&t, &root).await;
        let (mut kv, mut lease) = (t.kv(), t.lease());
        let grant = |id| pb::LeaseGrantRequest { ttl: 100, id };
        for id in [1, 2] {
            lease.lease_grant(by(&token, grant(id))).await.unwrap();
        }
        let attach = |key, lease| pb::PutRequest { lease, ..put(key, "v") };
        kv.put(by(&token, attach("b", 1))).await.unwrap();
        kv.put(by(&root, attach("secret", 2))).await.unwrap();
        // The end of lease 2 would delete what the user must not write.
        let revoke = |id| pb::LeaseRevokeRequest { id };
        assert_eq!(refusal(lease.lease_revoke(by(&token, revoke(2))).await.unwrap_err()), denied());
        assert_eq!(refusal(kv.put(by(&token, attach("b", 2))).await.unwrap_err()), denied());
        lease.lease_revoke(by(&token, revoke(1))).await.unwrap();
        for (key, allowed) in [("a", true), ("secret", false)] {
            let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
            let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            sender.send(create).await.unwrap();
            let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let mut watch = t.watch().watch(by(&token, requests)).await.unwrap().into_inner();
            let first = watch.message().await.unwrap().unwrap();
            assert_eq!((first.created, first.canceled), (true, !allowed), "{key}");
            let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
            assert_eq!(first.cancel_reason, if allowed { "" } else { reason });
        }
    }

    pub(super) async fn root_stays(t: Target) {
        let root = enabled(&t).await;
        let mut auth = t.auth();
        let kept = invalid("invalid auth management");
        let name = || "root".to_owned();
        let refused = auth.user_delete(by(&root, pb::AuthUserDeleteRequest { name: name() })).await;
        assert_eq!(refusal(refused.unwrap_err()), kept);
        let refused = auth.role_delete(by(&root, pb::AuthRoleDeleteRequest { role: name() })).await;
        assert_eq!(refusal(refused.unwrap_err()), kept);
        let revoke = pb::AuthUserRevokeRoleRequest { name: name(), role: name() };
        assert_eq!(refusal(auth.user_revoke_role(by(&root, revoke)).await.unwrap_err()), kept);
        let shown = auth.role_get(by(&root, pb::AuthRoleGetRequest { role: name() })).await.unwrap();
        // It can do everything without being given it.
        assert_eq!(shown.get_ref().perm, []);
    }

    pub(super) async fn administration_is_roots(t: Target) {
        let root = enabled(&t).await;
        let token = some_user(&t, &root).await;
        let mut auth = t.auth();
        let get = |name: &str| pb::AuthUserGetRequest { name: name.into() };
        assert_eq!(auth.user_get(by(&token, get("u"))).await.unwrap().into_inner().roles, ["some"]);
        assert_eq!(refusal(auth.user_get(by(&token, get("root"))).await.unwrap_err()), denied());
        let get = |role: &str| pb::AuthRoleGetRequest { role: role.into() };
        assert_eq!(auth.role_get(by(&token, get("some"))).await.unwrap().into_inner().perm.len(), 3);
        assert_eq!(refusal(auth.role_get(by(&token, get("root"))).await.unwrap_err()), denied());
        assert_eq!(refusal(auth.user_add(by(&token, user("v", "v"))).await.unwrap_err()), denied());
        let refused = auth.user_list(by(&token, pb::AuthUserListRequest {})).await;
        assert_eq!(refusal(refused.unwrap_err()), denied());
        let refused = auth.auth_disable(by(&token, pb::AuthDisableRequest {})).await;
        assert_eq!(refusal(refused.unwrap_err()), denied());
        // Here etcd 3.4 sends the bare text, with a code that says nothing.
        let denied = |status: Option<tonic::Status>| {
            let text = status.map(|status| status.message().to_owned());
            assert!(text.as_ref().is_some_and(|text| text.ends_with(": permission denied")), "{text:?}");
        };
        denied(t.maintenance().hash(by(&token, pb::HashRequest {})).await.err());
        denied(t.maintenance().hash_kv(by(&token, pb::HashKvRequest { revision: 0 })).await.err());
        denied(t.maintenance().defragment(by(&token, pb::DefragmentRequest {})).await.err());
        denied(match t.maintenance().snapshot(by(&token, pb::SnapshotRequest {})).await {
            Err(status) => Some(status),
            Ok(mut stream) => stream.get_mut().message().await.err(),
        });
        // Who is nobody may still ask who leads.
        t.maintenance().status(pb::StatusRequest {}).await.unwrap();
    }
}
