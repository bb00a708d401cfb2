//! Client and server over real sockets: mutual TLS, permissions and reload.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use causeway_kvstore::auth::{Action, Auth, Permission, ROOT};
use causeway_kvstore::client::{Client, ClientConfig, ClientError, WatchMessage};
use causeway_kvstore::server::{Access, Server};
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{KeyRange, Store, StoreOptions, WatchOptions, pb};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes ca.crt, NAME.crt and NAME.key for a certificate of `issuer`, trusting `trusted`.
fn files(
    dir: &Path,
    name: &str,
    san: &[&str],
    issuer: &Authority,
    trusted: &Authority,
    days: i64,
) -> TlsFiles {
    let mut params = CertificateParams::new(san.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(86_400);
    params.not_before = (now - day * 10).into();
    params.not_after = if days > 0 { now + day * days as u32 } else { now - day * (-days) as u32 }.into();
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    let at = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    std::fs::write(at("ca"), trusted.pem()).unwrap();
    std::fs::write(at("crt"), cert.pem()).unwrap();
    std::fs::write(at("key"), key.serialize_pem()).unwrap();
    TlsFiles { ca: at("ca"), cert: at("crt"), key: at("key") }
}

async fn serve(server: Server) -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    tokio::spawn(server.serve(listener, shutdown.clone()));
    (address, shutdown.drop_guard())
}

fn config(endpoint: String, tls: Option<TlsFiles>) -> ClientConfig {
    ClientConfig {
        endpoints: vec![endpoint],
        tls,
        resolve: BTreeMap::new(),
        timeout: Duration::from_secs(30),
    }
}

/// Users without passwords, and the permissions of the role each has; `root` for everything.
fn access(users: &[(&str, &str)], permissions: Vec<(&str, Permission)>) -> Access {
    let mut auth = Auth::default();
    for (user, role) in [(ROOT, ROOT)].iter().chain(users) {
        let _ = auth.role_add(role);
        auth.user_add(user, None).unwrap();
        auth.user_grant_role(user, role).unwrap();
    }
    for (role, permission) in permissions {
        auth.role_grant(role, permission).unwrap();
    }
    auth.enable().unwrap();
    Access::new(auth)
}

fn readers() -> Access {
    let public = Permission::new(Action::Read, &KeyRange::prefix("pub/"));
    access(&[("admin", ROOT), ("remote", "reader")], vec![("reader", public)])
}

#[tokio::test]
async fn list_and_watch_lose_nothing_in_between() {
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::plaintext(store, Access::open())).await;
    let client = Client::connect(&config(format!("http://{address}"), None)).await.unwrap();
    for n in 0..600 {
        client.put(format!("k/{n:04}"), "v", 0).await.unwrap();
    }
    let mut listing = client.list(KeyRange::prefix("k/"), 256);
    let first = listing.next().await.unwrap().unwrap();
    let revision = first.header.unwrap().revision;
    client.put("k/0300", "changed while listing", 0).await.unwrap();
    let mut rest = Vec::new();
    while let Some(page) = listing.next().await.unwrap() {
        rest.extend(page.kvs);
    }
    assert_eq!((first.kvs.len(), rest.len()), (256, 344));
    assert!(rest.iter().all(|kv| kv.value == "v"), "pages are of one revision");
    let mut watch = client.watch(WatchOptions::prefix("k/", revision + 1)).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchMessage::Created(_)))));
    let Some(Ok(WatchMessage::Events(_, events))) = watch.next().await else { panic!("no event") };
    assert_eq!(events[0].kv.as_ref().unwrap().value, "changed while listing");
}

#[tokio::test]
async fn a_reader_sees_its_ranges_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = files(dir.path(), "server", &["127.0.0.1"], &ca, &ca, 30);
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::mutual_tls(store, readers(), server).unwrap()).await;
    let endpoint = format!("https://{address}");
    let admin = files(dir.path(), "admin", &[], &ca, &ca, 30);
    let admin = Client::connect(&config(endpoint.clone(), Some(admin))).await.unwrap();
    admin.put("pub/a", "1", 0).await.unwrap();
    admin.put("secret", "1", 0).await.unwrap();
    let remote = files(dir.path(), "remote", &[], &ca, &ca, 30);
    let remote = Client::connect(&config(endpoint, Some(remote))).await.unwrap();
    assert_eq!(remote.get("pub/a").await.unwrap().count, 1);
    let denied = |e: ClientError| matches!(e, ClientError::PermissionDenied { .. });
    assert!(denied(remote.get("secret").await.unwrap_err()));
    assert!(denied(remote.put("pub/a", "2", 0).await.unwrap_err()));
    assert!(denied(remote.lease_grant(10).await.unwrap_err()));
    let mut watch = remote.watch(WatchOptions::prefix("p", 0)).await.unwrap();
    let Some(Ok(WatchMessage::Canceled(reason))) = watch.next().await else {
        panic!("the watch was not refused")
    };
    assert_eq!(reason, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
}

