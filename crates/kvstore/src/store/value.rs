//! The value of a key, in one copy for all who hold it.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

/// A value in memory of exactly its size. A clone shares it: whoever writes a value from within this process may go on
/// holding it, and the store has no other copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(Arc<[u8]>);

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Value {
    /// A copy: what comes off the network is a slice of a buffer many times larger, which it would keep alive.
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::from(&bytes[..])
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::from(text.into_bytes())
    }
}

impl From<&Value> for Bytes {
    fn from(value: &Value) -> Self {
        Bytes::copy_from_slice(value)
    }
}
