//! What changes in a mesh, in the mixture of Cilium's own scale test (benchmarks 1.1), and what is known of it
//! at either end.
//!
//! A version is the time of the change: microseconds of the system's clock, which both processes read.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::SystemTime;

use bytes::Bytes;
use causeway_kvstore::{Pair, WriteOp};
use causeway_model::ClusterInfo;

use super::shape::{Shape, address, node_name};

/// Changes of a cluster in ten seconds: a node, two identities, ten endpoints.
const ROUND: u64 = 13;

/// Now, as a version.
pub(crate) fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() as u64)
}

/// The last known version of each thing that has changed; 0 for one that is gone.
#[derive(Debug, Default)]
pub(crate) struct Model(HashMap<String, u64>);

impl Model {
    pub(crate) fn set(&mut self, thing: String, version: u64) {
        self.0.insert(thing, version);
    }

    /// Equal for equal models, in whatever order they came about.
    pub(crate) fn digest(&self) -> u64 {
        let hash = |entry: (&String, &u64)| {
            let mut hasher = DefaultHasher::new();
            entry.hash(&mut hasher);
            hasher.finish()
        };
        self.0.iter().map(hash).fold(0, |all, one| all ^ one)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The `n`th change of one cluster, made at `version`: what it is of, and the write.
pub(crate) fn change(shape: Shape, of: &ClusterInfo, n: u64, version: u64) -> (String, u64, WriteOp) {
    let (round, step) = (n / ROUND, n % ROUND);
    let put = |(key, value): (String, Bytes)| WriteOp::Put(Pair::new(key, value));
    let delete = |(key, _): (String, _)| WriteOp::Delete(key.into());
    match step {
        0 => {
            let node = (round % u64::from(shape.nodes.max(1))) as u32;
            (format!("node {}", node_name(of, node)), version, put(shape.node(of, node, version)))
        }
        1 | 2 => {
            let identity = (round % u64::from(shape.identities.max(1))) as u32;
            let thing = format!("identity {}", shape.identity(of, identity));
            match step {
                1 => (thing, 0, delete(shape.labelled(of, identity, version))),
                _ => (thing, version, put(shape.labelled(of, identity, version))),
            }
        }
        _ => {
            // Ten a round: each endpoint is changed, deleted and created again before the next one.
            let n = round * 10 + step - 3;
            let endpoint = (n / 3 % u64::from(shape.endpoints.max(1))) as u32;
            let thing = format!("address {}", address(of, endpoint));
            match n % 3 {
                1 => (thing, 0, delete(shape.endpoint(of, endpoint, version))),
                _ => (thing, version, put(shape.endpoint(of, endpoint, version))),
            }
        }
    }
}