#[tokio::test]
async fn bad_certificates_each_have_their_own_error() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (authority(), authority());
    let client_files = files(dir.path(), "admin", &[], &ca, &ca, 30);
    let attempt = async |name: &str, issuer: &Authority, san: &str, days: i64| {
        let server = files(dir.path(), name, &[san], issuer, &ca, days);
        let store = Store::new(StoreOptions::default());
        let (address, _guard) = serve(Server::mutual_tls(store, readers(), server).unwrap()).await;
        let client = Client::connect(&config(format!("https://{address}"), Some(client_files.clone()))).await;
        client.err().map(|error| format!("{error:?}"))
    };
    assert_eq!(attempt("good", &ca, "127.0.0.1", 30).await, None);
    assert!(attempt("foreign", &other, "127.0.0.1", 30).await.unwrap().starts_with("UnknownAuthority"));
    assert!(attempt("expired", &ca, "127.0.0.1", -1).await.unwrap().starts_with("Expired"));
    assert!(attempt("misnamed", &ca, "other.example", 30).await.unwrap().starts_with("WrongName"));
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (authority(), authority());
    let server = files(dir.path(), "server", &["127.0.0.1"], &ca, &ca, 30);
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::mutual_tls(store, Access::open(), server).unwrap()).await;
    let stranger = files(dir.path(), "stranger", &[], &other, &ca, 30);
    let config = config(format!("https://{address}"), Some(stranger));
    // With TLS 1.3 the refusal may arrive with the handshake or with the first call.
    let refused = match Client::connect(&config).await {
        Ok(client) => client.get("pub/a").await.map(drop).unwrap_err(),
        Err(error) => error,
    };
    assert!(!matches!(refused, ClientError::Timeout { .. }), "{refused}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = files(dir.path(), "server", &["127.0.0.1"], &ca, &ca, 30);
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::mutual_tls(store, Access::open(), server.clone()).unwrap()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let bare = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(&address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(bare));
    let mut stream = connector.connect(name, socket).await.unwrap();
    // With TLS 1.3 the alert comes after the client believes the handshake done.
    let refused = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await.unwrap_err();
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
    let none = Client::connect(&config(format!("https://{address}"), None)).await.unwrap_err();
    assert!(matches!(none, ClientError::NoTlsFiles { .. }), "{none}");
}

#[tokio::test]
async fn certificates_are_reloaded_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (authority(), authority());
    let server = files(dir.path(), "server", &["127.0.0.1"], &old, &old, 30);
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::mutual_tls(store, Access::open(), server.clone()).unwrap()).await;
    let endpoint = format!("https://{address}");
    let client = files(dir.path(), "client", &[], &new, &new, 30);
    assert!(Client::connect(&config(endpoint.clone(), Some(client.clone()))).await.is_err());
    std::fs::write(&server.cert, "not a certificate").unwrap();
    let first = files(dir.path(), "first", &[], &old, &old, 30);
    assert!(
        Client::connect(&config(endpoint.clone(), Some(first))).await.is_ok(),
        "bad files change nothing"
    );
    files(dir.path(), "server", &["127.0.0.1"], &new, &new, 30);
    let connected = Client::connect(&config(endpoint, Some(client))).await.unwrap();
    connected.put("k", "v", 0).await.unwrap();
}

#[tokio::test]
async fn a_writer_of_some_ranges_stays_inside_them() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = files(dir.path(), "server", &["127.0.0.1"], &ca, &ca, 30);
    // Two ranges that only together cover what is read.
    let permissions = vec![
        ("some", Permission::new(Action::Read, &KeyRange::new("a".into(), "m".into()))),
        ("some", Permission::new(Action::Read, &KeyRange::new("m".into(), "q".into()))),
        ("some", Permission::new(Action::Write, &KeyRange::prefix("a/"))),
    ];
    let access = access(&[("writer", "some")], permissions);
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::mutual_tls(store.clone(), access, server).unwrap()).await;
    let writer = files(dir.path(), "writer", &[], &ca, &ca, 30);
    let writer = Client::connect(&config(format!("https://{address}"), Some(writer))).await.unwrap();
    let denied = |e: ClientError| matches!(e, ClientError::PermissionDenied { .. });
    let lease = writer.lease_grant(600).await.unwrap().id;
    writer.put("a/1", "v", lease).await.unwrap();
    assert!(denied(writer.put("b", "v", 0).await.unwrap_err()));
    let range =
        |end: &'static str| pb::RangeRequest { key: "a".into(), range_end: end.into(), ..Default::default() };
    assert_eq!(writer.range(range("q")).await.unwrap().count, 1);
    assert!(denied(writer.range(range("r")).await.unwrap_err()));
    let all = pb::DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: false };
    assert!(denied(writer.delete(all).await.unwrap_err()));
    // A lease that holds another's key cannot be used to delete it.
    store.put(pb::PutRequest { key: "b".into(), lease, ..Default::default() }).unwrap();
    assert!(denied(writer.lease_revoke(lease).await.unwrap_err()));
}

