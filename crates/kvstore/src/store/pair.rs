//! A key with its value, in one piece of memory for all who hold it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use triomphe::ThinArc;

/// A key with its value, or a key that is gone. A clone shares the memory, which is of exactly their size: whoever
/// writes from within this process may go on holding what it wrote, and the store has no other copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair(ThinArc<Head, u8>);

/// What precedes the bytes of key and value.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    /// Bytes of the key.
    key: u32,
    /// There is a value, though it may be empty.
    put: bool,
}

impl Pair {
    /// A copy: what comes off the network is a slice of a buffer many times larger, which it would keep alive.
    ///
    /// # Panics
    /// With a key of 4 GiB.
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::of(key.as_ref(), value.as_ref(), true)
    }

    /// Says that the key is gone.
    pub(super) fn tombstone(key: &[u8]) -> Self {
        Self::of(key, &[], false)
    }

    fn of(key: &[u8], value: &[u8], put: bool) -> Self {
        let head = Head { key: u32::try_from(key.len()).expect("a key is shorter than 4 GiB"), put };
        Self(ThinArc::from_header_and_slice(head, &[key, value].concat()))
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.0.slice[..self.0.header.header.key as usize]
    }

    /// The value; empty for a key that is gone.
    pub fn value(&self) -> &[u8] {
        &self.0.slice[self.0.header.header.key as usize..]
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.0.slice.len()
    }

    /// Whether there is a value.
    pub(super) fn is_put(&self) -> bool {
        self.0.header.header.put
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let value = self.is_put().then(|| text(self.value()));
        f.debug_tuple("Pair").field(&text(self.key())).field(&value).finish()
    }
}

/// A pair in a set of keys: whatever their values, pairs of one key are the same.
#[derive(Debug, Clone)]
pub struct ByKey(pub Pair);

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_value_are_apart() {
        for (key, value) in [("k", "v"), ("k", ""), ("key", "a long value")] {
            let pair = Pair::new(key, value);
            assert_eq!(
                (pair.key(), pair.value(), pair.size()),
                (key.as_bytes(), value.as_bytes(), key.len() + value.len())
            );
            assert!(pair.is_put() && std::ptr::eq(pair.key(), pair.clone().key()));
        }
        let gone = Pair::tombstone(b"k");
        assert!(!gone.is_put() && gone.value().is_empty());
        assert_ne!(gone, Pair::new("k", ""));
        assert_ne!(Pair::new("ab", "c"), Pair::new("a", "bc"));
    }

    #[test]
    fn it_is_one_thin_pointer() {
        assert_eq!(size_of::<Option<Pair>>(), size_of::<usize>());
    }
}
