//! A watch call on the wire: the request's body is read and the answer's written by one poll of the
//! connection's task, without a task or a channel of the stream's own.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming};
use prost::Message;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::unary::{MAX_REQUEST, PREFIX};
use super::watch::Watches;
use crate::pb;

/// How often idle watches that asked for it are told the revision (etcd's default).
const PROGRESS: Duration = Duration::from_secs(600);

/// The body of the answer to a watch call.
#[derive(Debug)]
pub(super) struct WatchStream {
    requests: Incoming,
    /// The part of a request that has come.
    partial: BytesMut,
    watches: Watches,
    /// Made when the first watch wants it.
    progress: Option<Pin<Box<Interval>>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The client's half is over; what it asked for is still answered, then this is the end.
    ending: Option<Status>,
    ended: bool,
}

impl WatchStream {
    pub(super) fn new(
        requests: Incoming,
        watches: Watches,
        shutdown: WaitForCancellationFutureOwned,
    ) -> Self {
        let shutdown = Box::pin(shutdown);
        Self {
            requests,
            partial: BytesMut::new(),
            watches,
            progress: None,
            shutdown,
            ending: None,
            ended: false,
        }
    }

    /// Carries out all requests that have come, as long as there is room for their answers; what
    /// the stream ends with, if no more can come.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Option<Status> {
        loop {
            while !self.watches.is_full() {
                match next_message(&mut self.partial) {
                    Ok(Some(message)) => match pb::WatchRequest::decode(message) {
                        Ok(request) => self.watches.request(request),
                        Err(error) => {
                            let text = format!("grpc: failed to unmarshal the request: {error}");
                            return Some(Status::internal(text));
                        }
                    },
                    Ok(None) => break,
                    Err(status) => return Some(status),
                }
            }
            if self.watches.is_full() {
                return None;
            }
            match Pin::new(&mut self.requests).poll_frame(context) {
                Poll::Pending => return None,
                Poll::Ready(None) => return Some(Status::ok("")),
                Poll::Ready(Some(Err(error))) => {
                    return Some(Status::cancelled(error.to_string()));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.partial.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn poll_progress(&mut self, context: &mut Context<'_>) {
        if self.progress.is_none() && self.watches.wants_progress() {
            let mut timer = Box::pin(interval(PROGRESS));
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer.reset();
            self.progress = Some(timer);
        }
        while let Some(timer) = &mut self.progress
            && timer.poll_tick(context).is_ready()
        {
            self.watches.progress();
        }
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        self.watches.ended(status.code());
        let mut trailers = HeaderMap::with_capacity(2);
        // Only a text that no header can hold makes this fail; the stream then ends without one.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.shutdown.as_mut().poll(context).is_ready() {
            let status = Status::unavailable("etcdserver: server stopped");
            return Poll::Ready(Some(Ok(self.end(&status))));
        }
        if self.ending.is_none() {
            self.ending = self.poll_requests(context);
        }
        self.poll_progress(context);
        let out = self.watches.turn(context.waker());
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(out.freeze()))));
        }
        match self.ending.take() {
            None => Poll::Pending,
            Some(status) => Poll::Ready(Some(Ok(self.end(&status)))),
        }
    }
}

/// Takes the next whole message off a buffer.
fn next_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(&[compressed, a, b, c, d]) = buffer.first_chunk::<PREFIX>() else { return Ok(None) };
    if compressed != 0 {
        return Err(Status::unimplemented("grpc: compressed requests are not supported"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_REQUEST {
        let text = format!("grpc: received message larger than max ({length} vs. {MAX_REQUEST})");
        return Err(Status::resource_exhausted(text));
    }
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_any_pieces() {
        let mut buffer = BytesMut::new();
        let mut taken = Vec::new();
        for byte in b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x01c" {
            buffer.extend_from_slice(&[*byte]);
            taken.extend(next_message(&mut buffer).unwrap());
        }
        assert_eq!(taken, [&b"ab"[..], b"", b"c"]);
        let refused = |bytes: &[u8]| next_message(&mut BytesMut::from(bytes)).unwrap_err().code();
        assert_eq!(refused(b"\x01\0\0\0\0"), tonic::Code::Unimplemented);
        assert_eq!(refused(b"\0\xff\0\0\0"), tonic::Code::ResourceExhausted);
    }
}
