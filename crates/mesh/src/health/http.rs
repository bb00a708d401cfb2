//! The probe of a node's agent: a connection to its port 4240, and `GET /hello`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

/// Most connections at a time; further ones are made in a later round.
pub const HTTP_AT_ONCE: usize = 1024;

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Somebody is there: the connection was taken or refused then. The text says what was wrong beyond that.
    Answered(Instant, Option<String>),
    /// This machine has no room for a connection now.
    NoRoom,
    /// Nobody has answered, and why.
    Failed(String),
}

/// Asks once, for at most `patience`.
pub(super) async fn ask(to: SocketAddr, patience: Duration) -> Outcome {
    let begin = tokio::time::Instant::now();
    // What is known at the end must be told before the question is taken for lost.
    let deadline = begin + patience * 4 / 5;
    let mut stream = match timeout_at(begin + patience, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            return Outcome::Answered(Instant::now(), Some("connection refused: no agent listens".into()));
        }
        Ok(Err(error)) if is_ours(&error) => return Outcome::NoRoom,
        Ok(Err(error)) => return Outcome::Failed(error.to_string()),
        Err(_) => return Outcome::Failed(format!("no connection within {} ms", patience.as_millis())),
    };
    let connected = Instant::now();
    let fault = match timeout_at(deadline, exchange(&mut stream, to)).await {
        Ok(Ok(status)) if status == "200" => None,
        Ok(Ok(status)) => Some(format!("the agent answered {status:?} instead of 200")),
        Ok(Err(error)) => Some(format!("connected, but: {error}")),
        Err(_) => Some("connected, but the agent does not answer".to_owned()),
    };
    Outcome::Answered(connected, fault)
}

/// Whether a connection failed for want of descriptors, ports or memory, whatever the other side does.
fn is_ours(error: &std::io::Error) -> bool {
    let ours = [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::EAGAIN, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| ours.contains(&code))
}

/// The status of the answer: the three digits behind the first space.
async fn exchange(stream: &mut TcpStream, to: SocketAddr) -> std::io::Result<String> {
    // The connection is over with the answer; none of its ends has to remember it.
    stream.set_zero_linger()?;
    stream.set_nodelay(true)?;
    let request =
        format!("GET /hello HTTP/1.1\r\nHost: {to}\r\nUser-Agent: causeway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[9..]).into_owned())
}
