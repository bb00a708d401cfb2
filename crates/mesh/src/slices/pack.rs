//! Which endpoint is in which slice: a function of the endpoints alone, so that every restart and every
//! replica finds the same slices, and nothing has to be read back.
//!
//! Endpoints are spread by a hash of their address over a binary tree: a node of the tree that has more
//! than a slice holds is split in two. A change of one endpoint touches one slice, and now and then a
//! second one, when a slice is split or two become one; slices are two thirds full on average. A slice is
//! named by the first hash it may hold, so that one that is split keeps its name with the lower half.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// Sorts `items` into slices of at most `limit`; each comes with the first hash it may hold, in order.
/// The items of a slice are in order of the addresses.
pub(super) fn pack<T>(
    items: impl IntoIterator<Item = T>,
    limit: usize,
    address: impl Fn(&T) -> IpAddr,
) -> Vec<(u64, Vec<T>)> {
    let mut hashed: Vec<(u64, T)> = items.into_iter().map(|item| (hash(address(&item)), item)).collect();
    hashed.sort_by_key(|(hash, item)| (*hash, address(item)));
    let mut out = vec![];
    split(hashed, 0, 0, limit.max(1), &mut out);
    for (_, slice) in &mut out {
        slice.sort_by_key(|item| address(item));
    }
    out
}

/// `items` are those whose hash begins with the first `depth` bits of `first`, in order.
fn split<T>(items: Vec<(u64, T)>, first: u64, depth: u32, limit: usize, out: &mut Vec<(u64, Vec<T>)>) {
    if items.is_empty() {
        return;
    }
    // Beyond the last bit there are only equal hashes; nobody finds a hundred addresses of one.
    if items.len() <= limit || depth == u64::BITS {
        out.push((first, items.into_iter().map(|(_, item)| item).collect()));
        return;
    }
    let upper = first | 1 << (u64::BITS - 1 - depth);
    let mut lower = items;
    let rest = lower.split_off(lower.partition_point(|(hash, _)| *hash < upper));
    split(lower, first, depth + 1, limit, out);
    split(rest, upper, depth + 1, limit, out);
}

fn hash(address: IpAddr) -> u64 {
    let digest = match address {
        IpAddr::V4(ip) => Sha256::digest(ip.octets()),
        IpAddr::V6(ip) => Sha256::digest(ip.octets()),
    };
    digest[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn addresses(numbers: &BTreeSet<u32>) -> Vec<IpAddr> {
        numbers.iter().map(|n| Ipv4Addr::from_bits(0x0a00_0000 | n).into()).collect()
    }

    fn slices(numbers: &BTreeSet<u32>, limit: usize) -> BTreeMap<u64, Vec<IpAddr>> {
        pack(addresses(numbers), limit, |ip| *ip).into_iter().collect()
    }

    #[test]
    fn few_are_one_slice_and_many_are_well_filled() {
        assert!(slices(&BTreeSet::new(), 100).is_empty());
        let hundred: BTreeSet<u32> = (0..100).collect();
        assert_eq!(slices(&hundred, 100), BTreeMap::from([(0, addresses(&hundred))]));
        let many: BTreeSet<u32> = (0..20_000).collect();
        let slices = slices(&many, 100);
        assert!(slices.values().all(|slice| slice.len() <= 100));
        assert!(slices.len() < 400, "{} slices", slices.len());
    }

    proptest! {
        #[test]
        fn every_endpoint_is_in_one_slice_and_a_change_touches_few(
            numbers in proptest::collection::btree_set(0u32..5000, 0..400),
            other in 0u32..5000,
            limit in 1usize..40,
        ) {
            let before = slices(&numbers, limit);
            prop_assert!(before.values().all(|slice| (1..=limit).contains(&slice.len())));
            let all: BTreeSet<IpAddr> = before.values().flatten().copied().collect();
            prop_assert_eq!(all.len(), before.values().map(Vec::len).sum::<usize>());
            prop_assert_eq!(all.into_iter().collect::<Vec<_>>(), addresses(&numbers));

            let mut numbers = numbers;
            if !numbers.remove(&other) {
                numbers.insert(other);
            }
            let after = slices(&numbers, limit);
            let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            let touched: Vec<_> = names.into_iter().filter(|n| before.get(n) != after.get(n)).collect();
            // One slice, or the ones of a split; of those, all but the changed endpoint come from one slice.
            let count = |of: &BTreeMap<u64, Vec<IpAddr>>| {
                touched.iter().filter_map(|n| of.get(n)).map(Vec::len).sum::<usize>()
            };
            prop_assert!(count(&before).abs_diff(count(&after)) == 1);
            prop_assert!(touched.len() == 1 || count(&before).min(count(&after)) <= limit);
        }
    }
}
