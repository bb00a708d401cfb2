//! What a connection writes in one turn of its task leaves with one write.
//!
//! HTTP/2 has a frame for each stream, and the library below us hands each of more than a few hundred bytes to the socket
//! alone: a hundred watches of one connection would be a hundred system calls for one change, and as many wake-ups of the
//! client. So a [`Cork`] gathers what is written and does not flush; the connection's task pulls it when it has nothing
//! more to do, or when too much is gathered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered at most; a client that does not read makes us hold so many.
const FULL: usize = 64 << 10;
/// A buffer of more bytes is given back when it is empty.
const KEEP: usize = 4 << 10;

/// A stream whose writes are gathered. All clones are the same stream: one is read and written, another pulled.
#[derive(Debug)]
pub(super) struct Cork<S>(Arc<Mutex<Corked<S>>>);

#[derive(Debug)]
struct Corked<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How many of these are written.
    written: usize,
}

impl<S> Clone for Cork<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Cork<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Corked { stream, gathered: Vec::new(), written: 0 })))
    }

    /// Writes what was gathered; pending as long as the peer does not take it.
    pub(super) fn pull(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut corked = self.lock();
        ready!(corked.drain(context))?;
        Pin::new(&mut corked.stream).poll_flush(context)
    }

    fn lock(&self) -> MutexGuard<'_, Corked<S>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    /// Writes what was gathered.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let rest = &self.gathered[self.written..];
            self.written += some(ready!(Pin::new(&mut self.stream).poll_write(context, rest))?)?;
        }
        self.empty();
        Poll::Ready(Ok(()))
    }

    fn empty(&mut self) {
        self.written = 0;
        match self.gathered.capacity() > KEEP {
            true => self.gathered = Vec::new(),
            false => self.gathered.clear(),
        }
    }

    /// Gathers these bytes, or writes them where they are too many; how many of them.
    fn write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while self.gathered.len() + bytes.len() > FULL {
            let rest = &self.gathered[self.written..];
            let both = [IoSlice::new(rest), IoSlice::new(bytes)];
            // What is not vectored takes the first that is not empty.
            let written = some(ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &both))?)?;
            if let Some(more) = written.checked_sub(rest.len()) {
                self.empty();
                if more > 0 {
                    return Poll::Ready(Ok(more));
                }
            } else {
                self.written += written;
            }
        }
        self.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

/// A stream that takes nothing will not take more later.
fn some(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut corked = self.0.lock().expect("nothing panics while it is held");
        Pin::new(&mut corked.stream).poll_read(context, buffer)
    }
}

/// Flushing waits for [`Cork::pull`]. The stream is told not to be vectored: what is gathered is copied anyway, and the
/// library then gathers short frames itself.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut corked = self.lock();
        ready!(corked.drain(context))?;
        Pin::new(&mut corked.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_leaves_when_it_is_pulled() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut cork = Cork::new(ours);
        let mut context = Context::from_waker(Waker::noop());
        for text in ["one ", "two ", "three"] {
            cork.write_all(text.as_bytes()).await.unwrap();
            cork.flush().await.unwrap();
        }
        let mut seen = [0; 64];
        let mut buffer = ReadBuf::new(&mut seen);
        assert!(Pin::new(&mut theirs).poll_read(&mut context, &mut buffer).is_pending(), "nothing yet");
        assert!(cork.pull(&mut context).is_ready());
        let read = theirs.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..read], b"one two three", "at once");
        cork.write_all(b"the end").await.unwrap();
        cork.shutdown().await.unwrap();
        let read = theirs.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..read], b"the end");
        assert_eq!(theirs.read(&mut seen).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_waited_for_and_all_of_it_comes_in_order() {
        // Pieces around every bound, through a pipe that takes less than each of the larger ones.
        let pieces = [1, KEEP, FULL / 2, FULL - 1, 7, FULL, FULL + 1, 3 * FULL, 300, FULL / 2, FULL / 2 + 9];
        let (ours, mut theirs) = tokio::io::duplex(1 << 13);
        let writer = tokio::spawn(async move {
            let mut cork = Cork::new(ours);
            let mut next = 0u8;
            for (n, length) in pieces.into_iter().enumerate() {
                let piece: Vec<u8> = std::iter::repeat_with(|| {
                    next = next.wrapping_mul(5).wrapping_add(3);
                    next
                })
                .take(length)
                .collect();
                cork.write_all(&piece).await.unwrap();
                assert!(cork.lock().gathered.len() <= FULL);
                if n % 2 == 0 {
                    std::future::poll_fn(|context| cork.pull(context)).await.unwrap();
                    assert!(cork.lock().gathered.capacity() <= KEEP);
                }
            }
            cork.shutdown().await.unwrap();
        });
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        writer.await.unwrap();
        assert_eq!(all.len(), pieces.iter().sum::<usize>());
        let mut next = 0u8;
        assert!(all.iter().all(|byte| {
            next = next.wrapping_mul(5).wrapping_add(3);
            *byte == next
        }));
    }
}
