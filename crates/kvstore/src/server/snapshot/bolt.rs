//! Writes a bbolt database (the file format of etcd's backend) from sorted items, page after page.
//!
//! Format: pages of 4096 bytes, all numbers little-endian. Pages 0 and 1 are copies of the meta
//! page, 2 is an empty list of free pages; then the pages of each bucket, leaves before branches,
//! and at the end the leaf with the buckets by name. A page begins with its id (8), flags (2),
//! count (2) and the number of overflow pages that belong to it (4).

use std::ops::Range;

use prost::Message;

use crate::pb;
use crate::store::{FNV_OFFSET, fnv1a};

const PAGE: usize = 4096;
const HEADER: usize = 16;
/// Size of an element of a leaf (flags, position, key size, value size) and of a branch (position,
/// key size, page).
const ELEMENT: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// Flag of a leaf's element whose value is a bucket.
const IS_BUCKET: u32 = 0x01;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// A value, encoded when it is written.
#[derive(Debug)]
pub(super) enum Value {
    Bytes(Vec<u8>),
    KeyValue(pb::KeyValue),
}

impl Value {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::KeyValue(kv) => kv.encoded_len(),
        }
    }

    fn write(&self, page: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => page.extend_from_slice(bytes),
            Self::KeyValue(kv) => kv.encode_raw(page),
        }
    }
}

type Items = Vec<(Vec<u8>, Value)>;

/// Items in order of their keys, under a name.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: &'static str,
    pub(super) items: Items,
}

/// What is on a page, or on a page with those it overflows to.
#[derive(Debug)]
enum Content {
    Leaf {
        bucket: usize,
        items: Range<usize>,
    },
    /// First key and page of each child.
    Branch(Vec<(Vec<u8>, u64)>),
    Buckets,
}

/// A database with every page in its place.
#[derive(Debug)]
pub(super) struct Database {
    buckets: Vec<Bucket>,
    roots: Vec<u64>,
    /// Page id, overflow, content; in order of the ids.
    layout: Vec<(u64, u32, Content)>,
    /// The page with the buckets, the last one of all.
    root: u64,
    next: u64,
}

impl Database {
    /// Lays out buckets, which must be in order of their names.
    pub(super) fn new(buckets: Vec<Bucket>) -> Self {
        let mut database =
            Self { buckets: Vec::new(), roots: Vec::new(), layout: Vec::new(), root: 0, next: 3 };
        for (n, bucket) in buckets.iter().enumerate() {
            let root = database.lay_out(n, &bucket.items);
            database.roots.push(root);
        }
        let size = buckets.iter().map(|bucket| ELEMENT + bucket.name.len() + 16).sum();
        database.root = database.place(size, Content::Buckets);
        database.buckets = buckets;
        database
    }

    /// Bytes of the whole file.
    pub(super) fn len(&self) -> u64 {
        self.next * PAGE as u64
    }

    /// The file, in pieces of one or more pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = Vec<u8>> {
        let metas = (0..2).map(|id| self.meta(id));
        let free = std::iter::once_with(|| pad(header(2, FREELIST, 0, 0)));
        metas.chain(free).chain(self.layout.iter().map(|(id, overflow, content)| {
            let page = self.page(*id, *overflow, content);
            debug_assert_eq!(page.len(), PAGE * (*overflow as usize + 1));
            page
        }))
    }

    /// Places a bucket's pages; the id of its topmost.
    fn lay_out(&mut self, bucket: usize, items: &Items) -> u64 {
        let sizes = items.iter().map(|(key, value)| ELEMENT + key.len() + value.len());
        let mut level: Vec<(Vec<u8>, u64)> = Vec::new();
        for (items_of_page, size) in groups(sizes) {
            let first = items.get(items_of_page.start).map(|(key, _)| key.clone()).unwrap_or_default();
            let id = self.place(size, Content::Leaf { bucket, items: items_of_page });
            level.push((first, id));
        }
        while level.len() > 1 {
            let cuts: Vec<_> = groups(level.iter().map(|(key, _)| ELEMENT + key.len())).collect();
            level = cuts
                .into_iter()
                .map(|(children, size)| {
                    let children = level[children].to_vec();
                    (children[0].0.clone(), self.place(size, Content::Branch(children)))
                })
                .collect();
        }
        level[0].1
    }

    fn place(&mut self, size: usize, content: Content) -> u64 {
        let overflow = (HEADER + size).div_ceil(PAGE) as u64 - 1;
        let id = self.next;
        self.next += 1 + overflow;
        self.layout.push((id, overflow as u32, content));
        id
    }

    fn page(&self, id: u64, overflow: u32, content: &Content) -> Vec<u8> {
        match content {
            Content::Leaf { bucket, items } => {
                let items = &self.buckets[*bucket].items[items.clone()];
                leaf(id, overflow, items.iter().map(|(key, value)| (0, &key[..], value)))
            }
            Content::Buckets => {
                // A bucket's value is its topmost page and a counter etcd makes no use of.
                let values = self.roots.iter().map(|root| [root.to_le_bytes(), [0; 8]].concat());
                let values: Vec<_> = values.map(Value::Bytes).collect();
                let names = self.buckets.iter().map(|bucket| bucket.name.as_bytes());
                leaf(id, overflow, names.zip(&values).map(|(name, value)| (IS_BUCKET, name, value)))
            }
            Content::Branch(children) => {
                let mut page = header(id, BRANCH, children.len(), overflow);
                let mut position = ELEMENT * children.len();
                for (key, child) in children {
                    page.extend_from_slice(&(position as u32).to_le_bytes());
                    page.extend_from_slice(&(key.len() as u32).to_le_bytes());
                    page.extend_from_slice(&child.to_le_bytes());
                    // Positions count from their own element.
                    position = position + key.len() - ELEMENT;
                }
                children.iter().for_each(|(key, _)| page.extend_from_slice(key));
                pad(page)
            }
        }
    }

    fn meta(&self, id: u64) -> Vec<u8> {
        let mut page = header(id, META, 0, 0);
        for number in [MAGIC, VERSION, PAGE as u32, 0] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        // Root page and its counter, list of free pages, number of pages, transaction.
        for number in [self.root, 0, 2, self.next, id] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = fnv1a(&page[HEADER..], FNV_OFFSET);
        page.extend_from_slice(&checksum.to_le_bytes());
        pad(page)
    }
}

