//! The one vocabulary every stage of Causeway speaks.

/// A value with a key of its own, so that it can be removed by that key.
pub trait Keyed {
    /// The key; unique among the values of one stream.
    type Key: Ord + Clone + std::fmt::Debug + Send + Sync + 'static;
    /// The key of this value.
    fn key(&self) -> Self::Key;
}

/// One change of a keyed collection.
///
/// `Reset … Synced` brackets a full listing: what was known before `Reset` and is not upserted
/// again before `Synced` is gone. Between them the consumer keeps the old generation in force, so
/// there is no gap; a lost peer is just "no `Synced` yet".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T: Keyed> {
    /// A full listing begins.
    Reset,
    /// The value exists and is this now.
    Upsert(T),
    /// The value is gone.
    Remove(T::Key),
    /// The full listing is complete; what it did not name is gone.
    Synced,
}

impl<T: Keyed> Event<T> {
    /// The same change of a derived value; `f` must keep the key's meaning, `k` maps the key.
    pub fn map<U: Keyed>(self, f: impl FnOnce(T) -> U, k: impl FnOnce(T::Key) -> U::Key) -> Event<U> {
        match self {
            Event::Reset => Event::Reset,
            Event::Upsert(value) => Event::Upsert(f(value)),
            Event::Remove(key) => Event::Remove(k(key)),
            Event::Synced => Event::Synced,
        }
    }
}
