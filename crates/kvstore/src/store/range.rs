//! Key ranges as etcd writes them: a key and a range end.

use std::ops::Bound;

use bytes::Bytes;

use crate::pb;

/// A set of adjacent keys: `[key, end)`, one key, or everything from a key on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum End {
    /// Only the start key.
    Single,
    /// Up to, not including, this key.
    Before(Bytes),
    /// No end.
    Open,
}

impl From<&KeyRange> for pb::RangeRequest {
    /// A read of all keys of the range as they are now.
    fn from(range: &KeyRange) -> Self {
        Self { key: range.start.clone(), range_end: range.range_end(), ..Default::default() }
    }
}

impl KeyRange {
    /// The range of a request: an empty `range_end` means the one key, a single zero byte means
    /// everything from `key` on (a `key` of one zero byte then is the first key of all).
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => End::Single,
            [0] => End::Open,
            _ => End::Before(range_end),
        };
        Self { start: key, end }
    }

    /// One key.
    pub fn single(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: End::Single }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        Self::new(start.clone(), prefix_end(&start))
    }

    /// The key or first key.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// The `range_end` of a request for this range.
    pub fn range_end(&self) -> Bytes {
        match &self.end {
            End::Single => Bytes::new(),
            End::Before(end) => end.clone(),
            End::Open => Bytes::from_static(&[0]),
        }
    }

    /// Whether it is one key rather than a range.
    pub fn is_single(&self) -> bool {
        self.end == End::Single
    }

    /// Whether it has no end.
    pub(crate) fn is_open(&self) -> bool {
        self.end == End::Open
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        let within = match self.last() {
            Bound::Included(last) => key <= last,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        within && key >= &self.start[..]
    }

    /// Whether the whole of `other` is in it.
    pub fn covers(&self, other: &KeyRange) -> bool {
        match (&self.end, &other.end) {
            (_, End::Single) => self.contains(&other.start),
            (End::Single, _) => false,
            (End::Open, _) => self.start <= other.start,
            (End::Before(_), End::Open) => false,
            (End::Before(mine), End::Before(theirs)) => {
                self.start <= other.start && other.start < *theirs && theirs <= mine
            }
        }
    }

    /// Whether every key of it is in one of `ranges`, which may adjoin or overlap.
    pub fn is_covered_by(&self, ranges: &[KeyRange]) -> bool {
        if ranges.iter().any(|range| range.covers(self)) {
            return true;
        }
        // Walk along: from the first key not covered yet to the end of a range that holds it.
        let mut uncovered = match &self.end {
            End::Single => return false,
            End::Before(end) if *end <= self.start => return false,
            End::Before(_) | End::Open => self.start.clone(),
        };
        loop {
            let next = ranges.iter().filter(|range| range.contains(&uncovered)).map(|range| &range.end);
            let next = next.filter(|end| **end != End::Single).max_by(|a, b| match (a, b) {
                (End::Before(a), End::Before(b)) => a.cmp(b),
                (a, b) => (**a == End::Open).cmp(&(**b == End::Open)),
            });
            match (next, &self.end) {
                (None, _) => return false,
                (Some(End::Before(reached)), End::Before(end)) if reached >= end => return true,
                (Some(End::Before(reached)), _) => uncovered = reached.clone(),
                (Some(_), _) => return true,
            }
        }
    }

    /// Whether any key is in both.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        let before = |end: &End, start: &Bytes, own_start: &Bytes| match end {
            End::Single => own_start >= start,
            End::Before(end) => end > start,
            End::Open => true,
        };
        before(&self.end, &other.start, &self.start) && before(&other.end, &self.start, &other.start)
    }

    /// Where it ends.
    pub(super) fn last(&self) -> Bound<&[u8]> {
        match &self.end {
            End::Single => Bound::Included(&self.start),
            End::Before(end) => Bound::Excluded(end),
            End::Open => Bound::Unbounded,
        }
    }
}

/// The `range_end` that makes `prefix` a prefix read: the last byte below 0xff incremented and the
/// rest cut; a zero byte (no end) where there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte < 0xff) {
        Some(at) => {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            end.into()
        }
        None => Bytes::from_static(&[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static [u8]) -> KeyRange {
        KeyRange::new(Bytes::from_static(key.as_bytes()), Bytes::from_static(end))
    }

    #[test]
    fn prefix_ends_of_the_specification() {
        for (prefix, end) in [
            ("cilium/synced/cls-b/", "cilium/synced/cls-b0"),
            ("cilium/.heartbeat", "cilium/.heartbeau"),
            ("cilium/state/identities/v1/id", "cilium/state/identities/v1/ie"),
        ] {
            assert_eq!(prefix_end(prefix.as_bytes()), end.as_bytes());
        }
        assert_eq!(prefix_end(b"a\xff"), &b"b"[..]);
        assert_eq!(prefix_end(b"\xff"), &b"\0"[..]);
    }

    #[test]
    fn covering_needs_the_whole_range() {
        let granted = range("a", b"c");
        assert!(granted.covers(&range("a", b"c")));
        assert!(granted.covers(&range("b", b"")));
        assert!(!granted.covers(&range("a", b"d")));
        assert!(!granted.covers(&range("b", b"\0")));
        assert!(!range("a", b"").covers(&range("a", b"b")));
        assert!(range("a", b"\0").covers(&range("b", b"\0")));
    }

    #[test]
    fn several_ranges_cover_together() {
        let granted = [range("c", b"e"), range("a", b"b"), range("b", b"c"), range("x", b"\0")];
        assert!(range("a", b"e").is_covered_by(&granted));
        assert!(range("az", b"d").is_covered_by(&granted));
        assert!(!range("a", b"f").is_covered_by(&granted));
        assert!(!range("a", b"\0").is_covered_by(&granted));
        assert!(range("y", b"\0").is_covered_by(&granted));
        assert!(!range("e", b"").is_covered_by(&granted));
        assert!(!range("d", b"a").is_covered_by(&granted[2..]), "a range that ends before it begins");
    }

    #[test]
    fn overlaps_is_symmetric() {
        for (a, b, expect) in [
            (range("a", b""), range("a", b""), true),
            (range("a", b""), range("b", b""), false),
            (range("a", b"c"), range("b", b""), true),
            (range("a", b"b"), range("b", b""), false),
            (range("a", b"\0"), range("z", b""), true),
            (range("b", b"\0"), range("a", b""), false),
        ] {
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (expect, expect), "{a:?} {b:?}");
        }
    }
}
