//! What a session of the cache does with keys: it checks them and hands the values on as they are.

use bytes::Bytes;
use causeway_kvstore::Pair;
use causeway_model::{ClusterConfig, ClusterInfo, ClusterName};

use crate::keys::{self, Kind, Layout};
use crate::remote::{Intake, Keep, Limits, shown, suffix};
use crate::wire::{self, Reason};

/// The keys of one kind, on their way from a remote cluster to the store. It remembers none of them:
/// the store does.
#[derive(Debug)]
pub struct Copied {
    kind: Kind,
    /// Where they go; known once the first one comes.
    prefix: Option<String>,
    synced: bool,
}

/// One change of what a remote cluster announces; keys are those of the store it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What the cluster announces of itself.
    Config(ClusterConfig),
    /// A listing begins.
    Begins(Kind),
    /// A key with its value.
    Put(Kind, Pair),
    /// The key is there, but its value is refused: the one before stays.
    Held(Kind, Bytes),
    /// A key is gone.
    Gone(Kind, Bytes),
    /// The listing is complete.
    Done(Kind),
    /// All keys of the kind are gone, and nothing is complete any more: the cluster changed its id.
    Dropped(Kind),
    /// The cluster is no longer configured.
    Removed,
}

/// Changes that belong together, for example a page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The cluster.
    pub cluster: ClusterName,
    /// In this order.
    pub changes: Vec<Change>,
}

impl Copied {
    /// The key in the store, of one in the peer's.
    fn key(&mut self, prefix: &str, key: &[u8], from: &ClusterInfo) -> Result<Vec<u8>, &'static str> {
        let suffix = suffix(prefix, key).ok_or("not a text below the prefix of its kind, or too long")?;
        wire::decode_key(self.kind, suffix, from).ok_or("none of its kind")?;
        let to = self.prefix.get_or_insert_with(|| keys::prefix(Layout::Cached, self.kind, &from.name));
        Ok([to.as_bytes(), suffix.as_bytes()].concat())
    }

    fn checked(&mut self, prefix: &str, key: &[u8], intake: &mut Intake<'_>) -> Option<Vec<u8>> {
        match self.key(prefix, key, intake.from) {
            Ok(key) => Some(key),
            Err(rule) => {
                intake.rejected.add(Reason::BadKey, format!("{}: key: {rule}", shown(key)));
                None
            }
        }
    }
}

impl Keep for Copied {
    type Change = Change;
    type Message = Message;
    // Messages hold whole pages.
    const QUEUE: usize = 32;

    fn new(kind: Kind) -> Self {
        Self { kind, prefix: None, synced: false }
    }

    /// The store counts.
    fn count(&self) -> usize {
        0
    }

    fn is_synced(&self) -> bool {
        self.synced
    }

    fn accepted(_: &ClusterInfo, config: &ClusterConfig) -> Option<Change> {
        Some(Change::Config(config.clone()))
    }

    fn list_begins(&mut self) -> Option<Change> {
        Some(Change::Begins(self.kind))
    }

    fn list_done(&mut self, _: &mut Intake<'_>) -> Vec<Change> {
        self.synced = true;
        vec![Change::Done(self.kind)]
    }

    fn put(&mut self, prefix: &str, key: &[u8], value: &[u8], intake: &mut Intake<'_>) -> Option<Change> {
        if value.len() > wire::MAX_VALUE {
            return self.unreadable(prefix, key, intake);
        }
        let to = self.checked(prefix, key, intake)?;
        Some(Change::Put(self.kind, Pair::new(to, value)))
    }

    fn unreadable(&mut self, prefix: &str, key: &[u8], intake: &mut Intake<'_>) -> Option<Change> {
        let to = self.checked(prefix, key, intake)?;
        let text = format!("{}: value: longer than {} bytes", shown(key), wire::MAX_VALUE);
        intake.rejected.add(Reason::ValueTooLarge, text);
        Some(Change::Held(self.kind, to.into()))
    }

    fn delete(&mut self, prefix: &str, key: &[u8], intake: &mut Intake<'_>) -> Option<Change> {
        Some(Change::Gone(self.kind, self.key(prefix, key, intake.from).ok()?.into()))
    }

    fn drop_all(&mut self, _: &mut u64) -> Vec<Change> {
        self.synced = false;
        vec![Change::Dropped(self.kind)]
    }

    /// The mirror bounds what is kept.
    fn has_room_again(&self, _: &Limits, _: u64) -> bool {
        false
    }

    fn removed() -> Change {
        Change::Removed
    }

    fn messages(cluster: &ClusterName, changes: Vec<Change>) -> impl Iterator<Item = Message> + Send {
        let some = (!changes.is_empty()).then(|| Message { cluster: cluster.clone(), changes });
        some.into_iter()
    }
}
