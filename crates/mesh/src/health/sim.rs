//! A mesh in virtual time, seen from one of its nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use causeway_model::{ClusterName, Event, NodeKey};
use jiff::Timestamp;

use super::{Kind, Monitor, NodeHealth, NodeStatus, Options, ProbeId, Reachability, Report, Target};

pub(super) const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(super) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// Node `n` of cluster `c-N`, with addresses of its own.
pub(super) fn target(of: u8, n: u16) -> Target {
    let [high, low] = n.to_be_bytes();
    let ip = |first: u8, last: u8| IpAddr::V4(Ipv4Addr::new(first + of, high, low, last));
    Target {
        node: key(of, n),
        internal: Some(ip(10, 1)),
        health: Some(ip(10, 2)),
        underlay: Some(ip(100, 1)),
        hosts: [ip(100, 1)].into(),
    }
}

pub(super) fn key(of: u8, n: u16) -> NodeKey {
    NodeKey { cluster: cluster(&format!("c-{of}")), name: format!("n-{n}") }
}

pub(super) struct World {
    pub(super) monitor: Monitor,
    pub(super) now: Instant,
    start: Instant,
    /// Machines that answer.
    pub(super) up: BTreeSet<IpAddr>,
    /// What is kept from them.
    pub(super) deaf: BTreeSet<(IpAddr, Kind)>,
    pub(super) uplink: bool,
    pub(super) rtt: Duration,
    /// Of a thousand packets.
    pub(super) loss: u64,
    random: u64,
    answers: BTreeMap<(Instant, ProbeId), Option<String>>,
    pub(super) changes: Vec<(Duration, Reachability)>,
    pub(super) sent: Vec<(Duration, IpAddr)>,
}

impl World {
    /// Seen from node 0 of cluster 1, with a gateway or without.
    pub(super) fn new(seed: u64, gateway: bool) -> Self {
        let now = Instant::now();
        let mut monitor = Monitor::new(key(1, 0), Options::default(), seed, now);
        if gateway {
            monitor.set_gateways(vec![GATEWAY]);
        }
        Self {
            monitor,
            now,
            start: now,
            up: [GATEWAY].into(),
            deaf: BTreeSet::new(),
            uplink: true,
            rtt: Duration::from_millis(20),
            loss: 0,
            random: seed | 1,
            answers: BTreeMap::new(),
            changes: vec![],
            sent: vec![],
        }
    }

    /// Announces nodes, which answer.
    pub(super) fn with(mut self, nodes: &[(u8, u16)]) -> Self {
        for (of, n) in nodes {
            self.add(*of, *n);
            self.set(*of, *n, true);
        }
        self
    }

    pub(super) fn add(&mut self, of: u8, n: u16) {
        self.told(of, Event::Upsert(target(of, n)));
    }

    pub(super) fn told(&mut self, of: u8, event: Event<Target>) {
        self.monitor.apply(&cluster(&format!("c-{of}")), event, self.now);
        self.take();
    }

    /// Gives a node power, or takes it.
    pub(super) fn set(&mut self, of: u8, n: u16, on: bool) {
        self.set_tunnel(of, n, on);
        self.set_one(target(of, n).underlay, on);
    }

    /// Its tunnel alone.
    pub(super) fn set_tunnel(&mut self, of: u8, n: u16, on: bool) {
        let target = target(of, n);
        self.set_one(target.internal, on);
        self.set_one(target.health, on);
    }

    fn set_one(&mut self, ip: Option<IpAddr>, on: bool) {
        let ip = ip.unwrap();
        if on {
            self.up.insert(ip);
        } else {
            self.up.remove(&ip);
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let answer = self.answers.first_key_value().map(|((at, _), _)| *at);
            let next = self.monitor.next().into_iter().chain(answer).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.turn();
        }
        self.now = end;
    }

    /// The whole machine stands still for a time, and the network does not.
    pub(super) fn stall(&mut self, time: Duration) {
        self.now += time;
        self.turn();
    }

    fn turn(&mut self) {
        while let Some(entry) = self.answers.first_entry()
            && entry.key().0 <= self.now
        {
            let ((_, probe), fault) = entry.remove_entry();
            self.monitor.answered(probe, fault, self.now);
        }
        for probe in self.monitor.poll(self.now) {
            self.sent.push((self.now - self.start, probe.to));
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let heard = self.up.contains(&probe.to) && !self.deaf.contains(&(probe.to, probe.kind));
            if self.uplink && heard && self.random % 1000 >= self.loss {
                self.answers.insert((self.now + self.rtt, probe.id), None);
            }
        }
        self.take();
    }

    fn take(&mut self) {
        let at = self.now - self.start;
        self.changes.extend(self.monitor.take_changes().into_iter().map(|change| (at, change)));
    }

    /// What has changed, and when.
    pub(super) fn happened(&mut self) -> Vec<(NodeKey, bool, Instant)> {
        let all = std::mem::take(&mut self.changes).into_iter();
        all.map(|(at, change)| (change.node, change.reachable, self.start + at)).collect()
    }

    /// What has changed, by node, with the time since `from`.
    pub(super) fn changed(&mut self, from: Instant) -> Vec<(NodeKey, bool, Duration)> {
        let all = self.happened().into_iter();
        all.map(|(node, up, at)| (node, up, at.saturating_duration_since(from))).collect()
    }

    pub(super) fn report(&self) -> Report {
        self.monitor.report(self.now, Timestamp::UNIX_EPOCH)
    }

    pub(super) fn node(&self, of: u8, n: u16) -> NodeHealth {
        let key = key(of, n);
        let found = |node: &NodeHealth| node.cluster == key.cluster.as_str() && node.name == key.name;
        self.report().nodes.into_iter().find(found).unwrap()
    }

    pub(super) fn status(&self, of: u8, n: u16) -> NodeStatus {
        self.node(of, n).status
    }
}
