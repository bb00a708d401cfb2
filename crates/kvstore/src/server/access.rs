//! Who may do what: the users of a server, and what one connected user may do now.
//!
//! [`Access`] is shared by all connections and may be changed at any time, by the `Auth` service as
//! by the daemon. A [`Caller`] is one connection's (or one token's) user; it remembers what was
//! decided and decides again when anything has changed, so that the price of a call is one load.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::auth::{Auth, Grant, PasswordHash, Tokens};
use crate::{Error, KeyRange, Store};

/// Passwords being hashed at a time: callers nobody knows yet must not take every processor.
const HASHING: usize = 1;

/// The users of a server and what they may do. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Access(Arc<Shared>);

struct Shared {
    auth: watch::Sender<Arc<Auth>>,
    /// [`Auth::revision`], readable without a lock.
    revision: AtomicU64,
    tokens: std::sync::Mutex<Tokens>,
    /// One change at a time, so that the kept ones have the order of those made.
    changing: Arc<Mutex<()>>,
    /// Where every change is kept.
    kept: Option<Store>,
    hashing: Semaphore,
    derive: Option<Box<Derive>>,
}

/// Users and roles that were kept, but cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the users and roles kept in the store cannot be read: {0}; open it with the version that wrote it")]
pub struct KeptAuth(#[from] serde_json::Error);

type Derive = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Access {
    /// Everyone may do everything, until someone enables authentication.
    pub fn open() -> Self {
        Self::new(Auth::default())
    }

    /// Users and roles to begin with.
    pub fn new(auth: Auth) -> Self {
        Self::build(auth, None, None)
    }

    /// Users and roles as `store` has kept them, or `auth` if it never has; every change is kept
    /// in it before it is answered.
    ///
    /// # Errors
    /// [`KeptAuth`] when a later version has kept them.
    pub fn kept_in(store: &Store, auth: Auth) -> Result<Self, KeptAuth> {
        let kept = store.auth().map(|kept| serde_json::from_slice(&kept)).transpose()?;
        Ok(Self::build(kept.unwrap_or(auth), None, Some(store.clone())))
    }

    /// The same; and who is no user, but for whose name `role` gives a role, is treated as a user
    /// with that role. For users that are too many, or not known, to be listed.
    pub fn deriving(auth: Auth, role: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::build(auth, Some(Box::new(role)), None)
    }

    fn build(auth: Auth, derive: Option<Box<Derive>>, kept: Option<Store>) -> Self {
        Self(Arc::new(Shared {
            revision: AtomicU64::new(auth.revision()),
            auth: watch::Sender::new(Arc::new(auth)),
            tokens: Default::default(),
            changing: Arc::default(),
            kept,
            hashing: Semaphore::new(HASHING),
            derive,
        }))
    }

    /// Users and roles as they are now.
    pub fn auth(&self) -> Arc<Auth> {
        self.0.auth.borrow().clone()
    }

    /// Follows every change of users and roles.
    pub fn changes(&self) -> watch::Receiver<Arc<Auth>> {
        self.0.auth.subscribe()
    }

    /// Changes users and roles; all of the change, or nothing where it fails. Who is connected is
    /// bound by it from the next call on, and a running watch ends if it is no longer allowed.
    ///
    /// # Errors
    /// Those of `change`, and those of the log of a durable store that keeps them.
    pub async fn change<T>(&self, change: impl FnOnce(&mut Auth) -> Result<T, Error>) -> Result<T, Error> {
        let turn = self.0.changing.clone().lock_owned().await;
        let mut next = Auth::clone(&self.auth());
        let result = change(&mut next)?;
        match &self.0.kept {
            _ if next == *self.auth() => {}
            None => self.set(next),
            Some(store) => {
                let kept = serde_json::to_vec(&next).expect("users and roles are plain data");
                let kept = store.staged().keep_auth(kept.into());
                let access = self.clone();
                // Whoever asked for it may go away meanwhile; what is kept is also what is true.
                let change = tokio::spawn(async move {
                    let _turn = turn;
                    kept.done().await?;
                    access.set(next);
                    Ok(())
                });
                change.await.unwrap_or(Err(Error::LogFailed))?;
            }
        }
        Ok(result)
    }

    fn set(&self, next: Auth) {
        self.0.auth.send_modify(|current| {
            // A password that was taken or changed ends the sessions opened with it.
            let password = |auth: &Auth, user: &str| auth.user(user).ok().map(|u| u.password.clone());
            self.tokens().keep(|user| {
                next.enabled()
                    && password(&next, user).is_some_and(|now| password(current, user) == Some(now))
            });
            self.0.revision.store(next.revision(), Ordering::Release);
            *current = Arc::new(next);
        });
    }

    /// Exchanges a password for a token.
    pub(super) async fn authenticate(&self, user: &str, password: String) -> Result<String, Error> {
        let auth = self.auth();
        if !auth.enabled() {
            return Err(Error::AuthNotEnabled);
        }
        let known = auth.user(user).ok().and_then(|user| user.password.clone());
        let hash = known.ok_or(Error::AuthFailed)?;
        let tried = hash.clone();
        if !self.hashing(move || tried.verify(&password)).await {
            return Err(Error::AuthFailed);
        }
        // Held while the token is given: a change of the password meanwhile must not be missed.
        let current = self.0.auth.borrow();
        if !current.user(user).is_ok_and(|now| now.password.as_ref() == Some(&hash)) {
            return Err(Error::AuthFailed);
        }
        Ok(self.tokens().give(user, Instant::now()))
    }

    /// Hashes a new password.
    pub(super) async fn hash(&self, password: String) -> PasswordHash {
        self.hashing(move || PasswordHash::new(&password)).await
    }

    async fn hashing<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _turn = self.0.hashing.acquire().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(work).await.expect("hashing does not panic")
    }

    /// The user of a connection, by the common name of its certificate if it has one.
    pub(super) fn caller(&self, common_name: Option<&str>) -> Arc<Caller> {
        let user = Ok(common_name.map(str::to_owned));
        Arc::new(Caller { decided: ArcSwap::from_pointee(self.decide(&user)), user, access: self.clone() })
    }

    fn decide(&self, user: &Result<Option<String>, Error>) -> Decided {
        let auth = self.auth();
        let grant = match (user, &self.0.derive) {
            (Err(error), _) if auth.enabled() => Err(*error),
            (Ok(Some(name)), Some(derive)) if auth.enabled() && auth.user(name).is_err() => derive(name)
                .map(|role| auth.grant_of_roles([role.as_str()].into_iter()))
                .ok_or(Error::PermissionDenied),
            (user, _) => auth.grant(user.as_ref().ok().and_then(|user| user.as_deref())),
        };
        Decided { revision: auth.revision(), grant }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.0.tokens.lock().expect("nothing panics while it is held")
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Access").field(&*self.0.auth.borrow()).finish()
    }
}

