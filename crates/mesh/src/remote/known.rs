//! What is known of one kind of one remote: enough to turn listings into differences.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use causeway_model::{ClusterConfig, ClusterInfo, ClusterName, Event, NumericIdentity};
use ipnet::IpNet;
use tracing::warn;

use super::keep::{Intake, Keep};
use super::{Limits, RemoteChange, RemoteEvent};
use crate::keys::{self, Kind};
use crate::wire::{self, Entry, EntryKey, Reason, claim};

/// The suffix of a key, in the smallest form: there are hundreds of thousands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Suffix {
    Address(IpNet),
    Identity(NumericIdentity),
    Text(Box<str>),
}

impl Suffix {
    /// Every suffix has one form only: numbers and addresses are read in their canonical text alone.
    fn of(kind: Kind, text: &str) -> Self {
        let number = match kind {
            Kind::Ip => keys::parse_address(text).map(Suffix::Address),
            Kind::Identities => keys::parse_identity(text).map(Suffix::Identity),
            Kind::Nodes | Kind::Services | Kind::ServiceExports => None,
        };
        number.unwrap_or_else(|| Suffix::Text(text.into()))
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Suffix::Address(prefix) => keys::address_suffix(prefix).into(),
            Suffix::Identity(id) => keys::identity_suffix(*id).into(),
            Suffix::Text(text) => Cow::Borrowed(text),
        }
    }
}

/// An entry in force. A listing after a reconnection costs its consumers only what really changed,
/// since values are compared by hash; it is keyed with random numbers, so a peer cannot craft collisions.
#[derive(Debug)]
struct Held {
    hash: u64,
    /// Bytes of suffix and value.
    size: u32,
    /// The listing that named it last.
    listing: u32,
}

/// The entries of a kind, as an agent keeps them: what it is told is decoded, and only what changed.
#[derive(Debug)]
pub struct Known {
    kind: Kind,
    entries: BTreeMap<Suffix, Held>,
    /// Number of the listing under way, or of the last one.
    listing: u32,
    /// Some entry was refused for lack of room: the fewest bytes one of them needs.
    wanting: Option<u64>,
    hasher: RandomState,
    started: bool,
    synced: bool,
}

