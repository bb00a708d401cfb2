//! Why the store refuses a request, with the codes and texts etcd's clients match.

/// A refused request. The text is etcd's own; [`Error::code`] is the gRPC code that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The asked revision was compacted away.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The asked revision does not exist yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// A request without a key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// A key, value and lease that contradict `ignore_value`.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// A lease given together with `ignore_lease`.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// `ignore_value` or `ignore_lease` for a key that does not exist.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// One transaction changes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// More operations in one transaction than [`crate::StoreOptions::max_txn_ops`].
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A request larger than [`crate::StoreOptions::max_request_bytes`].
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// No such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A lease longer than etcd's limit (9,000,000,000 s).
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The sort option has no meaning.
    #[error("etcdserver: invalid sort option")]
    InvalidSort,
    /// The caller may not do this.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// The quota is used up, or its alarm not disarmed yet.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The log of a durable store can no longer be written, for another reason than a lack of space.
    #[error("etcdserver: the write-ahead log cannot be written, see the server's log; reads go on")]
    LogFailed,
    /// No member has this id.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// Authentication cannot be enabled without a user `root`.
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    /// Authentication cannot be enabled while the user `root` lacks the role `root`.
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotExist,
    /// A user of this name exists.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// No user is named: neither by a request, nor by a certificate or token.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role of this name exists.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// No such role.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// A role without a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// Wrong user or password.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    /// The user does not have the role.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// A grant without a permission.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// Passwords are of no use while authentication is disabled.
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    /// An unknown or expired token.
    #[error("etcdserver: invalid auth token")]
    InvalidAuthToken,
    /// A change that would lock `root` out.
    #[error("etcdserver: invalid auth management")]
    InvalidAuthManagement,
}

impl Error {
    /// The gRPC code etcd sends with this text.
    pub const fn code(self) -> tonic::Code {
        match self {
            Self::Compacted | Self::FutureRevision | Self::LeaseTtlTooLarge => tonic::Code::OutOfRange,
            Self::LeaseNotFound | Self::MemberNotFound => tonic::Code::NotFound,
            Self::PermissionDenied => tonic::Code::PermissionDenied,
            Self::NoSpace => tonic::Code::ResourceExhausted,
            Self::LogFailed => tonic::Code::Unavailable,
            Self::InvalidAuthToken => tonic::Code::Unauthenticated,
            Self::LeaseExists
            | Self::RootUserNotExist
            | Self::RootRoleNotExist
            | Self::UserExists
            | Self::UserNotFound
            | Self::RoleExists
            | Self::RoleNotFound
            | Self::RoleNotGranted
            | Self::PermissionNotGranted
            | Self::AuthNotEnabled => tonic::Code::FailedPrecondition,
            Self::UserEmpty
            | Self::RoleEmpty
            | Self::AuthFailed
            | Self::PermissionNotGiven
            | Self::InvalidAuthManagement
            | Self::EmptyKey
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::KeyNotFound
            | Self::DuplicateKey
            | Self::TooManyOps
            | Self::RequestTooLarge
            | Self::InvalidSort => tonic::Code::InvalidArgument,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
