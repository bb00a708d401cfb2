//! Peers that speak TLS, HTTP/2 and even gRPC, and then something that no etcd says.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use causeway_kvstore::pb;
use causeway_kvstore::tls::TlsFiles;
use futures::{Stream, StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// What kind of peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Other bytes than TLS.
    Bytes,
    /// TLS, then other bytes than HTTP/2.
    NoHttp,
    /// HTTP/2 with answers that are no gRPC messages.
    NoMessages,
    /// An etcd without headers.
    NoHeader,
    /// Lists that never end.
    EndlessList,
    /// Pages of very large values.
    LargeValues,
    /// Changes of ever new keys without end.
    EndlessChanges,
}

/// Listens on a port of 127.0.0.1.
pub(crate) async fn start(lie: Lie, tls: &TlsFiles) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls.server_config(&[b"h2"]).unwrap()));
    let grpc = match lie {
        Lie::Bytes | Lie::NoHttp | Lie::NoMessages => None,
        _ => Some(grpc(lie).await),
    };
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if lie == Lie::Bytes {
                    return noise(&mut socket).await;
                }
                let Ok(mut tls) = acceptor.accept(socket).await else { return };
                match grpc {
                    Some(address) => {
                        let Ok(mut plain) = TcpStream::connect(address).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
                    }
                    None if lie == Lie::NoHttp => noise(&mut tls).await,
                    None => no_messages(tls).await,
                }
            });
        }
    });
    address
}

/// The same bytes every time, of every value.
async fn noise(to: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    let mut state = 7u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(64 << 10)
    .collect();
    let _ = to.write_all(&bytes).await;
    // Until the other side has had enough.
    let mut sink = [0; 1024];
    while matches!(to.read(&mut sink).await, Ok(1..)) {}
}

/// Correct HTTP/2 answers of content type gRPC, whose body is a huge length and a few bytes.
async fn no_messages(tls: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    let service = hyper::service::service_fn(|_: hyper::Request<Incoming>| async {
        let body = Full::new(Bytes::from_static(b"\0\xff\xff\xff\xff and then nothing"));
        let answer = hyper::Response::builder().header("content-type", "application/grpc").body(body);
        answer.map_err(std::io::Error::other)
    });
    let io = hyper_util::rt::TokioIo::new(tls);
    let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let _ = server.serve_connection(io, service).await;
}

async fn grpc(lie: Lie) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = tonic::transport::Server::builder()
        .add_service(pb::kv_server::KvServer::new(Etcd(lie)))
        .add_service(pb::watch_server::WatchServer::new(Etcd(lie)));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[derive(Debug, Clone, Copy)]
struct Etcd(Lie);

const PREFIX: &str = "cilium/state/ip/v1/default/";

fn header(lie: Lie) -> Option<pb::ResponseHeader> {
    let header = pb::ResponseHeader { cluster_id: 7, member_id: 8, revision: 1 << 40, raft_term: 2 };
    (lie != Lie::NoHeader).then_some(header)
}

/// Address `n` of cluster 2 with a value that is as it should be.
fn entry(n: u32) -> pb::KeyValue {
    let ip = Ipv4Addr::from(0x0a00_0000 + n);
    let value = format!(r#"{{"IP":"{ip}","Mask":null,"HostIP":"172.20.0.11","ID":131073,"Key":0}}"#);
    pb::KeyValue { key: format!("{PREFIX}{ip}").into(), value: value.into(), ..Default::default() }
}

fn after(key: &[u8]) -> u32 {
    let text = std::str::from_utf8(key).unwrap().trim_end_matches('\0');
    let ip = text.strip_prefix(PREFIX).filter(|ip| !ip.is_empty());
    ip.map_or(0, |ip| u32::from(ip.parse::<Ipv4Addr>().unwrap()) - 0x0a00_0000 + 1)
}

impl Etcd {
    /// Keys in the order of their texts: all addresses have numbers of three digits.
    fn page(self, from: &[u8], limit: i64) -> Vec<pb::KeyValue> {
        let mut n = after(from);
        let mut page = vec![];
        while (page.len() as i64) < limit {
            let octets = Ipv4Addr::from(0x0a00_0000 + n).octets();
            if octets[1..].iter().all(|octet| *octet >= 100) {
                page.push(entry(n));
            }
            n += 1;
        }
        if self.0 == Lie::LargeValues {
            for kv in &mut page {
                kv.value = vec![b' '; 256 << 10].into();
            }
        }
        page
    }
}

#[tonic::async_trait]
impl pb::kv_server::Kv for Etcd {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        let mut answer = pb::RangeResponse { header: header(self.0), ..Default::default() };
        if request.key.starts_with(b"cilium/cluster-config/") {
            let value = r#"{"id":2,"capabilities":{}}"#;
            answer.kvs = vec![pb::KeyValue { key: request.key, value: value.into(), ..Default::default() }];
        } else if request.key.starts_with(PREFIX.as_bytes()) && self.0 != Lie::EndlessChanges {
            answer.kvs = self.page(&request.key, request.limit);
            answer.more = true;
        }
        Ok(Response::new(answer))
    }

    async fn put(&self, _: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Err(Status::permission_denied("read only"))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::permission_denied("read only"))
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(Status::permission_denied("read only"))
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::permission_denied("read only"))
    }
}

#[tonic::async_trait]
impl pb::watch_server::Watch for Etcd {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.request_union);
        let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("no watch"));
        };
        let lie = self.0;
        let message = move |events| pb::WatchResponse { header: header(lie), events, ..Default::default() };
        let created = pb::WatchResponse { created: true, ..message(vec![]) };
        let floods = lie == Lie::EndlessChanges && create.key.starts_with(PREFIX.as_bytes());
        let changes = stream::iter((0u32..1 << 24).step_by(64).take_while(move |_| floods)).map(move |n| {
            let event = |n| pb::Event { kv: Some(entry(n)), ..Default::default() };
            Ok(message((n..n + 64).map(event).collect()))
        });
        let beats = stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let kv = pb::KeyValue { key: "cilium/.heartbeat".into(), ..Default::default() };
            Some((Ok(message(vec![pb::Event { kv: Some(kv), ..Default::default() }])), ()))
        });
        let alive = create.key.starts_with(b"cilium/.heartbeat");
        let changes = changes.chain(beats.take_while(move |_| std::future::ready(alive)));
        let open =
            stream::pending().take_until(async move { while let Ok(Some(_)) = requests.message().await {} });
        let all = stream::iter([Ok(created)]).chain(changes).chain(open);
        Ok(Response::new(all.boxed()))
    }
}
