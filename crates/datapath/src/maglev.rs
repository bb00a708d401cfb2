//! Maglev consistent hashing (Eisenbud et al., NSDI 2016): a table whose entries name backends, so
//! that a hash finds the same backend on every node that knows the same ones, and a backend that
//! comes or goes moves little more than its own share.
//!
//! Every backend prefers the entries in an order of its own, which follows from its address and the
//! seed alone. They take turns, each taking the first entry it prefers that is still free; one of
//! twice the weight takes twice the turns.

use causeway_model::lb::L4Addr;
use zerocopy::IntoBytes;

use crate::maps::lb::L4;

/// The sizes a table may have: primes, so that every step visits all entries
/// (`bpf-lb-maglev-table-size`).
pub const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

/// The most backends a table can name; 16 bits less the mark of a free entry.
pub(crate) const MAX_BACKENDS: usize = u16::MAX as usize;

/// Size and seed of all tables of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maglev {
    /// Entries of a table, one of [`SIZES`]; a hundred times the backends spread them within a percent.
    pub size: u32,
    /// What makes the tables of this cluster its own; the same on every node.
    pub seed: [u8; 12],
}

impl Default for Maglev {
    /// 16381 entries, and the seed that Cilium has by default.
    fn default() -> Self {
        // base64 "JLfvgnHc2kaSUFaI".
        let seed = [0x24, 0xb7, 0xef, 0x82, 0x71, 0xdc, 0xda, 0x46, 0x92, 0x50, 0x56, 0x88];
        Self { size: 16381, seed }
    }
}

impl Maglev {
    /// The table for backends and their weights: each entry is an index in `backends`. Empty if no
    /// backend has a weight. The order of `backends` is that of the turns: sorted by address.
    pub(crate) fn table(&self, backends: &[(L4, u16)]) -> Vec<u16> {
        const FREE: u16 = u16::MAX;
        let size = self.size;
        let backends = &backends[..backends.len().min(MAX_BACKENDS)];
        let heaviest = backends.iter().map(|(_, weight)| u32::from(*weight)).max().unwrap_or(0);
        if heaviest == 0 {
            return vec![];
        }
        let mut turns: Vec<Turn> = (0..).zip(backends).map(|(n, (b, w))| self.turn(n, b, *w)).collect();
        turns.retain(|turn| turn.weight > 0);
        let mut table = vec![FREE; size as usize];
        let mut left = size;
        loop {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < heaviest {
                    continue;
                }
                turn.credit -= heaviest;
                while table[turn.next as usize] != FREE {
                    turn.step(size);
                }
                table[turn.next as usize] = turn.backend;
                turn.step(size);
                left -= 1;
                if left == 0 {
                    return table;
                }
            }
        }
    }

    /// The table for backends of equal weight: each entry is an index in `backends`, of which there are less
    /// than 65,535, in the order of their addresses. What the agent writes for a service with just these.
    pub fn assign(&self, backends: &[L4Addr]) -> Vec<u16> {
        self.table(&backends.iter().map(|backend| (L4::from(*backend), 1)).collect::<Vec<_>>())
    }

    fn turn(&self, backend: u16, address: &L4, weight: u16) -> Turn {
        let [first, second] = [0, 1].map(|n| hash(&self.seed, n, address));
        // Below the table's size, which has 32 bits.
        let next = (first % u64::from(self.size)) as u32;
        let skip = (second % u64::from(self.size - 1)) as u32 + 1;
        Turn { backend, weight: u32::from(weight), credit: 0, next, skip }
    }
}

/// One backend while a table is filled.
struct Turn {
    backend: u16,
    weight: u32,
    /// What it has saved up for its next entry.
    credit: u32,
    /// The entry it prefers now, and the distance to the next one.
    next: u32,
    skip: u32,
}

impl Turn {
    fn step(&mut self, size: u32) {
        let next = self.next + self.skip;
        self.next = if next >= size { next - size } else { next };
    }
}