/// Somebody who calls, and what they may do.
#[derive(Debug)]
pub(super) struct Caller {
    access: Access,
    /// The name, `None` for nobody in particular, or why the token is no good.
    user: Result<Option<String>, Error>,
    decided: ArcSwap<Decided>,
}

/// What was decided at a revision of the users and roles.
#[derive(Debug)]
struct Decided {
    revision: u64,
    grant: Result<Grant, Error>,
}

impl Caller {
    /// Who makes a request on this caller's connection, where a token in its headers says that it
    /// is another; a token goes before a certificate.
    pub(super) fn by_token(&self, headers: &HeaderMap) -> Option<Arc<Self>> {
        // Almost no request has one, and while authentication is disabled none is looked at.
        let token = headers.get("token").or_else(|| headers.get("authorization"))?;
        if !self.access.auth().enabled() {
            return None;
        }
        let token = token.to_str().unwrap_or_default();
        let user = self.access.tokens().user(token, Instant::now()).map(|user| Some(user.to_owned()));
        let user = user.ok_or(Error::InvalidAuthToken);
        let decided = ArcSwap::from_pointee(self.access.decide(&user));
        Some(Arc::new(Self { access: self.access.clone(), user, decided }))
    }

    /// The users of the server called.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// The caller's name, if known.
    pub(super) fn name(&self) -> Option<&str> {
        self.user.as_ref().ok()?.as_deref()
    }

    fn ask(&self, question: impl FnOnce(&Grant) -> Result<(), Error>) -> Result<(), Error> {
        let decided = self.decided.load();
        if decided.revision == self.access.0.revision.load(Ordering::Acquire) {
            return question(decided.grant.as_ref().map_err(|error| *error)?);
        }
        let decided = Arc::new(self.access.decide(&self.user));
        self.decided.store(decided.clone());
        question(decided.grant.as_ref().map_err(|error| *error)?)
    }

    /// Refuses a read that is not wholly allowed.
    pub(super) fn read(&self, range: &KeyRange) -> Result<(), Error> {
        self.ask(|grant| grant.read(range))
    }

    /// Refuses a write that is not wholly allowed.
    pub(super) fn write(&self, range: &KeyRange) -> Result<(), Error> {
        self.ask(|grant| grant.write(range))
    }

    /// Refuses a watch; whatever the reason is, etcd calls it a lack of permission.
    pub(super) fn watch(&self, range: &KeyRange) -> Result<(), Error> {
        self.read(range).map_err(|_| Error::PermissionDenied)
    }

    /// Refuses those who may write nothing: leases are writers' tools.
    pub(super) fn lease(&self) -> Result<(), Error> {
        self.ask(Grant::lease)
    }

