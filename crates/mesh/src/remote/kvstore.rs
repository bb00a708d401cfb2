//! The transport in production: our etcd client.

use std::path::PathBuf;
use std::time::Duration;

use causeway_kvstore::client::{Client as Etcd, ClientConfig, ClientError, WatchMessage};
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{KeyRange, WatchOptions, pb};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::keep::Keep;
use super::transport::{Client, RangeReply, Transport, TransportError, WatchReply, WatchStream};
use super::{Change, Known, Options, RemoteClusters, RemoteEvent};
use crate::config_dir::RemoteConfig;
use crate::wire::Reason;

/// Connects with our etcd client.
#[derive(Debug)]
pub(super) struct EtcdTransport {
    /// For TCP and TLS together, and for each unary call.
    timeout: Duration,
}

impl RemoteClusters {
    /// Follows the configuration directory `dir` and reads every cluster it names, until `shutdown`.
    /// The receiver must be drained: a slow consumer slows the readers down.
    pub async fn spawn(
        options: Options,
        dir: PathBuf,
        shutdown: CancellationToken,
    ) -> (Self, mpsc::Receiver<RemoteEvent>) {
        Self::spawn_keeping::<Known>(options, dir, shutdown).await
    }

    /// The same for consumers that want something else than decoded entries.
    pub(crate) async fn spawn_keeping<K: Keep>(
        options: Options,
        dir: PathBuf,
        shutdown: CancellationToken,
    ) -> (Self, mpsc::Receiver<K::Message>) {
        let transport = EtcdTransport { timeout: options.timing.connect };
        Self::spawn_over::<_, K>(transport, options, dir, shutdown).await
    }
}

/// How to reach a peer, for whoever wants to speak with its store directly.
///
/// # Errors
/// What is missing in the file, in words for the operator.
pub fn client_config(config: &RemoteConfig, timeout: Duration) -> Result<ClientConfig, String> {
    let tls = match (&config.ca_file, &config.cert_file, &config.key_file) {
        (Some(ca), Some(cert), Some(key)) => {
            Some(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() })
        }
        (None, None, None) => None,
        _ => return Err("trusted-ca-file, cert-file and key-file belong together; one is missing".to_owned()),
    };
    if config.insecure_skip_verify {
        return Err("insecure-skip-tls-verify is set: certificates are always verified; remove it".to_owned());
    }
    Ok(ClientConfig { endpoints: config.endpoints.clone(), tls, resolve: config.resolve.clone(), timeout })
}

impl Transport for EtcdTransport {
    type Client = Etcd;
    async fn connect(&self, config: &RemoteConfig) -> Result<Etcd, TransportError> {
        let config = client_config(config, self.timeout).map_err(TransportError::Broken)?;
        Etcd::connect(&config).await.map_err(refusal)
    }
}

impl Client for Etcd {
    async fn range(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        revision: i64,
        limit: i64,
        keys_only: bool,
    ) -> Result<RangeReply, TransportError> {
        let request = pb::RangeRequest {
            key: start.into(),
            range_end: end.into(),
            revision,
            limit,
            keys_only,
            ..Default::default()
        };
        let reply = Etcd::range(self, request).await.map_err(refusal)?;
        let header = reply.header.unwrap_or_default();
        Ok(RangeReply {
            store: header.cluster_id,
            revision: header.revision,
            entries: reply.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect(),
            more: reply.more,
        })
    }

    async fn watch(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        start_revision: i64,
    ) -> Result<WatchStream, TransportError> {
        let range = KeyRange::new(start.into(), end.into());
        let stream = Etcd::watch(self, WatchOptions::new(range, start_revision)).await.map_err(refusal)?;
        Ok(stream.map(|message| message.map_err(refusal).and_then(reply)).boxed())
    }
}

fn reply(message: WatchMessage) -> Result<WatchReply, TransportError> {
    match message {
        WatchMessage::Created(header) => {
            Ok(WatchReply { store: header.cluster_id, revision: header.revision, changes: vec![] })
        }
        WatchMessage::Events(header, events) => {
            let changes = events.into_iter().filter_map(|event| {
                let deleted = event.r#type == pb::event::EventType::Delete as i32;
                let kv = event.kv?;
                Some(if deleted { Change::Delete(kv.key) } else { Change::Put(kv.key, kv.value) })
            });
            Ok(WatchReply { store: header.cluster_id, revision: header.revision, changes: changes.collect() })
        }
        WatchMessage::Compacted { .. } => Err(TransportError::Compacted),
        WatchMessage::Canceled(reason) => {
            Err(TransportError::Refused(format!("the watch was cancelled: {reason}")))
        }
    }
}

fn refusal(error: ClientError) -> TransportError {
    let reason = match &error {
        ClientError::Compacted => return TransportError::Compacted,
        ClientError::TooLarge { .. } => return TransportError::TooLarge,
        ClientError::PermissionDenied { .. } => return TransportError::Refused(error.to_string()),
        ClientError::NoHeader { .. } => Reason::NoHeader,
        ClientError::AnotherStore { .. } => Reason::OtherStore,
        ClientError::WentBack { .. } => Reason::RevisionBackwards,
        _ => return TransportError::Broken(error.to_string()),
    };
    TransportError::Wrong(reason, error.to_string())
}
