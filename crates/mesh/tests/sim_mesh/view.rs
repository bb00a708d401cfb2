//! What a reader was told of one remote cluster, with what must hold at every moment.

use std::collections::{BTreeMap, BTreeSet};

use causeway_mesh::keys::Kind;
use causeway_mesh::remote::RemoteChange;
use causeway_mesh::wire::{Entry, EntryKey};
use causeway_model::{Event, Keyed};

use crate::cluster::Cluster;
use crate::content::{self, EVIL};

#[derive(Default)]
pub(crate) struct View {
    pub(crate) entries: BTreeMap<EntryKey, Entry>,
    /// When (in steps of the world) an entry was known to be published.
    seen_at: BTreeMap<EntryKey, u64>,
    stale: BTreeMap<Kind, BTreeSet<EntryKey>>,
}

/// One change, of whatever kind.
enum Told {
    Reset(Kind),
    Upsert(Box<Entry>),
    Remove(EntryKey),
    Synced(Kind),
}

fn told<T: Keyed>(
    kind: Kind,
    event: Event<T>,
    entry: impl FnOnce(T) -> Entry,
    key: impl FnOnce(T::Key) -> EntryKey,
) -> Told {
    match event {
        Event::Reset => Told::Reset(kind),
        Event::Upsert(value) => Told::Upsert(Box::new(entry(value))),
        Event::Remove(gone) => Told::Remove(key(gone)),
        Event::Synced => Told::Synced(kind),
    }
}

impl View {
    /// Takes a change that was made of an answer of step `at`. `may_revoke`: services and exports may be
    /// withdrawn for a reason of the reader's own.
    pub(crate) fn apply(&mut self, change: RemoteChange, of: &Cluster, at: u64, may_revoke: bool) {
        let told = match change {
            RemoteChange::Node(e) => told(Kind::Nodes, e, Entry::Node, EntryKey::Node),
            RemoteChange::Address(e) => told(Kind::Ip, e, Entry::Address, EntryKey::Address),
            RemoteChange::Identity(e) => told(Kind::Identities, e, Entry::Identity, EntryKey::Identity),
            RemoteChange::Service(e) => told(Kind::Services, e, Entry::Service, EntryKey::Service),
            RemoteChange::Export(e) => told(Kind::ServiceExports, e, Entry::Export, EntryKey::Export),
            RemoteChange::Removed => {
                self.entries.clear();
                return self.seen_at.clear();
            }
        };
        match told {
            Told::Reset(kind) => {
                let of_kind = self.entries.keys().filter(|key| key.suffix().0 == kind);
                self.stale.insert(kind, of_kind.cloned().collect());
            }
            Told::Upsert(entry) => {
                let key = entry.key();
                if !of.id_changed {
                    let version = content::version(&entry, &of.info);
                    assert!(version < EVIL, "garbage of {} was accepted: {entry:?}", of.info.name);
                }
                if let Some(stale) = self.stale.get_mut(&key.suffix().0) {
                    stale.remove(&key);
                }
                self.seen_at.insert(key.clone(), at);
                self.entries.insert(key, *entry);
            }
            Told::Remove(key) => {
                let gone_at = of.gone_at.get(&key).copied().unwrap_or(0).max(of.all_gone_at);
                let seen_at = self.seen_at.get(&key).copied().unwrap_or(0);
                assert!(
                    gone_at >= seen_at || !of.always_marked || of.id_changed,
                    "{key:?} of {} was withdrawn though it has been published since step {seen_at}",
                    of.info.name
                );
                self.entries.remove(&key);
            }
            Told::Synced(kind) => {
                let stale = self.stale.remove(&kind).unwrap_or_default();
                let revocable = may_revoke && matches!(kind, Kind::Services | Kind::ServiceExports);
                let unsupported = kind == Kind::ServiceExports && of.config.service_exports_enabled.is_none();
                assert!(
                    stale.is_empty() || of.id_changed || revocable || unsupported || !of.always_marked,
                    "{} of {} were dropped at once",
                    kind.word(),
                    of.info.name
                );
                for key in stale {
                    self.entries.remove(&key);
                }
            }
        }
    }
}
