//! The server over real sockets on 127.0.0.1.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use causeway_model::{Event, Service, ServiceType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::RecordData;
use crate::forward::{self, Forwarder, over_tcp, over_udp};
use crate::wire::{Message, Query, Rcode, RecordType};
use crate::zone::testing::{key, service, settings, slice};
use crate::zone::{Settings, SharedZone, Zone};

/// Nobody waits so long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const WEB: &str = "web.shop.svc.cluster.local";
const MANY: &str = "many.shop.svc.cluster.local";

/// Counts what it is told.
#[derive(Default)]
struct Seen {
    sources: Mutex<Vec<(Source, Rcode)>>,
    rejected: AtomicUsize,
}

impl Observer for Seen {
    fn answered(&self, exchange: &Exchange<'_>) {
        self.sources.lock().unwrap().push((exchange.source, exchange.rcode));
    }
    fn rejected(&self, _: SocketAddr) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

struct Running {
    address: SocketAddr,
    seen: Arc<Seen>,
    _stop: DropGuard,
}

/// A zone with one service and one of 200 endpoints, in a domain.
fn zone(domain: &str) -> SharedZone {
    let mut zone = Zone::new(Settings { cluster_domain: Some(domain.parse().unwrap()), ..settings() });
    zone.apply_service(Event::Upsert(service("shop", "web", &["10.3.0.1"])));
    zone.apply_service(Event::Upsert(service("shop", "many", &[])));
    let external = |name: &str, target: &str| Service {
        kind: ServiceType::ExternalName,
        headless: false,
        external_name: Some(target.into()),
        ..service("shop", name, &[])
    };
    zone.apply_service(Event::Upsert(external("ext", "web.shop.svc.test.example")));
    zone.apply_service(Event::Upsert(external("none", "nobody.shop.svc.test.example")));
    zone.apply_service(Event::Upsert(external("near", WEB)));
    zone.apply_service(Event::Upsert(external("circle", "circle.shop.svc.cluster.local")));
    let addresses: Vec<_> = (0..200).map(|n| format!("10.1.0.{n}")).collect();
    let endpoints: Vec<_> = addresses.iter().map(|ip| (ip.as_str(), "", true)).collect();
    zone.apply_slice(Event::Upsert(slice("many-1", key("shop", "many"), &endpoints)));
    zone.apply_service(Event::Synced);
    zone.apply_slice(Event::Synced);
    zone.apply_import(Event::Synced);
    SharedZone::new(zone)
}

async fn start(zone: SharedZone, upstreams: Option<&[SocketAddr]>, limits: Limits) -> Running {
    let forwarder = upstreams.map(|servers| {
        let options = forward::Options {
            attempt: Duration::from_millis(300),
            total: Duration::from_millis(900),
            ..Default::default()
        };
        let forwarder = Forwarder::new(options);
        forwarder.set_servers(servers);
        Arc::new(forwarder)
    });
    let seen = Arc::new(Seen::default());
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, stop) = (server.address(), CancellationToken::new());
    let resolver = Arc::new(Resolver::new(zone, forwarder, seen.clone()));
    tokio::spawn(server.serve(resolver, limits, stop.clone()));
    Running { address, seen, _stop: stop.drop_guard() }
}

fn question(name: &str, kind: RecordType) -> Query {
    Query::new(0, name.parse().unwrap(), kind)
}

async fn udp(server: &Running, query: &Query) -> Message {
    timeout(PATIENCE, over_udp(server.address, query, 77)).await.expect("in time").unwrap()
}

async fn tcp(server: &Running, query: &Query) -> Message {
    timeout(PATIENCE, over_tcp(server.address, query, 78)).await.expect("in time").unwrap()
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let [answers, ..] = message.sections();
    answers
        .iter()
        .filter_map(|r| if let RecordData::A(ip) = r.data { Some(ip.into()) } else { None })
        .collect()
}

#[tokio::test]
async fn own_names_over_both_transports() {
    let server = start(zone("cluster.local"), None, Limits::default()).await;
    for query in [question(WEB, RecordType::A), Query { edns: None, ..question(WEB, RecordType::A) }] {
        for message in [udp(&server, &query).await, tcp(&server, &query).await] {
            assert_eq!((message.rcode(), message.authoritative()), (Rcode::NO_ERROR, true));
            assert_eq!(addresses(&message), [IpAddr::from([10, 3, 0, 1])]);
        }
    }
    let none = udp(&server, &question("else.shop.svc.cluster.local", RecordType::A)).await;
    assert_eq!(none.rcode(), Rcode::NX_DOMAIN);
    assert_eq!(none.lifetime(), Some(5), "what is not there may be kept as long as what is");
    let nothing = udp(&server, &question(WEB, RecordType::TXT)).await;
    assert_eq!((nothing.rcode(), nothing.lifetime()), (Rcode::NO_ERROR, Some(5)));
    let foreign = udp(&server, &question("example.com", RecordType::A)).await;
    assert_eq!(foreign.rcode(), Rcode::REFUSED);
    assert_eq!(server.seen.sources.lock().unwrap().last(), Some(&(Source::Refused, Rcode::REFUSED)));
}

