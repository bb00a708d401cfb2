//! gRPC's unary calls without the machinery for streams: one message in, one out, no buffers kept.
//!
//! A store in memory answers at once, so nothing here waits for more than the request's own bytes;
//! a durable one lets writers wait for its log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prost::Message;
use tonic::Status;

use super::kv::{Kv, Method, Reply};
use super::watch_stream::WatchStream;

/// Longest request in bytes. The store's own limit is lower and has the better text.
pub(super) const MAX_REQUEST: usize = 4 << 20;
/// What precedes a message: whether it is compressed (never), and its length.
pub(super) const PREFIX: usize = 5;

/// What a call is answered with.
#[derive(Debug)]
pub(super) enum Answer {
    /// One message, then the good end of the call.
    Message(Option<Bytes>),
    /// The end of the call, not yet told.
    Done,
    /// Nothing more.
    Nothing,
    /// A watch.
    Watch(Box<WatchStream>),
    /// From tonic's services.
    Tonic(tonic::body::Body),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Message(message) => {
                let frame = message.take().map(|message| Ok(Frame::data(message)));
                *self = Self::Done;
                Poll::Ready(frame)
            }
            Self::Done => {
                *self = Self::Nothing;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::Nothing => Poll::Ready(None),
            Self::Watch(stream) => stream.poll_frame(context),
            Self::Tonic(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Message(_) | Self::Done => false,
            Self::Watch(stream) => stream.is_end_stream(),
            Self::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Tonic(body) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// A unary call in progress: collects the request, then answers it.
pub(super) struct Unary {
    kv: Arc<Kv>,
    method: Method,
    body: Incoming,
    /// The request so far: mostly one piece, which is then not copied.
    first: Bytes,
    rest: BytesMut,
    /// The answer, where it has to be waited for.
    later: Option<BoxFuture<'static, Result<Bytes, Status>>>,
}

impl Unary {
    pub(super) fn new(kv: Arc<Kv>, method: Method, request: Request<Incoming>) -> Self {
        let body = request.into_body();
        Self { kv, method, body, first: Bytes::new(), rest: BytesMut::new(), later: None }
    }

    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        while let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) {
            let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            if self.first.is_empty() {
                self.first = data;
                continue;
            }
            if self.rest.is_empty() {
                self.rest.extend_from_slice(&self.first);
            }
            self.rest.extend_from_slice(&data);
            if self.rest.len() > MAX_REQUEST + PREFIX {
                return Poll::Ready(Err(Status::resource_exhausted(format!(
                    "grpc: received message larger than max ({MAX_REQUEST})"
                ))));
            }
        }
        let whole = match self.rest.is_empty() {
            true => std::mem::take(&mut self.first),
            false => std::mem::take(&mut self.rest).freeze(),
        };
        Poll::Ready(message(whole))
    }
}

impl Future for Unary {
    type Output = Result<Response<Answer>, std::convert::Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.later.is_none() {
            let request = ready!(self.poll_request(context));
            match request.map(|request| self.kv.call(self.method, request)) {
                Ok(Reply::Later(later)) => self.later = Some(later),
                Ok(Reply::Ready(answer)) => return Poll::Ready(Ok(self.answered(answer))),
                Err(status) => return Poll::Ready(Ok(self.answered(Err(status)))),
            }
        }
        match &mut self.later {
            Some(later) => {
                let answer = ready!(later.as_mut().poll(context));
                Poll::Ready(Ok(self.answered(answer)))
            }
            None => Poll::Pending,
        }
    }
}

impl Unary {
    fn answered(&self, answer: Result<Bytes, Status>) -> Response<Answer> {
        let code = answer.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.kv.metrics.handled(self.method as usize, code);
        match answer {
            Ok(message) => accepted(Answer::Message(Some(message))),
            Err(status) => refused(status),
        }
    }
}

/// A call whose answer is a body.
pub(super) fn accepted(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// A call that ends with its headers.
pub(super) fn refused(status: Status) -> Response<Answer> {
    status.into_http::<tonic::body::Body>().map(Answer::Tonic)
}

/// The one message of a unary request.
fn message(mut framed: Bytes) -> Result<Bytes, Status> {
    match *framed {
        [0, a, b, c, d, ref rest @ ..] if u32::from_be_bytes([a, b, c, d]) as usize == rest.len() => {
            Ok(framed.split_off(PREFIX))
        }
        [1, ..] => Err(Status::unimplemented("grpc: compressed requests are not supported")),
        _ => Err(Status::internal("grpc: the request is not one whole message")),
    }
}

/// Encodes a message with its prefix.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).expect("answers are bounded far below 4 GiB"));
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

/// Fills in the prefix of a message that was encoded behind room for it.
pub(super) fn sealed(mut framed: BytesMut) -> Bytes {
    let length = u32::try_from(framed.len() - PREFIX).expect("answers are bounded far below 4 GiB");
    framed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_exactly_one_message() {
        assert_eq!(message(Bytes::from_static(b"\0\0\0\0\x02ab")).unwrap(), "ab");
        assert_eq!(message(Bytes::from_static(b"\0\0\0\0\0")).unwrap(), "");
        for (bad, code) in [
            (&b""[..], tonic::Code::Internal),
            (b"\0\0\0\0", tonic::Code::Internal),
            (b"\0\0\0\0\x03ab", tonic::Code::Internal),
            (b"\0\0\0\0\x01ab", tonic::Code::Internal),
            (b"\x01\0\0\0\x02ab", tonic::Code::Unimplemented),
        ] {
            assert_eq!(message(Bytes::from_static(bad)).unwrap_err().code(), code, "{bad:?}");
        }
    }
}
