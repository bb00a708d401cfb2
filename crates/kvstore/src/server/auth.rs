//! `etcdserverpb.Auth`: users, roles and passwords.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::access::{Access, Caller, caller};
use crate::auth::{Action, Auth, Permission};
use crate::{Error, Store, pb};

/// Longest password and longest name taken, bytes. What is longer would only cost hashing.
const LONGEST: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct AuthService {
    pub(super) store: Store,
}

type Answer<T> = Result<Response<T>, Status>;

/// The users of the server, for a caller who may administer them.
fn administered<T>(request: &Request<T>) -> Result<Access, Status> {
    let caller = caller(request)?;
    caller.administer()?;
    Ok(caller.access().clone())
}

/// The users of the server as they are, for a caller who may see them all, or just `own`.
fn visible<T>(request: &Request<T>, own: impl Fn(&Auth, &Caller) -> bool) -> Result<Arc<Auth>, Status> {
    let caller = caller(request)?;
    let auth = caller.access().auth();
    caller.inspect().or_else(|denied| if own(&auth, caller) { Ok(()) } else { Err(denied) })?;
    Ok(auth)
}

fn short(texts: &[&str]) -> Result<(), Status> {
    match texts.iter().all(|text| text.len() <= LONGEST) {
        true => Ok(()),
        false => Err(Error::RequestTooLarge.into()),
    }
}

#[tonic::async_trait]
impl pb::auth_server::Auth for AuthService {
    async fn auth_enable(&self, request: Request<pb::AuthEnableRequest>) -> Answer<pb::AuthEnableResponse> {
        administered(&request)?.change(Auth::enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header: Some(self.store.header()) }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Answer<pb::AuthDisableResponse> {
        administered(&request)?.change(Auth::disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header: Some(self.store.header()) }))
    }

    async fn auth_status(&self, request: Request<pb::AuthStatusRequest>) -> Answer<pb::AuthStatusResponse> {
        let auth = visible(&request, |_, _| false)?;
        let (enabled, auth_revision) = (auth.enabled(), auth.revision());
        let header = Some(self.store.header());
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Answer<pb::AuthenticateResponse> {
        let access = caller(&request)?.access().clone();
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        short(&[&name, &password])?;
        let token = access.authenticate(&name, password).await?;
        Ok(Response::new(pb::AuthenticateResponse { header: Some(self.store.header()), token }))
    }

    async fn user_add(&self, request: Request<pb::AuthUserAddRequest>) -> Answer<pb::AuthUserAddResponse> {
        let access = administered(&request)?;
        let pb::AuthUserAddRequest { name, password, options, .. } = request.into_inner();
        short(&[&name, &password])?;
        let hash = match options.is_some_and(|options| options.no_password) {
            true => None,
            false => Some(access.hash(password).await),
        };
        access.change(|auth| auth.user_add(&name, hash)).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header: Some(self.store.header()) }))
    }

    async fn user_get(&self, request: Request<pb::AuthUserGetRequest>) -> Answer<pb::AuthUserGetResponse> {
        let name = &request.get_ref().name;
        let auth = visible(&request, |_, caller| caller.name() == Some(name))?;
        let roles = auth.user(name)?.roles.iter().cloned().collect();
        Ok(Response::new(pb::AuthUserGetResponse { header: Some(self.store.header()), roles }))
    }

    async fn user_list(&self, request: Request<pb::AuthUserListRequest>) -> Answer<pb::AuthUserListResponse> {
        let users = visible(&request, |_, _| false)?.users().map(str::to_owned).collect();
        Ok(Response::new(pb::AuthUserListResponse { header: Some(self.store.header()), users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Answer<pb::AuthUserDeleteResponse> {
        administered(&request)?.change(|auth| auth.user_delete(&request.get_ref().name)).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header: Some(self.store.header()) }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Answer<pb::AuthUserChangePasswordResponse> {
        let access = administered(&request)?;
        let pb::AuthUserChangePasswordRequest { name, password, .. } = request.into_inner();
        short(&[&name, &password])?;
        let hash = access.hash(password).await;
        access.change(|auth| auth.user_change_password(&name, Some(hash))).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header: Some(self.store.header()) }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Answer<pb::AuthUserGrantRoleResponse> {
        let pb::AuthUserGrantRoleRequest { user, role } = request.get_ref();
        administered(&request)?.change(|auth| auth.user_grant_role(user, role)).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header: Some(self.store.header()) }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Answer<pb::AuthUserRevokeRoleResponse> {
        let pb::AuthUserRevokeRoleRequest { name, role } = request.get_ref();
        administered(&request)?.change(|auth| auth.user_revoke_role(name, role)).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header: Some(self.store.header()) }))
    }

    async fn role_add(&self, request: Request<pb::AuthRoleAddRequest>) -> Answer<pb::AuthRoleAddResponse> {
        short(&[&request.get_ref().name])?;
        administered(&request)?.change(|auth| auth.role_add(&request.get_ref().name)).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header: Some(self.store.header()) }))
    }

    async fn role_get(&self, request: Request<pb::AuthRoleGetRequest>) -> Answer<pb::AuthRoleGetResponse> {
        let role = &request.get_ref().role;
        let auth = visible(&request, |auth, caller| {
            caller.name().is_some_and(|name| auth.user(name).is_ok_and(|user| user.roles.contains(role)))
        })?;
        let perm = auth.role(role)?.iter().map(shown).collect();
        Ok(Response::new(pb::AuthRoleGetResponse { header: Some(self.store.header()), perm }))
    }

    async fn role_list(&self, request: Request<pb::AuthRoleListRequest>) -> Answer<pb::AuthRoleListResponse> {
        let roles = visible(&request, |_, _| false)?.roles().map(str::to_owned).collect();
        Ok(Response::new(pb::AuthRoleListResponse { header: Some(self.store.header()), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Answer<pb::AuthRoleDeleteResponse> {
        administered(&request)?.change(|auth| auth.role_delete(&request.get_ref().role)).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header: Some(self.store.header()) }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Answer<pb::AuthRoleGrantPermissionResponse> {
        let access = administered(&request)?;
        let pb::AuthRoleGrantPermissionRequest { name, perm } = request.into_inner();
        let perm = perm.ok_or(Error::PermissionNotGiven)?;
        let action = match perm.perm_type() {
            pb::permission::Type::Read => Action::Read,
            pb::permission::Type::Write => Action::Write,
            pb::permission::Type::Readwrite => Action::ReadWrite,
        };
        let permission = Permission { key: perm.key.into(), range_end: perm.range_end.into(), action };
        access.change(|auth| auth.role_grant(&name, permission)).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header: Some(self.store.header()) }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Answer<pb::AuthRoleRevokePermissionResponse> {
        let pb::AuthRoleRevokePermissionRequest { role, key, range_end } = request.get_ref();
        administered(&request)?.change(|auth| auth.role_revoke(role, key, range_end)).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header: Some(self.store.header()) }))
    }
}

fn shown(permission: &Permission) -> pb::Permission {
    let perm_type = match permission.action {
        Action::Read => pb::permission::Type::Read,
        Action::Write => pb::permission::Type::Write,
        Action::ReadWrite => pb::permission::Type::Readwrite,
    };
    pb::Permission {
        perm_type: perm_type as i32,
        key: permission.key.clone().into(),
        range_end: permission.range_end.clone().into(),
    }
}