#[tokio::test]
async fn calls_that_are_not_served_say_so() {
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::plaintext(store, Access::open())).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.connect().await.unwrap());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<pb::StatusRequest, pb::StatusResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.Maintenance/Downgrade");
    let status = grpc.unary(tonic::Request::new(pb::StatusRequest {}), path, codec).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert!(status.message().contains("/etcdserverpb.Maintenance/Downgrade is not implemented"), "{status}");
}

/// Sends a request of HTTP/1.1; the whole answer.
async fn http(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn version_and_health_are_told_over_http_1() {
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::plaintext(store.clone(), Access::open())).await;
    let answer = http(&address, "/version").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"etcdserver\":\"3.5.0\""), "{answer}");
    let answer = http(&address, "/health").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"health\":\"true\"}"), "{answer}");
    store.set_space_alarm(true).unwrap();
    let answer = http(&address, "/health").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"health\":\"false\""), "{answer}");
    let answer = http(&address, "/health?serializable=true&exclude=NOSPACE").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(http(&address, "/other").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn metrics_have_the_names_of_etcd() {
    let store = Store::new(StoreOptions::default());
    let server = Server::plaintext(store.clone(), Access::open());
    let monitor = server.monitor();
    let (address, _guard) = serve(server).await;
    let client = Client::connect(&config(format!("http://{address}"), None)).await.unwrap();
    let mut watch = client.watch(WatchOptions::prefix("k", 0)).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchMessage::Created(_)))));
    for n in 0..3 {
        client.put("k", "v", 0).await.unwrap();
        assert!(matches!(watch.next().await, Some(Ok(WatchMessage::Events(..)))), "{n}");
    }
    client.put("", "v", 0).await.unwrap_err();
    client.get("k").await.unwrap();
    client.lease_grant(100).await.unwrap();
    client.lease_revoke(99).await.unwrap_err();
    let text = http(&address, "/metrics").await;
    let value = |name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    };
    let handled = |service: &str, method: &str, code: &str| {
        value(&format!(
            "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"{method}\",\
             grpc_service=\"etcdserverpb.{service}\",grpc_type=\"unary\"}}"
        ))
    };
    for (name, expect) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_leader_changes_seen_total", 1.0),
        ("etcd_server_proposals_committed_total", 4.0),
        ("etcd_server_proposals_applied_total", 4.0),
        ("etcd_server_proposals_pending", 0.0),
        ("etcd_server_proposals_failed_total", 0.0),
        ("etcd_mvcc_put_total", 4.0),
        ("etcd_debugging_mvcc_put_total", 4.0),
        ("etcd_debugging_mvcc_range_total", 1.0),
        ("etcd_debugging_mvcc_delete_total", 0.0),
        ("etcd_debugging_mvcc_txn_total", 0.0),
        ("etcd_debugging_mvcc_keys_total", 1.0),
        ("etcd_debugging_mvcc_current_revision", 4.0),
        ("etcd_debugging_mvcc_compact_revision", 0.0),
        ("etcd_debugging_mvcc_watcher_total", 1.0),
        ("etcd_debugging_mvcc_watch_stream_total", 1.0),
        ("etcd_debugging_mvcc_slow_watcher_total", 0.0),
        ("etcd_debugging_mvcc_events_total", 3.0),
        ("etcd_debugging_lease_granted_total", 1.0),
        ("etcd_debugging_lease_revoked_total", 0.0),
        ("etcd_debugging_lease_expired_total", 0.0),
    ] {
        assert_eq!(value(name), Some(expect), "{name}");
    }
    for name in [
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(
            value(name).is_some_and(|value| value > 0.0 || name.contains("cpu")),
            "{name}: {:?}",
            value(name)
        );
    }
    assert_eq!(handled("KV", "Put", "OK"), Some(3.0));
    assert_eq!(handled("KV", "Put", "InvalidArgument"), Some(1.0));
    assert_eq!(handled("KV", "Range", "OK"), Some(1.0));
    assert_eq!(handled("Lease", "LeaseGrant", "OK"), Some(1.0));
    assert_eq!(handled("Lease", "LeaseRevoke", "NotFound"), Some(1.0));
    assert_eq!(handled("Auth", "UserAdd", "OK"), Some(0.0), "there from the start");
    // A stream that ends is counted, and its watches are not there any more.
    drop(watch);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !monitor.metrics().contains("etcd_debugging_mvcc_watch_stream_total 0") {
        assert!(std::time::Instant::now() < deadline, "the stream is still counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(monitor.metrics().contains("etcd_debugging_mvcc_watcher_total 0"));
}

#[tokio::test]
async fn a_watch_ends_when_its_user_may_no_longer_read() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = files(dir.path(), "server", &["127.0.0.1"], &ca, &ca, 30);
    let (store, access) = (Store::new(StoreOptions::default()), readers());
    let server = Server::mutual_tls(store.clone(), access.clone(), server).unwrap();
    let (address, _guard) = serve(server).await;
    let remote = files(dir.path(), "remote", &[], &ca, &ca, 30);
    let remote = Client::connect(&config(format!("https://{address}"), Some(remote))).await.unwrap();
    let mut watch = remote.watch(WatchOptions::prefix("pub/", 0)).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchMessage::Created(_)))));
    let put = || store.put(pb::PutRequest { key: "pub/a".into(), ..Default::default() }).unwrap();
    put();
    assert!(matches!(watch.next().await, Some(Ok(WatchMessage::Events(..)))));
    access.change(|auth| auth.user_revoke_role("remote", "reader")).await.unwrap();
    put();
    let Some(Ok(WatchMessage::Canceled(reason))) = watch.next().await else { panic!("it goes on") };
    assert_eq!(reason, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
}