#[tokio::test]
async fn long_answers_are_cut_in_datagrams_and_whole_over_connections() {
    let server = start(zone("cluster.local"), None, Limits::default()).await;
    let large = question(MANY, RecordType::A);
    let small = Query { edns: None, ..large.clone() };
    let (cut, longer, whole) =
        (udp(&server, &small).await, udp(&server, &large).await, tcp(&server, &small).await);
    assert!(cut.truncated() && cut.size() <= 512, "{}", cut.size());
    assert!(longer.truncated() && (1000..=1232).contains(&longer.size()), "{}", longer.size());
    assert!(!whole.truncated() && addresses(&whole).len() == 200);
    // The order turns, and every address comes first once.
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..200 {
        firsts.insert(addresses(&udp(&server, &small).await)[0]);
    }
    assert_eq!(firsts.len(), 200);
}

#[tokio::test]
async fn what_is_not_ours_is_asked_elsewhere_and_kept() {
    let upstream = start(zone("test.example"), None, Limits::default()).await;
    let server = start(zone("cluster.local"), Some(&[upstream.address]), Limits::default()).await;
    let outside = question("Web.shop.svc.test.example", RecordType::A);
    for (source, over_tcp) in [(Source::Forward, false), (Source::Cache, false), (Source::Cache, true)] {
        let message = if over_tcp { tcp(&server, &outside).await } else { udp(&server, &outside).await };
        assert_eq!(addresses(&message), [IpAddr::from([10, 3, 0, 1])]);
        assert!(!message.authoritative());
        assert_eq!(server.seen.sources.lock().unwrap().last().unwrap().0, source);
    }
    let none = question("nobody.shop.svc.test.example", RecordType::A);
    assert_eq!(udp(&server, &none).await.rcode(), Rcode::NX_DOMAIN);
    assert_eq!(udp(&server, &none).await.rcode(), Rcode::NX_DOMAIN);
    assert_eq!(server.seen.sources.lock().unwrap().last().unwrap().0, Source::Cache);
    // Long ones: cut in datagrams as they come, whole over connections.
    let long = question("many.shop.svc.test.example", RecordType::A);
    assert!(udp(&server, &long).await.truncated());
    assert_eq!(addresses(&tcp(&server, &long).await).len(), 200);
    // What the other server says of itself passes.
    let refused = question("example.com", RecordType::A);
    assert_eq!(udp(&server, &refused).await.rcode(), Rcode::REFUSED);
}

#[tokio::test]
async fn aliases_are_followed() {
    let upstream = start(zone("test.example"), None, Limits::default()).await;
    let server = start(zone("cluster.local"), Some(&[upstream.address]), Limits::default()).await;
    let ask = async |server: &Running, name: &str, kind| {
        let message = udp(server, &question(&format!("{name}.shop.svc.cluster.local"), kind)).await;
        let kinds: Vec<_> = message.sections()[0].iter().map(|r| r.data.kind()).collect();
        (message.rcode(), kinds)
    };
    let (cname, a) = (RecordType::CNAME, RecordType::A);
    for _ in 0..2 {
        assert_eq!(ask(&server, "ext", a).await, (Rcode::NO_ERROR, vec![cname, a]));
    }
    assert_eq!(ask(&server, "ext", RecordType::AAAA).await, (Rcode::NO_ERROR, vec![cname]));
    assert_eq!(ask(&server, "ext", RecordType::TXT).await, (Rcode::NO_ERROR, vec![cname]));
    assert_eq!(ask(&server, "none", a).await, (Rcode::NX_DOMAIN, vec![cname]));
    assert_eq!(ask(&server, "near", a).await, (Rcode::NO_ERROR, vec![cname, a]));
    let (rcode, circle) = ask(&server, "circle", a).await;
    assert!(
        rcode == Rcode::NO_ERROR && circle.len() < 20 && circle.iter().all(|kind| *kind == cname),
        "{circle:?}"
    );
    let alone = start(zone("cluster.local"), None, Limits::default()).await;
    assert_eq!(ask(&alone, "ext", a).await, (Rcode::NO_ERROR, vec![cname]));
}

