//! An etcd v3 server and client: knows keys and bytes, knows no mesh.
//!
//! [`Store`] is the multi-version store itself, in memory or durable on disk; [`server`] puts it on the
//! wire as etcd does; [`client`] reads and writes this or any other etcd. The messages of both are
//! the same generated types, [`pb`].

pub mod auth;
pub mod client;
mod codec;
mod error;
pub mod server;
mod store;
pub mod tls;

pub use error::Error;
pub use store::{
    Applied, AutoCompaction, BadRetention, ByKey, ContentHash, CutTail, KeyRange, LeaseInfo, LogStats,
    OpenError, Pair, Pending, Staged, Store, StoreOptions, StoreStats, WatchBatch, WatchError, WatchOptions,
    Watcher, WriteOp, prefix_end,
};

/// The messages and services of etcd v3, generated from `proto/`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod pb {
    pub use authpb::{Permission, UserAddOptions, permission};
    pub use etcdserverpb::*;
    pub use mvccpb::*;

    /// Keys, values and events.
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    /// Users and roles.
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    /// gRPC's health protocol.
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
    /// Requests, responses and services.
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
}
