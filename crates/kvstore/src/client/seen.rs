//! Whether all answers of a connection are of one store that only goes forward.
//!
//! One address may lead to several stores (replicas behind a Service), and a broken connection is
//! made anew without anybody being asked. Each store counts its own revisions: one that is taken for
//! the continuation of another makes readers miss changes for ever, without a sign.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::ClientError;
use crate::pb;

/// The store a client speaks with, and how far it was when last heard of.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// 0 until the first answer.
    cluster_id: AtomicU64,
    revision: AtomicI64,
}

impl Seen {
    /// What a call that begins now may not fall behind of.
    pub(super) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Takes note of an answer's header.
    ///
    /// # Errors
    /// [`ClientError::NoHeader`]; [`ClientError::AnotherStore`] for a header of another store than
    /// that of the first.
    pub(super) fn check<'a>(
        &self,
        endpoint: &str,
        header: Option<&'a pb::ResponseHeader>,
    ) -> Result<&'a pb::ResponseHeader, ClientError> {
        let endpoint = || endpoint.to_owned();
        let header = header.ok_or_else(|| ClientError::NoHeader { endpoint: endpoint() })?;
        let now = header.cluster_id;
        match self.cluster_id.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
            Err(before) if before != now => {
                Err(ClientError::AnotherStore { endpoint: endpoint(), before, now })
            }
            _ => Ok(header),
        }
    }

    /// The same for a call that sees all that was written before it: one that began at `floor` must
    /// not be answered from before that.
    ///
    /// # Errors
    /// [`ClientError::WentBack`] besides those of [`Seen::check`].
    pub(super) fn check_linear(
        &self,
        endpoint: &str,
        header: Option<&pb::ResponseHeader>,
        floor: i64,
    ) -> Result<(), ClientError> {
        let now = self.check(endpoint, header)?.revision;
        self.revision.fetch_max(now, Ordering::AcqRel);
        match now < floor {
            true => Err(ClientError::WentBack { endpoint: endpoint.to_owned(), before: floor, now }),
            false => Ok(()),
        }
    }
}

/// An answer with a header.
pub(super) trait Answer {
    /// The header.
    fn header(&self) -> Option<&pb::ResponseHeader>;
    /// Whether its revision is that of everything written before the call. In a cluster the other
    /// answers are one member's own.
    const LINEAR: bool;
}

macro_rules! answers {
    ($($message:ident: $linear:literal),+ $(,)?) => {$(
        impl Answer for pb::$message {
            fn header(&self) -> Option<&pb::ResponseHeader> {
                self.header.as_ref()
            }
            const LINEAR: bool = $linear;
        }
    )+};
}

answers!(
    RangeResponse: true,
    PutResponse: true,
    DeleteRangeResponse: true,
    TxnResponse: true,
    LeaseGrantResponse: false,
    LeaseRevokeResponse: false,
    LeaseKeepAliveResponse: false,
    StatusResponse: false,
);

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster_id: u64, revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader { cluster_id, revision, ..Default::default() }
    }

    #[test]
    fn one_store_that_goes_forward() {
        let seen = Seen::default();
        let check =
            |cluster_id, revision, floor| seen.check_linear("e", Some(&header(cluster_id, revision)), floor);
        check(7, 10, seen.revision()).unwrap();
        let earlier = seen.revision();
        check(7, 12, earlier).unwrap();
        // A call that began before the last one was answered may be answered from then.
        check(7, 11, earlier).unwrap();
        assert_eq!(seen.revision(), 12);
        let back = check(7, 11, seen.revision()).unwrap_err();
        assert!(matches!(back, ClientError::WentBack { before: 12, now: 11, .. }), "{back}");
        let other = check(8, 99, seen.revision()).unwrap_err();
        assert!(matches!(other, ClientError::AnotherStore { before: 7, now: 8, .. }), "{other}");
        assert!(matches!(seen.check("e", None), Err(ClientError::NoHeader { .. })));
    }
}