/// A server that says nothing, and one that says what a function makes of a question.
async fn odd_upstream(say: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            for message in say(&buffer[..length]) {
                socket.send_to(&message, client).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn only_the_right_answer_of_another_server_counts() {
    let reply = |message: &[u8], last: u8| {
        let query = Query::parse(message).unwrap();
        let record = crate::Record {
            name: query.name.clone(),
            ttl: 60,
            data: RecordData::of([192, 0, 2, last].into()),
        };
        crate::wire::Reply { answers: vec![record], ..Default::default() }.encode(&query, true, 512)
    };
    let forged = odd_upstream(move |message| {
        let mut other_id = reply(message, 66);
        other_id[0] ^= 1;
        let mut other_name = reply(message, 66);
        other_name[13] = b'x';
        vec![vec![], vec![0; 3], message.to_vec(), other_id, other_name, reply(message, 1)]
    })
    .await;
    let server = start(zone("cluster.local"), Some(&[forged]), Limits::default()).await;
    let answer = udp(&server, &question("example.com", RecordType::A)).await;
    assert_eq!(addresses(&answer), [IpAddr::from([192, 0, 2, 1])]);
}

#[tokio::test]
async fn servers_that_do_not_answer_are_passed_over_and_nobody_answering_is_said() {
    let silent = odd_upstream(|_| vec![]).await;
    let gone = {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    let upstream = start(zone("test.example"), None, Limits::default()).await;
    let server =
        start(zone("cluster.local"), Some(&[silent, gone, upstream.address]), Limits::default()).await;
    let outside = question("web.shop.svc.test.example", RecordType::A);
    assert_eq!(addresses(&udp(&server, &outside).await).len(), 1);
    let refusing = start(zone("else.example"), None, Limits::default()).await;
    let second =
        start(zone("cluster.local"), Some(&[refusing.address, upstream.address]), Limits::default()).await;
    assert_eq!(addresses(&udp(&second, &outside).await).len(), 1);
    let nowhere = question("example.com", RecordType::A);
    assert_eq!(udp(&second, &nowhere).await.rcode(), Rcode::REFUSED, "by both");
    let none = start(zone("cluster.local"), Some(&[silent]), Limits::default()).await;
    assert_eq!(udp(&none, &outside).await.rcode(), Rcode::SERVER_FAILURE);
    let empty = start(zone("cluster.local"), Some(&[]), Limits::default()).await;
    assert_eq!(udp(&empty, &outside).await.rcode(), Rcode::SERVER_FAILURE);
}

#[tokio::test]
async fn floods_for_outside_do_not_touch_what_is_ours() {
    let silent = odd_upstream(|_| vec![]).await;
    let limits = Limits { forwards: (8, 4), ..Limits::default() };
    let server = start(zone("cluster.local"), Some(&[silent]), limits).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..100u16 {
        let query = question(&format!("n{n}.example.com"), RecordType::A);
        client.send_to(&query.encode(n), server.address).await.unwrap();
    }
    // All but the allowed ones fail at once, and own names are answered meanwhile.
    let mut buffer = [0; 512];
    for _ in 0..96 {
        let length = timeout(PATIENCE, client.recv(&mut buffer)).await.expect("in time").unwrap();
        assert_eq!(u16::from(buffer[..length][3] & 15), Rcode::SERVER_FAILURE.0);
    }
    assert_eq!(addresses(&udp(&server, &question(WEB, RecordType::A)).await).len(), 1);
    assert!(server.seen.rejected.load(Ordering::Relaxed) > 0);
    // When the questions have had their time, there is room again.
    for _ in 0..4 {
        timeout(PATIENCE, client.recv(&mut buffer)).await.expect("in time").unwrap();
    }
    let before = server.seen.rejected.load(Ordering::Relaxed);
    assert_eq!(
        udp(&server, &question("later.example.com", RecordType::A)).await.rcode(),
        Rcode::SERVER_FAILURE
    );
    assert_eq!(server.seen.rejected.load(Ordering::Relaxed), before, "asked, and not answered");
}

#[tokio::test]
async fn nonsense_is_refused_or_ignored_and_harms_nobody() {
    let server = start(zone("cluster.local"), None, Limits::default()).await;
    let good = question(WEB, RecordType::A).encode(9);
    let changed = |at: usize, octet: u8| {
        let mut message = good.clone();
        message[at] = octet;
        message
    };
    // The message, and the code of the answer; none = no answer.
    let mut table: Vec<(Vec<u8>, Option<u8>)> = vec![
        (vec![], None),
        (vec![0; 11], None),
        (changed(2, 0x81), None),
        (vec![0; 12], Some(1)),
        (vec![0xff; 600], None),
        (changed(12, 0xc0), Some(1)),
        (changed(12, 63), Some(1)),
        (changed(11, 9), Some(1)),
        (changed(7, 1), Some(1)),
        (changed(2, 0x29), Some(4)),
        (vec![0x55; 4096], Some(4)),
    ];
    table.extend((12..good.len()).map(|length| (good[..length].to_vec(), Some(1))));
    for (message, code) in table {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&message, server.address).await.unwrap();
        // What comes next is answered: whatever came before it has been read.
        client.send_to(&good, server.address).await.unwrap();
        let mut codes = vec![];
        let mut buffer = [0; 512];
        while codes.last() != Some(&0) {
            let length = timeout(PATIENCE, client.recv(&mut buffer)).await.expect("in time").unwrap();
            codes.push(buffer[..length][3] & 15);
        }
        // Several tasks read, so the bad message's answer may come after the good one's.
        if let Some(code) = code
            && codes.len() == 1
        {
            let length = timeout(PATIENCE, client.recv(&mut buffer)).await.expect("in time").unwrap();
            codes.insert(0, buffer[..length][3] & 15);
            assert!(length >= 12);
            assert_eq!(codes[0], code, "{message:?}");
        }
        assert_eq!(codes.first().filter(|c| **c != 0), code.as_ref(), "{message:?}");
    }
}

#[tokio::test]
async fn connections_carry_many_messages_and_are_bounded() {
    let limits = Limits { connections: (3, 2), idle: Duration::from_secs(60), ..Limits::default() };
    let server = start(zone("cluster.local"), None, limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let message = question(WEB, RecordType::A).encode(5);
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    // Two at once, the second in pieces.
    stream.write_all(&[&framed[..], &framed[..7]].concat()).await.unwrap();
    stream.write_all(&framed[7..]).await.unwrap();
    let mut reply = async || {
        let length = timeout(PATIENCE, stream.read_u16()).await.expect("in time").unwrap();
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    };
    assert_eq!(reply().await, reply().await);
    // A second connection is fine, a third from the same client is closed.
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(&framed).await.unwrap();
    timeout(PATIENCE, second.read_u16()).await.expect("in time").unwrap();
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let _ = third.write_all(&framed).await;
    assert!(timeout(PATIENCE, third.read_u16()).await.expect("in time").is_err());
    // What is no message ends the connection, and makes room.
    second.write_all(&[0, 1, 0]).await.unwrap();
    let mut rest = vec![];
    timeout(PATIENCE, second.read_to_end(&mut rest)).await.expect("in time").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while over_tcp(server.address, &question(WEB, RecordType::A), 1).await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let server = start(zone("cluster.local"), None, limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert!(timeout(PATIENCE, stream.read_u16()).await.expect("in time").is_err());
}

#[tokio::test]
async fn before_everything_is_known_nothing_is_denied_and_the_end_is_orderly() {
    let zone = SharedZone::new(Zone::new(settings()));
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, stop) = (server.address(), CancellationToken::new());
    let seen = Arc::new(Seen::default());
    let resolver = Arc::new(Resolver::new(zone.clone(), None, seen.clone()));
    let task = tokio::spawn(server.serve(resolver, Limits::default(), stop.clone()));
    let running = Running { address, seen, _stop: stop.clone().drop_guard() };
    let query = question(WEB, RecordType::A);
    assert_eq!(udp(&running, &query).await.rcode(), Rcode::SERVER_FAILURE);
    zone.change(|zone| {
        zone.apply_service(Event::Synced);
        zone.apply_slice(Event::Synced);
        zone.apply_import(Event::Synced);
    });
    assert_eq!(udp(&running, &query).await.rcode(), Rcode::NX_DOMAIN);
    let open = TcpStream::connect(address).await.unwrap();
    stop.cancel();
    timeout(PATIENCE, task).await.expect("in time").unwrap();
    drop(open);
    // The port is free again, and taken where another server has it.
    let again = Server::bind(address).await.unwrap();
    let text = Server::bind(again.address()).await.unwrap_err().to_string();
    assert!(text.contains(&address.to_string()), "{text}");
}