#[tokio::test]
async fn many_requests_in_flight_are_all_answered() {
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::plaintext(store.clone(), Access::open())).await;
    let client = Client::connect(&config(format!("http://{address}"), None)).await.unwrap();
    // Larger than a frame and than a flow-control window, so that requests come in pieces.
    let large = bytes::Bytes::from(vec![b'x'; 1_200_000]);
    let puts = (0..300).map(|n| {
        let value = if n % 100 == 7 { large.clone() } else { "small".into() };
        client.put(format!("k/{n:03}"), value, 0)
    });
    for answer in futures::future::join_all(puts).await {
        answer.unwrap();
    }
    assert_eq!(store.revision(), 301);
    let all = client.list_all(b"k/").await.unwrap();
    assert_eq!((all.len(), &all[107].value), (300, &large));
}

#[tokio::test]
async fn host_names_can_be_given_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = files(dir.path(), "server", &["*.mesh.cilium.io"], &ca, &ca, 30);
    let store = Store::new(StoreOptions::default());
    let (address, _guard) = serve(Server::mutual_tls(store, Access::open(), server).unwrap()).await;
    let port = address.rsplit(':').next().unwrap();
    let client = files(dir.path(), "client", &[], &ca, &ca, 30);
    let mut config = config(format!("https://cls-b.mesh.cilium.io:{port}"), Some(client));
    config.resolve.insert("cls-b.mesh.cilium.io".into(), vec!["127.0.0.1".parse().unwrap()]);
    Client::connect(&config).await.unwrap().status().await.unwrap();
}

/// What a tool like grpcurl asks first.
#[tokio::test]
async fn reflection_tells_every_service_and_its_messages() {
    use tonic_reflection::pb::{v1, v1alpha};

    let store = Store::new(StoreOptions::default());
    let (address, _stop) = serve(Server::plaintext(store, Access::open())).await;
    let channel =
        tonic::transport::Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap();
    macro_rules! ask {
        ($version:ident, $request:expr) => {{
            use $version::server_reflection_request::MessageRequest::*;
            let request =
                $version::ServerReflectionRequest { host: String::new(), message_request: Some($request) };
            let mut client = $version::server_reflection_client::ServerReflectionClient::new(channel.clone());
            let answers = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
            answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
        }};
    }
    use v1::server_reflection_response::MessageResponse;
    let MessageResponse::ListServicesResponse(list) = ask!(v1, ListServices(String::new())) else {
        panic!("no list")
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth"] {
        assert!(names.contains(&format!("etcdserverpb.{service}").as_str()), "{service}: {names:?}");
    }
    let MessageResponse::FileDescriptorResponse(files) =
        ask!(v1, FileContainingSymbol("etcdserverpb.WatchRequest".into()))
    else {
        panic!("no file")
    };
    assert!(!files.file_descriptor_proto.is_empty());
    let old = ask!(v1alpha, ListServices(String::new()));
    assert!(matches!(old, v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(_)));
}