/// Cuts elements of these sizes into pages: as many as fit, at least one, and one page even for none.
fn groups(sizes: impl Iterator<Item = usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
    let mut sizes = sizes.enumerate().peekable();
    let mut first = true;
    std::iter::from_fn(move || {
        let empty = std::mem::take(&mut first).then_some((0..0, 0));
        let Some((start, mut size)) = sizes.next() else { return empty };
        let mut end = start + 1;
        while let Some((_, more)) = sizes.next_if(|(_, more)| HEADER + size + more <= PAGE) {
            size += more;
            end += 1;
        }
        Some((start..end, size))
    })
}

fn leaf<'a>(
    id: u64,
    overflow: u32,
    items: impl Iterator<Item = (u32, &'a [u8], &'a Value)> + Clone,
) -> Vec<u8> {
    let count = items.clone().count();
    let mut page = header(id, LEAF, count, overflow);
    let mut position = ELEMENT * count;
    for (flags, key, value) in items.clone() {
        for number in [flags, position as u32, key.len() as u32, value.len() as u32] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        position = position + key.len() + value.len() - ELEMENT;
    }
    for (_, key, value) in items {
        page.extend_from_slice(key);
        value.write(&mut page);
    }
    pad(page)
}

fn header(id: u64, flags: u16, count: usize, overflow: u32) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE * (overflow as usize + 1));
    page.extend_from_slice(&id.to_le_bytes());
    page.extend_from_slice(&flags.to_le_bytes());
    page.extend_from_slice(&(count as u16).to_le_bytes());
    page.extend_from_slice(&overflow.to_le_bytes());
    page
}

fn pad(mut page: Vec<u8>) -> Vec<u8> {
    page.resize(page.len().next_multiple_of(PAGE), 0);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_where_the_layout_says() {
        let items = (0u32..20_000).map(|n| {
            let length = if n % 100 == 0 { 10_000 } else { 40 };
            (n.to_be_bytes().to_vec(), Value::Bytes(vec![n as u8; length]))
        });
        let database = Database::new(vec![
            Bucket { name: "empty", items: Vec::new() },
            Bucket { name: "full", items: items.collect() },
        ]);
        let file = database.pages().collect::<Vec<_>>().concat();
        assert_eq!(file.len() as u64, database.len());
        for (id, ..) in &database.layout {
            let at = *id as usize * PAGE;
            assert_eq!(file[at..at + 8], id.to_le_bytes(), "a page begins with its id");
        }
        // The meta page is checked as bbolt checks it.
        let checksum = fnv1a(&file[HEADER..HEADER + 56], FNV_OFFSET);
        assert_eq!(file[HEADER + 56..HEADER + 64], checksum.to_le_bytes());
    }

    #[test]
    fn elements_fill_pages() {
        let cut = |sizes: &[usize]| groups(sizes.iter().copied()).collect::<Vec<_>>();
        assert_eq!(cut(&[]), [(0..0, 0)]);
        assert_eq!(cut(&[2000, 2080, 1]), [(0..2, 4080), (2..3, 1)]);
        assert_eq!(cut(&[9000, 1]), [(0..1, 9000), (1..2, 1)]);
    }
}
