//! What a session does with the keys it reads.

use causeway_model::{ClusterConfig, ClusterInfo, ClusterName};
use ipnet::IpNet;

use super::{Limits, RejectedStatus};
use crate::keys::Kind;

/// What a session holds every entry against, and where it counts.
#[derive(Debug)]
pub struct Intake<'a> {
    /// The peer.
    pub(crate) from: &'a ClusterInfo,
    /// How much of it is accepted.
    pub(crate) limits: &'a Limits,
    /// Prefixes of this node.
    pub(crate) own: &'a [IpNet],
    /// Bytes of keys and values in force, of all kinds.
    pub(crate) used: &'a mut u64,
    /// What was refused.
    pub(crate) rejected: &'a mut RejectedStatus,
}

/// The keys of one kind of one remote cluster, on their way to a consumer. The session decides when
/// something is listed, changed or gone; this decides what is told of it. Agents keep
/// [`Known`](super::Known) and are told decoded entries; a cache is told the values as they came.
pub trait Keep: std::fmt::Debug + Send + Sized + 'static {
    /// What is told.
    type Change: std::fmt::Debug + Send + 'static;
    /// What the consumer receives.
    type Message: std::fmt::Debug + Send + 'static;
    /// Messages that wait for the consumer; more of them slow the readers down.
    const QUEUE: usize;

    /// Nothing is known yet.
    fn new(kind: Kind) -> Self;
    /// Keys in force.
    fn count(&self) -> usize;
    /// Whether everything has been listed at least once.
    fn is_synced(&self) -> bool;
    /// The peer's configuration was accepted: the data that follow are under this one.
    fn accepted(peer: &ClusterInfo, config: &ClusterConfig) -> Option<Self::Change>;
    /// A listing begins. Nothing is deleted before it is complete.
    fn list_begins(&mut self) -> Option<Self::Change>;
    /// The listing is complete: what it did not name is gone.
    fn list_done(&mut self, intake: &mut Intake<'_>) -> Vec<Self::Change>;
    /// A key with its value. A refused value leaves the one before in force and is counted.
    fn put(
        &mut self,
        prefix: &str,
        key: &[u8],
        value: &[u8],
        intake: &mut Intake<'_>,
    ) -> Option<Self::Change>;
    /// A key that is there with a value too large to be read: refused and counted like any other.
    fn unreadable(&mut self, prefix: &str, key: &[u8], intake: &mut Intake<'_>) -> Option<Self::Change>;
    /// A key is gone; an unknown one is ignored.
    fn delete(&mut self, prefix: &str, key: &[u8], intake: &mut Intake<'_>) -> Option<Self::Change>;
    /// Everything is gone at once; the next listing starts from nothing. What it used is given back.
    fn drop_all(&mut self, used: &mut u64) -> Vec<Self::Change>;
    /// An entry that was refused for lack of room would fit now: the kind is listed again.
    fn has_room_again(&self, limits: &Limits, used: u64) -> bool;
    /// The cluster is no longer configured.
    fn removed() -> Self::Change;
    /// What the consumer receives for these changes, which belong together.
    fn messages(
        cluster: &ClusterName,
        changes: Vec<Self::Change>,
    ) -> impl Iterator<Item = Self::Message> + Send;
}
