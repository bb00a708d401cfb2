//! Users, roles and what they may do: a plain state without clock, socket or lock.
//!
//! [`server::Access`](crate::server::Access) holds one and asks it what a connected user may do;
//! the `Auth` service and the daemon change it. It can be serialised, so that it can be kept.

mod grant;
mod password;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Error, KeyRange};
pub(crate) use grant::Grant;
pub use password::PasswordHash;
pub(crate) use tokens::Tokens;

/// The user without whom authentication cannot be enabled, and the role that may do everything.
pub const ROOT: &str = "root";

/// What a permission allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Reading and watching.
    Read,
    /// Writing and deleting.
    Write,
    /// Both.
    ReadWrite,
}

/// What a role allows inside one range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// First key.
    pub key: Vec<u8>,
    /// As in a range request: empty = the one key, one zero byte = everything from `key` on.
    pub range_end: Vec<u8>,
    /// What is allowed.
    pub action: Action,
}

impl Permission {
    /// A permission for a range.
    pub fn new(action: Action, range: &KeyRange) -> Self {
        Self { key: range.start().to_vec(), range_end: range.range_end().to_vec(), action }
    }

    fn range(&self) -> KeyRange {
        KeyRange::new(self.key.clone().into(), self.range_end.clone().into())
    }

    fn place(&self) -> (&[u8], &[u8]) {
        (&self.key, &self.range_end)
    }
}

/// A user. One without a password is known by certificate only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// How to recognise the password.
    pub password: Option<PasswordHash>,
    /// Names of the roles, in order.
    pub roles: BTreeSet<String>,
}

/// Users and roles, with etcd's rules for changing them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    enabled: bool,
    /// Counts the changes, from 1.
    revision: u64,
    users: BTreeMap<String, User>,
    /// The permissions of each role, in order of their ranges.
    roles: BTreeMap<String, Vec<Permission>>,
}

impl Default for Auth {
    /// Nobody is known and everybody may do everything, as in a new etcd.
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl Auth {
    /// Whether callers must be known.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The names of all users, in order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The names of all roles, in order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// A user.
    ///
    /// # Errors
    /// [`Error::UserNotFound`].
    pub fn user(&self, name: &str) -> Result<&User, Error> {
        self.users.get(name).ok_or(Error::UserNotFound)
    }

    /// The permissions of a role, in order of their ranges.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`].
    pub fn role(&self, name: &str) -> Result<&[Permission], Error> {
        self.roles.get(name).map(Vec::as_slice).ok_or(Error::RoleNotFound)
    }

    /// What a user may do; everything while authentication is disabled.
    ///
    /// # Errors
    /// [`Error::UserEmpty`] without a user, [`Error::PermissionDenied`] for one that is not known.
    pub(crate) fn grant(&self, user: Option<&str>) -> Result<Grant, Error> {
        if !self.enabled {
            return Ok(Grant::all());
        }
        let user = self.users.get(user.ok_or(Error::UserEmpty)?).ok_or(Error::PermissionDenied)?;
        Ok(self.grant_of_roles(user.roles.iter().map(String::as_str)))
    }

    /// What somebody with these roles may do.
    pub(crate) fn grant_of_roles<'a>(&self, roles: impl Iterator<Item = &'a str>) -> Grant {
        let mut grant = Grant::default();
        for role in roles {
            if role == ROOT {
                return Grant::all();
            }
            for permission in self.roles.get(role).into_iter().flatten() {
                grant.add(permission.action, permission.range());
            }
        }
        grant
    }

    /// Demands that callers be known from now on.
    ///
    /// # Errors
    /// [`Error::RootUserNotExist`], [`Error::RootRoleNotExist`]: nobody could undo it.
    pub fn enable(&mut self) -> Result<(), Error> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(Error::RootUserNotExist)?;
        if !root.roles.contains(ROOT) {
            return Err(Error::RootRoleNotExist);
        }
        self.enforce()
    }

    /// The same, even if no user may administer: for a daemon that changes users by itself.
    pub fn enforce(&mut self) -> Result<(), Error> {
        if self.enabled {
            return Ok(());
        }
        self.enabled = true;
        self.changed()
    }

    /// Lets everybody do everything.
    pub fn disable(&mut self) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        self.enabled = false;
        self.changed()
    }

    /// Adds a user without roles.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::UserExists`].
    pub fn user_add(&mut self, name: &str, password: Option<PasswordHash>) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(Error::UserExists);
        }
        self.users.insert(name.to_owned(), User { password, roles: BTreeSet::new() });
        self.changed()
    }

    /// Removes a user.
    ///
    /// # Errors
    /// [`Error::UserNotFound`]; [`Error::InvalidAuthManagement`] for `root` while enabled.
    pub fn user_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(Error::UserNotFound)?;
        self.changed()
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// [`Error::UserNotFound`].
    pub fn user_change_password(&mut self, name: &str, password: Option<PasswordHash>) -> Result<(), Error> {
        self.users.get_mut(name).ok_or(Error::UserNotFound)?.password = password;
        self.changed()
    }

    /// Gives a user a role; one that has it keeps it.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::RoleNotFound`].
    pub fn user_grant_role(&mut self, name: &str, role: &str) -> Result<(), Error> {
        let user = self.users.get_mut(name).ok_or(Error::UserNotFound)?;
        // The role `root` is there even if nobody has added it.
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(Error::RoleNotFound);
        }
        if user.roles.insert(role.to_owned()) { self.changed() } else { Ok(()) }
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::RoleNotGranted`]; [`Error::InvalidAuthManagement`] for
    /// `root` of `root` while enabled.
    pub fn user_revoke_role(&mut self, name: &str, role: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let user = self.users.get_mut(name).ok_or(Error::UserNotFound)?;
        if !user.roles.remove(role) {
            return Err(Error::RoleNotGranted);
        }
        self.changed()
    }

    /// Adds a role without permissions.
    ///
    /// # Errors
    /// [`Error::RoleEmpty`], [`Error::RoleExists`].
    pub fn role_add(&mut self, name: &str) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(Error::RoleExists);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.changed()
    }

    /// Removes a role, and takes it from all who have it.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`]; [`Error::InvalidAuthManagement`] for `root` while enabled.
    pub fn role_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(Error::RoleNotFound)?;
        for user in self.users.values_mut() {
            user.roles.remove(name);
        }
        self.changed()
    }

    /// Adds a permission to a role, or changes what it allows in a range it has.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`].
    pub fn role_grant(&mut self, name: &str, permission: Permission) -> Result<(), Error> {
        let permissions = self.roles.get_mut(name).ok_or(Error::RoleNotFound)?;
        match permissions.binary_search_by(|p| p.place().cmp(&permission.place())) {
            Ok(at) if permissions[at] == permission => return Ok(()),
            Ok(at) => permissions[at] = permission,
            Err(at) => permissions.insert(at, permission),
        }
        self.changed()
    }

    /// Takes the permission for exactly this range from a role.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`], [`Error::PermissionNotGranted`].
    pub fn role_revoke(&mut self, name: &str, key: &[u8], range_end: &[u8]) -> Result<(), Error> {
        let permissions = self.roles.get_mut(name).ok_or(Error::RoleNotFound)?;
        let before = permissions.len();
        permissions.retain(|p| p.place() != (key, range_end));
        if permissions.len() == before {
            return Err(Error::PermissionNotGranted);
        }
        self.changed()
    }

    fn changed(&mut self) -> Result<(), Error> {
        self.revision += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
