//! Echo servers, and a client that sends a stream through one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Answer, resolve, udp_socket};
use crate::error::Result;
use crate::runtime::Context;

pub(super) async fn tcp(listen: SocketAddr) -> Result<u8> {
    let listener = TcpListener::bind(listen).await.what(|| format!("listen on {listen}"))?;
    println!("listening on {listen}");
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

pub(super) async fn udp(listen: SocketAddr) -> Result<u8> {
    let socket = udp_socket(listen).await.what(|| format!("listen on {listen}"))?;
    println!("listening on {listen}");
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((n, client)) = socket.recv_from(&mut buffer).await else { continue };
        if &buffer[..n] == b"whoami" {
            let text = serde_json::to_vec(&Answer::own(client)).unwrap_or_default();
            let _ = socket.send_to(&text, client).await;
        } else {
            let _ = socket.send_to(&buffer[..n], client).await;
        }
    }
}

/// Send bytes to a TCP echo server and compare what comes back
#[derive(Debug, Args)]
pub(super) struct Stream {
    /// HOST:PORT
    target: String,
    /// How many bytes
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// Seconds it may take
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

impl Stream {
    pub(super) async fn run(self) -> Result<u8> {
        let start = Instant::now();
        let limit = Duration::from_secs(self.timeout);
        let outcome = tokio::time::timeout(limit, self.exchange()).await;
        let result = match outcome {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("what came back is not what was sent".to_string()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("not finished after {} s", self.timeout)),
        };
        let ms = start.elapsed().as_millis();
        let error = result.as_ref().err();
        println!("{}", serde_json::json!({"bytes": self.bytes, "milliseconds": ms, "error": error}));
        Ok(u8::from(result.is_err()))
    }

    async fn exchange(&self) -> std::io::Result<bool> {
        let target = resolve(&self.target).await?;
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let (mut read, mut write) = stream.into_split();
        let sent: Vec<u8> = (0..self.bytes).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let sender = tokio::spawn(async move {
            write.write_all(&sent).await?;
            write.shutdown().await
        });
        let mut received = Vec::with_capacity(expected.len());
        read.read_to_end(&mut received).await?;
        sender.await.map_err(std::io::Error::other)??;
        Ok(received == expected)
    }
}
