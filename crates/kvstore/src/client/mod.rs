//! A thin etcd v3 client over the generated stubs.
//!
//! One [`Client`] is one attempt at a server: reconnecting, backing off and listing again are the
//! caller's decisions, because only it knows what its state is worth. A [`Balancer`] makes the
//! decisions for those who want an answer from any member of a cluster.

mod balancer;
mod connect;
mod endpoints;
mod error;
mod follow;
mod list_watch;
mod seen;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::{InterceptedService, Interceptor};
use tonic::transport::Channel;

use crate::pb::{
    self, kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient,
};
use crate::tls::TlsFiles;
use crate::{KeyRange, WatchOptions};
pub use balancer::Balancer;
pub use error::ClientError;
pub use follow::{ListWatch, PAGE};
pub use list_watch::{Listing, WatchMessage, WatchStream};
use seen::{Answer, Seen};

/// Where an etcd is and how to speak with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// URLs, `https://host:port` or `http://host:port`; tried in random order.
    pub endpoints: Vec<String>,
    /// Files for `https`; read at every connect.
    pub tls: Option<TlsFiles>,
    /// Addresses to dial for a host name instead of resolving it; the name is still what the
    /// server's certificate must be for.
    pub resolve: BTreeMap<String, Vec<IpAddr>>,
    /// For TCP and TLS together, and for each unary call.
    pub timeout: Duration,
}

/// A connection to one etcd. Cheap to clone; the clones share it.
///
/// All answers are of one store, and none is older than what was known when it was asked for: where
/// the way leads to another store after a break, the next call fails with
/// [`ClientError::AnotherStore`] or [`ClientError::WentBack`], and so does every later one.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: String,
    timeout: Duration,
    kv: KvClient<Wire>,
    watch: WatchClient<Wire>,
    lease: LeaseClient<Wire>,
    maintenance: MaintenanceClient<Wire>,
    seen: Arc<Seen>,
}

type Wire = InterceptedService<Channel, Metadata>;

/// What is sent with every call.
#[derive(Debug, Clone, Copy)]
struct Metadata {
    /// A member without a leader is to refuse calls and to end streams.
    require_leader: bool,
}

impl Interceptor for Metadata {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if self.require_leader {
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        Ok(request)
    }
}

/// Longest message taken from a server, bytes. It bounds what a peer can make us hold, so it is far
/// below the 2 GiB of Cilium's client: lists ask for smaller pages when one is too large, and watches
/// for fragments. A single value is at most 1.5 MiB in an etcd that is not reconfigured.
pub const MAX_MESSAGE: usize = 16 << 20;

impl Client {
    /// Connects to the first endpoint that answers.
    ///
    /// # Errors
    /// [`ClientError`] of the last endpoint tried.
    pub async fn connect(config: &ClientConfig) -> Result<Self, ClientError> {
        let (endpoint, channel) = connect::any(config).await?;
        Ok(Self::over(endpoint, channel, config.timeout, false))
    }

    fn over(endpoint: String, channel: Channel, timeout: Duration, require_leader: bool) -> Self {
        let wire = InterceptedService::new(channel.clone(), Metadata { require_leader });
        // A member that has lost its cluster ends a watch instead of keeping silent.
        let watched = InterceptedService::new(channel, Metadata { require_leader: true });
        Self {
            endpoint,
            timeout,
            kv: KvClient::new(wire.clone()).max_decoding_message_size(MAX_MESSAGE),
            watch: WatchClient::new(watched).max_decoding_message_size(MAX_MESSAGE),
            lease: LeaseClient::new(wire.clone()),
            maintenance: MaintenanceClient::new(wire),
            seen: Arc::default(),
        }
    }

    /// Whether both are the same connection.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.seen, &other.seen)
    }

    /// The URL this client is connected to.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Reads keys.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, ClientError> {
        // A serializable read may be answered from before what others have been told.
        let (serializable, mut kv) = (request.serializable, self.kv.clone());
        if serializable { self.ask_any(kv.range(request)).await } else { self.ask(kv.range(request)).await }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<pb::RangeResponse, ClientError> {
        self.range(pb::RangeRequest { key: key.into(), ..Default::default() }).await
    }

    /// Writes one key; `lease` 0 = none.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: i64,
    ) -> Result<pb::PutResponse, ClientError> {
        let request = pb::PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
        self.ask(self.kv.clone().put(request)).await
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn delete(
        &self,
        range: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, ClientError> {
        self.ask(self.kv.clone().delete_range(range)).await
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, ClientError> {
        self.ask(self.kv.clone().txn(request)).await
    }

    /// Grants a lease of `ttl` seconds; its id and the seconds granted.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn lease_grant(&self, ttl: i64) -> Result<pb::LeaseGrantResponse, ClientError> {
        self.ask(self.lease.clone().lease_grant(pb::LeaseGrantRequest { ttl, id: 0 })).await
    }

    /// Renews a lease once; the seconds it now has, 0 or less when it is gone.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn lease_keep_alive(&self, id: i64) -> Result<i64, ClientError> {
        let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut client = self.lease.clone();
        let call = async move {
            let mut answers = client.lease_keep_alive(once).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(tonic::Response::new).ok_or_else(|| tonic::Status::unavailable("no answer"))
        };
        self.ask(call).await.map(|answer| answer.ttl)
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn lease_revoke(&self, id: i64) -> Result<(), ClientError> {
        self.ask(self.lease.clone().lease_revoke(pb::LeaseRevokeRequest { id })).await.map(drop)
    }

    /// Asks the server about itself.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status(&self) -> Result<pb::StatusResponse, ClientError> {
        self.ask(self.maintenance.clone().status(pb::StatusRequest {})).await
    }

    /// Lists a range in pages at one revision.
    pub fn list(&self, range: KeyRange, page: i64) -> Listing {
        Listing::new(self.clone(), range, page)
    }

    /// Opens a stream with one watch on it.
    ///
    /// # Errors
    /// [`ClientError`] when the stream cannot be opened; refusals arrive as [`WatchMessage`]s.
    pub async fn watch(&self, options: WatchOptions) -> Result<WatchStream, ClientError> {
        list_watch::watch(self, options).await
    }

    /// A call whose answer must be of the store of all others.
    async fn ask<T: Answer>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        if !T::LINEAR {
            return self.ask_any(call).await;
        }
        let floor = self.seen.revision();
        let answer = self.unary(call).await?;
        self.seen.check_linear(&self.endpoint, answer.header(), floor)?;
        Ok(answer)
    }

    async fn ask_any<T: Answer>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        let answer = self.unary(call).await?;
        self.seen.check(&self.endpoint, answer.header())?;
        Ok(answer)
    }

    async fn unary<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(ClientError::from_status(&self.endpoint, status)),
            Err(_) => Err(ClientError::Timeout { endpoint: self.endpoint.clone(), after: self.timeout }),
        }
    }
}
