//! Answers the probes of other nodes on port 4240: `GET /hello` is 200, all else 404.
//!
//! Anybody in the network may connect, so what a connection may cost is bounded: its time, its size, and how many
//! there are.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How soon an address that cannot be listened at is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Connections at a time, of one address; those beyond are closed at once.
const AT_ONCE: usize = 512;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request may be.
const MOST: usize = 4096;

/// Why some addresses are not listened at.
pub type Faults = BTreeMap<SocketAddr, String>;

/// Listens at these addresses until `shutdown`. One that is taken keeps nothing else back: it is in `faults` and in
/// the log, and is tried again until it is free.
pub async fn run(addresses: Vec<SocketAddr>, faults: watch::Sender<Faults>, shutdown: CancellationToken) {
    let faults = &faults;
    let each = addresses.into_iter().map(|address| {
        let shutdown = shutdown.clone();
        async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = keep(address, faults) => {}
            }
        }
    });
    futures::future::join_all(each).await;
}

async fn keep(address: SocketAddr, faults: &watch::Sender<Faults>) {
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => {
                if faults.send_if_modified(|faults| faults.remove(&address).is_some()) {
                    tracing::info!(%address, "other nodes' health probes are answered");
                }
                serve(listener).await
            }
            Err(error) => error,
        };
        let fix = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process has the port: stop it, or choose `cluster-health-port`"
            }
            _ => "is the address one of this node's?",
        };
        let text = format!("{error}; {fix}");
        let new =
            faults.send_if_modified(|faults| faults.insert(address, text.clone()).as_ref() != Some(&text));
        if new {
            tracing::warn!(%address, %error, "health probes cannot be answered: {fix}. Other nodes use ICMP alone");
        }
        sleep(RETRY).await;
    }
}

/// Serves until the listener breaks.
async fn serve(listener: TcpListener) -> io::Error {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(place) = room.clone().try_acquire_owned() {
                    tokio::spawn(async move {
                        // A client that hangs up or is too slow is its own matter.
                        let _ = timeout(PATIENCE, answer(stream)).await;
                        drop(place);
                    });
                }
            }
            // Of one connection, or for want of descriptors: the listener is still good.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL)) => return error,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::with_capacity(256);
    let complete = |request: &[u8]| request.windows(4).any(|end| end == b"\r\n\r\n");
    while !complete(&request) {
        if request.len() > MOST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let mut words = request.split(|byte| *byte == b' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let status = match (method, path) {
        (b"GET" | b"HEAD", b"/hello") => "200 OK",
        _ => "404 Not Found",
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn says_hello_and_nothing_else_and_waits_for_a_taken_port() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let (faults, mut seen) = watch::channel(Faults::new());
        let token = CancellationToken::new();
        let (free, end) = ("127.0.0.2:0".parse().unwrap(), token.clone());
        let task = tokio::spawn(async move { run(vec![address, free], faults, end).await });
        seen.wait_for(|faults| faults.contains_key(&address)).await.unwrap();
        assert!(seen.borrow()[&address].contains("cluster-health-port"), "{:?}", seen.borrow());
        assert_eq!(seen.borrow().len(), 1, "the other address is served");
        drop(held);
        timeout(Duration::from_secs(60), seen.wait_for(Faults::is_empty)).await.unwrap().unwrap();

        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(ask(address, &get("/hello")).await.starts_with("HTTP/1.1 200 OK\r\n"));
        for other in [get("/"), get("/hello/x"), get("/hello").replace("GET", "POST"), "x\r\n\r\n".into()] {
            assert!(ask(address, &other).await.starts_with("HTTP/1.1 404 "), "{other}");
        }
        let mut long = TcpStream::connect(address).await.unwrap();
        let _ = long.write_all(&[b'x'; 2 * MOST]).await;
        assert!(!matches!(long.read(&mut [0; 1]).await, Ok(1..)), "too long");
        let outcome = super::super::http::ask(address, Duration::from_secs(60)).await;
        assert!(matches!(outcome, super::super::http::Outcome::Answered(_, None)), "{outcome:?}");
        token.cancel();
        task.await.unwrap();
        let outcome = super::super::http::ask(address, Duration::from_secs(60)).await;
        let super::super::http::Outcome::Answered(_, Some(fault)) = outcome else { panic!("{outcome:?}") };
        assert!(fault.contains("refused"), "{fault}");
    }
}