impl Keep for Known {
    type Change = RemoteChange;
    type Message = RemoteEvent;
    const QUEUE: usize = 1024;

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            entries: BTreeMap::new(),
            listing: 0,
            wanting: None,
            hasher: RandomState::new(),
            started: false,
            synced: false,
        }
    }

    fn count(&self) -> usize {
        self.entries.len()
    }

    fn is_synced(&self) -> bool {
        self.synced
    }

    fn accepted(_: &ClusterInfo, _: &ClusterConfig) -> Option<RemoteChange> {
        None
    }

    fn list_begins(&mut self) -> Option<RemoteChange> {
        self.listing = self.listing.wrapping_add(1);
        self.wanting = None;
        let first = !std::mem::replace(&mut self.started, true);
        first.then(|| reset(self.kind))
    }

    fn list_done(&mut self, intake: &mut Intake<'_>) -> Vec<RemoteChange> {
        let mut out = vec![];
        let listing = self.listing;
        for (suffix, held) in self.entries.extract_if(.., |_, held| held.listing != listing) {
            *intake.used -= u64::from(held.size);
            out.extend(wire::decode_key(self.kind, &suffix.text(), intake.from).map(remove));
        }
        if !std::mem::replace(&mut self.synced, true) {
            // A tree that grew key by key is a third empty; built at once it is full.
            self.entries = std::mem::take(&mut self.entries).into_iter().collect();
            out.push(synced(self.kind));
        }
        out
    }

    fn put(
        &mut self,
        prefix: &str,
        key: &[u8],
        value: &[u8],
        intake: &mut Intake<'_>,
    ) -> Option<RemoteChange> {
        let Some(suffix) = suffix(prefix, key) else {
            intake.rejected.add(Reason::BadKey, not_below(prefix, key));
            return None;
        };
        let hash = self.hasher.hash_one(value);
        let mut before = 0;
        let key = Suffix::of(self.kind, suffix);
        if let Some(held) = self.entries.get_mut(&key) {
            held.listing = self.listing;
            before = u64::from(held.size);
            if held.hash == hash {
                return None;
            }
        }
        let full = format!("{prefix}{suffix}");
        let entry = wire::decode(self.kind, &full, suffix, value, intake.from).and_then(|entry| {
            claim::check_own(&entry, intake.own).map_err(|fault| fault.at(&full))?;
            Ok(entry)
        });
        let entry = match entry {
            Ok(Entry::Service(service)) if !service.shared => return self.remove(suffix, intake),
            Ok(entry) => entry,
            Err(error) => {
                self.refuse(suffix, error.reason, &error.to_string(), intake);
                return None;
            }
        };
        let size = (suffix.len() + value.len()) as u32;
        if let Err((reason, text)) = self.check_room(before, size, intake) {
            self.refuse(suffix, reason, &format!("{full}: {text}"), intake);
            return None;
        }
        *intake.used = *intake.used - before + u64::from(size);
        self.entries.insert(key, Held { hash, size, listing: self.listing });
        Some(upsert(entry))
    }

    fn delete(&mut self, prefix: &str, key: &[u8], intake: &mut Intake<'_>) -> Option<RemoteChange> {
        self.remove(suffix(prefix, key)?, intake)
    }

    fn unreadable(&mut self, prefix: &str, key: &[u8], intake: &mut Intake<'_>) -> Option<RemoteChange> {
        let Some(suffix) = suffix(prefix, key) else {
            intake.rejected.add(Reason::BadKey, not_below(prefix, key));
            return None;
        };
        if let Some(held) = self.entries.get_mut(&Suffix::of(self.kind, suffix)) {
            held.listing = self.listing;
        }
        let text = format!("{prefix}{suffix}: value: longer than a whole message may be");
        self.refuse(suffix, Reason::ValueTooLarge, &text, intake);
        None
    }

    fn drop_all(&mut self, used: &mut u64) -> Vec<RemoteChange> {
        let was_started = std::mem::replace(&mut self.started, false);
        *used -= self.entries.values().map(|held| u64::from(held.size)).sum::<u64>();
        self.entries.clear();
        self.wanting = None;
        self.synced = false;
        if was_started { vec![reset(self.kind), synced(self.kind)] } else { vec![] }
    }

    fn has_room_again(&self, limits: &Limits, used: u64) -> bool {
        self.wanting
            .is_some_and(|bytes| self.count() < limits.keys(self.kind) && used + bytes <= limits.bytes)
    }

    fn removed() -> RemoteChange {
        RemoteChange::Removed
    }

    fn messages(
        cluster: &ClusterName,
        changes: Vec<RemoteChange>,
    ) -> impl Iterator<Item = RemoteEvent> + Send {
        changes.into_iter().map(|change| RemoteEvent { cluster: cluster.clone(), change })
    }
}

impl Known {
    fn check_room(&mut self, before: u64, size: u32, intake: &Intake<'_>) -> Result<(), (Reason, String)> {
        let (max, budget) = (intake.limits.keys(self.kind), intake.limits.bytes);
        let more = u64::from(size).saturating_sub(before);
        let refusal = if before == 0 && self.entries.len() >= max {
            let text = format!("{max} keys of {} are held already; no more are accepted", self.kind.word());
            (Reason::OverKeyLimit, text)
        } else if *intake.used + more > budget {
            (Reason::OverBudget, format!("more than the {budget} bytes accepted of one cluster"))
        } else {
            return Ok(());
        };
        self.wanting = Some(self.wanting.map_or(more, |least| least.min(more)));
        Err(refusal)
    }

