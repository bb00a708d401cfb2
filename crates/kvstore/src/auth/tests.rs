use super::*;

fn permission(action: Action, key: &str, range_end: &str) -> Permission {
    Permission { key: key.into(), range_end: range_end.into(), action }
}

fn range(key: &'static str, end: &'static str) -> KeyRange {
    KeyRange::new(key.into(), end.into())
}

/// `root`, and a reader of a/ and b/ who writes c.
fn enabled() -> Auth {
    let mut auth = Auth::default();
    auth.user_add(ROOT, None).unwrap();
    auth.user_grant_role(ROOT, ROOT).unwrap();
    auth.role_add("some").unwrap();
    auth.role_grant("some", permission(Action::Read, "b/", "c")).unwrap();
    auth.role_grant("some", permission(Action::Read, "a/", "b/")).unwrap();
    auth.role_grant("some", permission(Action::ReadWrite, "c", "")).unwrap();
    auth.user_add("u", None).unwrap();
    auth.user_grant_role("u", "some").unwrap();
    auth.enable().unwrap();
    auth
}

#[test]
fn a_grant_is_the_union_of_the_permissions() {
    let mut auth = enabled();
    let grant = auth.grant(Some("u")).unwrap();
    assert_eq!(grant.read(&range("a/x", "b/y")), Ok(()), "two ranges that adjoin");
    assert_eq!(grant.read(&range("a/", "\0")), Err(Error::PermissionDenied));
    assert_eq!((grant.write(&range("c", "")), grant.lease()), (Ok(()), Ok(())));
    assert_eq!(grant.write(&range("a/x", "")), Err(Error::PermissionDenied));
    assert_eq!(grant.administer(), Err(Error::PermissionDenied));
    assert_eq!(auth.grant(Some(ROOT)).unwrap().administer(), Ok(()));
    assert_eq!(auth.grant(None), Err(Error::UserEmpty));
    assert_eq!(auth.grant(Some("nobody")), Err(Error::PermissionDenied));
    auth.disable().unwrap();
    assert_eq!(auth.grant(None).unwrap().administer(), Ok(()));
}

#[test]
fn root_cannot_be_locked_out() {
    let mut auth = Auth::default();
    assert_eq!(auth.enable(), Err(Error::RootUserNotExist));
    auth.user_add(ROOT, None).unwrap();
    assert_eq!(auth.enable(), Err(Error::RootRoleNotExist));
    let mut auth = enabled();
    let before = auth.clone();
    for refused in [auth.user_delete(ROOT), auth.user_revoke_role(ROOT, ROOT), auth.role_delete(ROOT)] {
        assert_eq!(refused, Err(Error::InvalidAuthManagement));
    }
    assert_eq!(auth, before);
    auth.disable().unwrap();
    auth.user_delete(ROOT).unwrap();
}

#[test]
fn a_deleted_role_is_nobodys() {
    let mut auth = enabled();
    auth.role_delete("some").unwrap();
    assert_eq!(auth.user("u").unwrap().roles.len(), 0);
    auth.role_add("some").unwrap();
    auth.role_grant("some", permission(Action::Read, "a", "")).unwrap();
    assert_eq!(auth.grant(Some("u")).unwrap().read(&range("a", "")), Err(Error::PermissionDenied));
}

#[test]
fn a_permission_is_found_by_its_range() {
    let mut auth = enabled();
    let revision = auth.revision();
    auth.role_grant("some", permission(Action::Write, "c", "")).unwrap();
    assert_eq!(auth.role("some").unwrap().len(), 3, "changed, not added");
    assert_eq!(auth.revision(), revision + 1);
    assert_eq!(auth.role_revoke("some", b"c", b"d"), Err(Error::PermissionNotGranted));
    auth.role_revoke("some", b"c", b"").unwrap();
    let keys: Vec<_> = auth.role("some").unwrap().iter().map(|p| &p.key[..]).collect();
    assert_eq!(keys, [b"a/", b"b/"]);
}

#[test]
fn it_survives_being_kept() {
    let mut auth = enabled();
    auth.role_grant("some", permission(Action::Read, "\u{7f}", "\0")).unwrap();
    let kept: Auth = serde_json::from_str(&serde_json::to_string(&auth).unwrap()).unwrap();
    assert_eq!(kept, auth);
}