/// A number of 64 bits out of an address: FNV-1a, finished as in MurmurHash3 so that every bit counts.
fn hash(seed: &[u8], number: u8, address: &L4) -> u64 {
    let bytes = seed.iter().chain([&number]).chain(address.as_bytes());
    let sum = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (sum ^ (sum >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use causeway_model::Protocol;

    use super::*;

    fn backends(numbers: impl Iterator<Item = u32>) -> Vec<(L4, u16)> {
        let address = |n: u32| {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n).into();
            L4::from(L4Addr { ip, port: 8080, protocol: Protocol::TCP })
        };
        numbers.map(|n| (address(n), 1)).collect()
    }

    /// How many entries each backend has.
    fn shares(table: &[u16], backends: usize) -> Vec<usize> {
        let mut shares = vec![0; backends];
        table.iter().for_each(|backend| shares[usize::from(*backend)] += 1);
        shares
    }

    #[test]
    fn every_size_is_filled_evenly() {
        for size in SIZES {
            let maglev = Maglev { size, ..Maglev::default() };
            for count in [1usize, 3, 100, 1000] {
                let backends = backends(0..count as u32);
                let table = maglev.table(&backends);
                assert_eq!(table.len(), size as usize);
                let (least, most) = (size as usize / count, (size as usize).div_ceil(count));
                assert!(shares(&table, count).iter().all(|n| (least..=most).contains(n)), "{size} {count}");
            }
        }
        assert!(Maglev::default().table(&[]).is_empty());
        let idle: Vec<_> = backends(0..2).into_iter().map(|(b, _)| (b, 0)).collect();
        assert!(Maglev::default().table(&idle).is_empty());
    }

    #[test]
    fn weights_are_shares() {
        let mut list = backends(0..4);
        for ((_, weight), wanted) in list.iter_mut().zip([0, 1, 3, 60]) {
            *weight = wanted;
        }
        let table = Maglev::default().table(&list);
        let shares = shares(&table, 4);
        for (share, weight) in shares.iter().zip([0.0, 1.0, 3.0, 60.0]) {
            let wanted = 16381.0 * weight / 64.0;
            assert!((*share as f64 - wanted).abs() <= 64.0, "{shares:?}");
        }
    }

    /// Of the entries that named a backend that is still there, how many name another one.
    fn moved(before: &[(L4, u16)], now: &[(L4, u16)]) -> f64 {
        let maglev = Maglev::default();
        let (old, new) = (maglev.table(before), maglev.table(now));
        let name = |list: &[(L4, u16)], entry: u16| list[usize::from(entry)].0;
        let stays = |backend: &L4| now.iter().any(|(b, _)| b == backend);
        let kept: Vec<_> = old.iter().zip(&new).filter(|(old, _)| stays(&name(before, **old))).collect();
        let moved = kept.iter().filter(|(old, new)| name(before, **old) != name(now, **new)).count();
        moved as f64 / kept.len() as f64
    }

    #[test]
    fn what_stays_hardly_moves() {
        let hundred = backends(0..100);
        let mut without = hundred.clone();
        without.remove(40);
        // Beyond the share of the one that goes, 1 %.
        assert!(moved(&hundred, &without) < 0.03, "{}", moved(&hundred, &without));
        // One that comes takes its own share from the others, 1 %.
        assert!(moved(&without, &hundred) < 0.04, "{}", moved(&without, &hundred));
        let mut half = hundred.clone();
        half[7].1 = 2;
        assert!(moved(&hundred, &half) < 0.05, "{}", moved(&hundred, &half));
    }

    #[test]
    fn tables_depend_on_addresses_and_the_seed_alone() {
        let list = backends(0..50);
        let default = Maglev::default();
        assert_eq!(default.table(&list), default.table(&list.clone()));
        let other = Maglev { seed: [7; 12], ..default };
        assert_ne!(default.table(&list), other.table(&list));
        // The first entries of a known list: nodes of another build must find the same.
        assert_eq!(default.table(&list)[..8], KNOWN);
    }

    const KNOWN: [u16; 8] = [22, 30, 32, 30, 1, 24, 45, 48];
}