    /// Counts a refusal. The log gets the first of its reason, then ever fewer: it is a peer who decides
    /// how many there are.
    fn refuse(&self, suffix: &str, reason: Reason, text: &str, intake: &mut Intake<'_>) {
        intake.rejected.add(reason, text.to_owned());
        let count = intake.rejected.of(reason);
        if count.is_power_of_two() {
            let kept = self.entries.contains_key(&Suffix::of(self.kind, suffix));
            let cluster = &intake.from.name;
            warn!(%cluster, %reason, count, error = text, kept_old_value = kept, "an entry of a remote cluster is refused");
        }
    }

    fn remove(&mut self, suffix: &str, intake: &mut Intake<'_>) -> Option<RemoteChange> {
        let held = self.entries.remove(&Suffix::of(self.kind, suffix))?;
        *intake.used -= u64::from(held.size);
        wire::decode_key(self.kind, suffix, intake.from).map(remove)
    }
}

/// The part of a key behind the prefix; `None` for foreign and non-text keys.
pub(crate) fn suffix<'a>(prefix: &str, key: &'a [u8]) -> Option<&'a str> {
    if key.len() > keys::MAX_KEY {
        return None;
    }
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)
}

/// The beginning of a key, for messages.
pub(crate) fn shown(key: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&key[..key.len().min(200)])
}

fn not_below(prefix: &str, key: &[u8]) -> String {
    let (shown, max) = (shown(key), keys::MAX_KEY);
    format!("{shown}: key: {} bytes; not a text of at most {max} below {prefix}", key.len())
}

fn reset(kind: Kind) -> RemoteChange {
    match kind {
        Kind::Nodes => RemoteChange::Node(Event::Reset),
        Kind::Services => RemoteChange::Service(Event::Reset),
        Kind::ServiceExports => RemoteChange::Export(Event::Reset),
        Kind::Identities => RemoteChange::Identity(Event::Reset),
        Kind::Ip => RemoteChange::Address(Event::Reset),
    }
}

fn synced(kind: Kind) -> RemoteChange {
    match kind {
        Kind::Nodes => RemoteChange::Node(Event::Synced),
        Kind::Services => RemoteChange::Service(Event::Synced),
        Kind::ServiceExports => RemoteChange::Export(Event::Synced),
        Kind::Identities => RemoteChange::Identity(Event::Synced),
        Kind::Ip => RemoteChange::Address(Event::Synced),
    }
}

fn upsert(entry: Entry) -> RemoteChange {
    match entry {
        Entry::Node(value) => RemoteChange::Node(Event::Upsert(value)),
        Entry::Service(value) => RemoteChange::Service(Event::Upsert(value)),
        Entry::Export(value) => RemoteChange::Export(Event::Upsert(value)),
        Entry::Identity(value) => RemoteChange::Identity(Event::Upsert(value)),
        Entry::Address(value) => RemoteChange::Address(Event::Upsert(value)),
    }
}

fn remove(key: EntryKey) -> RemoteChange {
    match key {
        EntryKey::Node(key) => RemoteChange::Node(Event::Remove(key)),
        EntryKey::Service(key) => RemoteChange::Service(Event::Remove(key)),
        EntryKey::Export(key) => RemoteChange::Export(Event::Remove(key)),
        EntryKey::Identity(key) => RemoteChange::Identity(Event::Remove(key)),
        EntryKey::Address(key) => RemoteChange::Address(Event::Remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_its_text() {
        for (kind, text) in [
            (Kind::Ip, "10.2.0.1"),
            (Kind::Ip, "fd00::/64"),
            (Kind::Ip, "010.2.0.1"),
            (Kind::Identities, "140013"),
            (Kind::Identities, "+7"),
            (Kind::Nodes, "10.2.0.1"),
            (Kind::Services, "shop/cart"),
        ] {
            let suffix = Suffix::of(kind, text);
            assert_eq!(suffix.text(), text);
            let short = matches!(text, "10.2.0.1" | "fd00::/64" | "140013") && kind != Kind::Nodes;
            assert_eq!(matches!(suffix, Suffix::Text(_)), !short, "{text}");
        }
        assert!(size_of::<Suffix>() <= 24);
    }
}
