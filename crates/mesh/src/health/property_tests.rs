//! Whatever happens to a mesh: nobody who answers falls, nobody who is dead stays, everybody who answers comes back.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::NodeStatus;
use super::sim::{World, key};

const NODES: [(u8, u16); 5] = [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)];

#[derive(Debug, Clone)]
enum Step {
    Power(usize, bool),
    Tunnel(usize, bool),
    Uplink(bool),
    Wait(u64),
    Stall(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..NODES.len();
    let step = prop_oneof![
        2 => (node.clone(), any::<bool>()).prop_map(|(n, on)| Step::Power(n, on)),
        1 => (node, any::<bool>()).prop_map(|(n, on)| Step::Tunnel(n, on)),
        1 => any::<bool>().prop_map(Step::Uplink),
        4 => (10_u64..20_000).prop_map(Step::Wait),
        1 => (10_u64..5_000).prop_map(Step::Stall),
    ];
    prop::collection::vec(step, 1..60)
}

/// Since when something has been so, without a break.
#[derive(Debug, Clone, Copy)]
struct Since(bool, Instant);

impl Since {
    fn set(&mut self, so: bool, now: Instant) {
        if self.0 != so {
            *self = Since(so, now);
        }
    }

    fn lasted(&self, so: bool, now: Instant) -> Option<Duration> {
        (self.0 == so).then(|| now - self.1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(seed in any::<u64>(), gateway in any::<bool>(), steps in steps()) {
        let mut world = World::new(seed, gateway).with(&NODES);
        world.run(Duration::from_secs(15));
        let mut answers = [Since(true, world.now); NODES.len()];
        let mut uplink = Since(true, world.now);
        // Who is cut off for moments again and again may blame others: that is beyond what witnesses can tell.
        let mut flaps = vec![];
        // Since when nothing else has changed and our own machine has not stood still.
        let mut calm = world.now;
        for step in steps {
            let now = world.now;
            let stalled = matches!(step, Step::Stall(_));
            match step {
                Step::Power(n, on) => {
                    world.set(NODES[n].0, NODES[n].1, on);
                    answers[n].set(on, now);
                }
                Step::Tunnel(n, on) => {
                    world.set_tunnel(NODES[n].0, NODES[n].1, on);
                    answers[n].set(on, now);
                }
                Step::Uplink(on) => {
                    world.uplink = on;
                    uplink.set(on, now);
                    flaps.push(now);
                }
                Step::Wait(ms) => world.run(Duration::from_millis(ms)),
                Step::Stall(ms) => {
                    world.stall(Duration::from_millis(ms));
                    calm = world.now;
                }
            }
            let now = world.now;
            for (node, up, at) in world.happened() {
                let n = NODES.iter().position(|(of, n)| key(*of, *n) == node).unwrap();
                // A verdict is right when it comes; what it rests on may be as old as one question, or as a stall.
                let Since(answering, from) = answers[n];
                let age = at.saturating_duration_since(from);
                let fresh = age <= Duration::from_millis(1100) || stalled;
                let recent = |flap: &&Instant| at.saturating_duration_since(**flap) < Duration::from_secs(4);
                let flapping = flaps.iter().filter(recent).count() > 2;
                prop_assert!(answering == up || fresh || flapping, "{node:?} {up}, but {answering} for {:?}", at - from);
            }
            let witness = |n: usize| {
                let least = |since: &Since| since.lasted(true, now).unwrap_or_default();
                let others = answers.iter().enumerate().filter(|(other, _)| *other != n);
                others.map(|(_, since)| least(since)).max().unwrap_or_default()
            };
            let reaching = uplink.lasted(true, now).unwrap_or_default().min(now - calm);
            for (n, (of, number)) in NODES.into_iter().enumerate() {
                let status = world.status(of, number);
                let dead = answers[n].lasted(false, now).unwrap_or_default();
                if dead.min(reaching).min(witness(n)) > Duration::from_secs(6) {
                    prop_assert_eq!(status, NodeStatus::Unreachable, "{} dead for {:?}", n, dead);
                }
                let alive = answers[n].lasted(true, now).unwrap_or_default();
                if alive.min(reaching) > Duration::from_secs(12) {
                    prop_assert_eq!(status, NodeStatus::Reachable, "{} alive for {:?}", n, alive);
                }
            }
        }
    }
}