    /// Refuses a lease with keys that the user may not write, since its end deletes them.
    pub(super) fn writes_all(&self, keys: &[bytes::Bytes]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| self.write(&KeyRange::single(key.clone())))
    }

    /// Refuses a lease with keys that the user may not read.
    pub(super) fn reads_all(&self, keys: &[bytes::Bytes]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| self.read(&KeyRange::single(key.clone())))
    }

    /// Refuses those who may not read everything. Users, roles and snapshots hold no more than that
    /// (no passwords); etcd shows them to administrators only.
    pub(super) fn inspect(&self) -> Result<(), Error> {
        self.ask(Grant::inspect)
    }

    /// Refuses all but those who may do everything.
    pub(super) fn administer(&self) -> Result<(), Error> {
        self.ask(Grant::administer)
    }
}

/// The caller of a request to one of tonic's services; the connection has put it there.
pub(super) fn caller<T>(request: &tonic::Request<T>) -> Result<&Arc<Caller>, tonic::Status> {
    request.extensions().get().ok_or_else(|| tonic::Status::internal("the request has no caller"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Action, Permission, ROOT};

    fn seeded() -> Auth {
        let mut auth = Auth::default();
        auth.user_add(ROOT, None).unwrap();
        auth.user_grant_role(ROOT, ROOT).unwrap();
        auth.role_add("reader").unwrap();
        auth.role_grant("reader", Permission::new(Action::Read, &KeyRange::prefix("a/"))).unwrap();
        auth.user_add("u", None).unwrap();
        auth.user_grant_role("u", "reader").unwrap();
        auth.enable().unwrap();
        auth
    }

    #[tokio::test]
    async fn a_connected_caller_follows_changes() {
        let access = Access::new(seeded());
        let (caller, key) = (access.caller(Some("u")), KeyRange::single("a/1"));
        assert_eq!(caller.read(&key), Ok(()));
        access.change(|auth| auth.user_revoke_role("u", "reader")).await.unwrap();
        assert_eq!(caller.read(&key), Err(Error::PermissionDenied));
        access.change(|auth| auth.user_grant_role("u", "reader")).await.unwrap();
        assert_eq!(caller.read(&key), Ok(()));
        access.change(|auth| auth.user_delete("u")).await.unwrap();
        assert_eq!([caller.read(&key), caller.watch(&key)], [Err(Error::PermissionDenied); 2]);
        assert_eq!(access.caller(None).read(&key), Err(Error::UserEmpty));
        access.change(Auth::disable).await.unwrap();
        assert_eq!(caller.administer(), Ok(()));
    }

    #[tokio::test]
    async fn a_failed_change_changes_nothing() {
        let access = Access::new(seeded());
        let before = access.auth();
        let failed = access.change(|auth| {
            auth.user_delete("u")?;
            auth.user_delete("nobody")
        });
        let failed = failed.await;
        assert_eq!((failed, access.auth()), (Err(Error::UserNotFound), before));
    }

    #[test]
    fn users_can_be_derived_from_names() {
        let access = Access::deriving(seeded(), |name| name.strip_prefix("r-").map(|_| "reader".into()));
        let key = KeyRange::single("a/1");
        assert_eq!(access.caller(Some("r-1")).read(&key), Ok(()));
        assert_eq!(access.caller(Some("r-1")).write(&key), Err(Error::PermissionDenied));
        assert_eq!(access.caller(Some("x")).read(&key), Err(Error::PermissionDenied));
    }

    #[tokio::test]
    async fn a_token_ends_with_the_password_it_was_given_for() {
        let access = Access::new(seeded());
        let hash = access.hash("secret".into()).await;
        access.change(|auth| auth.user_change_password("u", Some(hash))).await.unwrap();
        assert_eq!(access.authenticate("u", "wrong".into()).await, Err(Error::AuthFailed));
        assert_eq!(
            access.authenticate(ROOT, "".into()).await,
            Err(Error::AuthFailed),
            "no password, no token"
        );
        let token = access.authenticate("u", "secret".into()).await.unwrap();
        let headers = HeaderMap::from_iter([("token".parse().unwrap(), token.parse().unwrap())]);
        let (nobody, key) = (access.caller(None), KeyRange::single("a/1"));
        let ask = || nobody.by_token(&headers).unwrap().read(&key);
        assert_eq!(ask(), Ok(()));
        access.change(|auth| auth.user_add("other", None)).await.unwrap();
        assert_eq!(ask(), Ok(()), "somebody else's change");
        let hash = access.hash("secret".into()).await;
        access.change(|auth| auth.user_change_password("u", Some(hash))).await.unwrap();
        assert_eq!(ask(), Err(Error::InvalidAuthToken));
    }
}
