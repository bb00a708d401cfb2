//! The decisions: whom to ask when, and what silence means. No clock, no socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_model::{ClusterName, Collection, Event, Keyed, NodeKey};
use jiff::Timestamp;

use super::report::{self, Report};
use super::uplink::Uplink;
use super::watched::{Second, State, Watched};
use super::{Kind, Options, Probe, ProbeId, Reachability, Target, Way};

/// Most nodes that are probed; those beyond stay unknown.
pub const MAX_NODES: usize = 16_384;
/// Most regular probes that are begun in a second.
pub const MAX_RATE: u32 = 5_000;

/// How often a node is asked in all ways, for the report.
const SWEEP: Duration = Duration::from_secs(60);
/// How often the gateways are asked, so that it is known whether they answer at all.
const GATEWAYS: Duration = Duration::from_secs(10);
/// A node that is down is asked the other way too in one of so many rounds.
const OTHER_WAY: u32 = 10;
/// Pods of a node may be announced longer than the node itself; so long it stays unreachable.
const GRAVE: Duration = Duration::from_secs(300);
/// Witnesses are asked for several nodes at once, and not more often than so.
const GATHER: Duration = Duration::from_millis(10);
const BETWEEN_ROUNDS: Duration = Duration::from_millis(50);

/// Why a probe was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The regular question.
    Primary,
    /// The second opinion of a run of losses.
    Second,
    /// A witness, or for the report.
    Extra,
}

#[derive(Debug)]
struct InFlight {
    /// None = a gateway.
    node: Option<u64>,
    to: IpAddr,
    way: Way,
    kind: Kind,
    purpose: Purpose,
    sent: Instant,
    expired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Expire(ProbeId),
    Ask(u64),
    Round,
    Forget(ProbeId),
    Sweep(u64),
    Gateways,
    Grave(u64),
}

/// Watches all nodes but its own. Whoever owns it calls [`Monitor::poll`] when [`Monitor::next`] says so, sends what
/// that returns, and tells what came of it.
#[derive(Debug)]
pub struct Monitor {
    own: NodeKey,
    options: Options,
    random: u64,
    clusters: BTreeMap<ClusterName, Collection<Target>>,
    ids: BTreeMap<NodeKey, u64>,
    nodes: BTreeMap<u64, Watched>,
    /// Nodes that were removed while they were unreachable.
    graves: BTreeMap<u64, Arc<Target>>,
    /// What an earlier process found unreachable.
    remembered: BTreeSet<NodeKey>,
    /// How many nodes are not unknown.
    known: usize,
    next_node: u64,
    next_probe: u64,
    timers: BTreeSet<(Instant, Timer)>,
    in_flight: BTreeMap<ProbeId, InFlight>,
    uplink: Uplink,
    /// A round of questions to witnesses is due.
    round: bool,
    last_round: Option<Instant>,
    out: Vec<Probe>,
    changes: Vec<Reachability>,
}

impl Monitor {
    /// A monitor for the node `own`, which it does not probe. `seed` only spreads the probes.
    pub fn new(own: NodeKey, options: Options, seed: u64, now: Instant) -> Self {
        let options = Options { failures: options.failures.max(2), ..options };
        Self {
            own,
            options,
            random: seed | 1,
            clusters: BTreeMap::new(),
            ids: BTreeMap::new(),
            nodes: BTreeMap::new(),
            graves: BTreeMap::new(),
            remembered: BTreeSet::new(),
            known: 0,
            next_node: 0,
            next_probe: 0,
            timers: [(now, Timer::Gateways)].into(),
            in_flight: BTreeMap::new(),
            uplink: Uplink::default(),
            round: false,
            last_round: None,
            out: vec![],
            changes: vec![],
        }
    }

    /// What an earlier process found unreachable: these nodes begin so when they are announced, as a node that is
    /// down says nothing to a new agent either.
    pub fn remember(&mut self, nodes: impl IntoIterator<Item = NodeKey>) {
        self.remembered.extend(nodes);
    }

    /// The nodes that are unreachable, for [`Monitor::remember`] of the next process.
    pub fn unreachable(&self) -> BTreeSet<NodeKey> {
        let down = self.nodes.values().filter(|node| node.state == State::Unreachable);
        let down = down.map(|node| node.target.node.clone());
        down.chain(self.graves.values().map(|grave| grave.node.clone()))
            .chain(self.remembered.iter().cloned())
            .collect()
    }

    /// The gateways of the default routes: witnesses of our uplink.
    pub fn set_gateways(&mut self, gateways: Vec<IpAddr>) {
        self.uplink.gateways = gateways;
    }

    /// A change of the nodes of a cluster, of our own too.
    pub fn apply(&mut self, cluster: &ClusterName, event: Event<Target>, now: Instant) {
        let synced = matches!(event, Event::Synced);
        let known = self.clusters.entry(cluster.clone()).or_default();
        let mut changed = vec![];
        for change in known.apply(event) {
            let (key, _) = change.into_parts();
            changed.push((known.get(&key).cloned(), key));
        }
        for (target, key) in changed {
            match target {
                Some(target) if key != self.own && key.cluster == *cluster => self.watch(target, now),
                _ => self.unwatch(&key, true, now),
            }
        }
        if synced {
            // Those that are not there any more are nobody's concern.
            self.remembered.retain(|key| key.cluster != *cluster);
        }
    }

    /// A cluster is no longer a peer.
    pub fn remove_cluster(&mut self, cluster: &ClusterName, now: Instant) {
        let nodes = self.clusters.remove(cluster).unwrap_or_default();
        for (key, _) in nodes.iter() {
            self.unwatch(key, false, now);
        }
        let graves = self.graves.iter().filter(|(_, grave)| grave.node.cluster == *cluster);
        for id in graves.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.clear_grave(id);
        }
        self.remembered.retain(|key| key.cluster != *cluster);
        self.uplink.forget_cluster(cluster);
    }

    /// When [`Monitor::poll`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due and returns the probes to send. Answers that have arrived must have been told before.
    pub fn poll(&mut self, now: Instant) -> Vec<Probe> {
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.fire(timer, at, now);
        }
        std::mem::take(&mut self.out)
    }

    /// Whether that is where a probe was sent to: an answer from elsewhere is none.
    pub fn is_from(&self, id: ProbeId, from: IpAddr) -> bool {
        self.in_flight.get(&id).is_some_and(|probe| probe.to == from)
    }

    /// A probe was answered at `at`; `fault` is what was wrong with the answer, where a kernel has answered but not
    /// the agent. Returns what was measured; none for a probe that is not ours.
    pub fn answered(
        &mut self,
        id: ProbeId,
        fault: Option<String>,
        at: Instant,
    ) -> Option<(Way, Kind, Duration)> {
        let probe = self.in_flight.remove(&id)?;
        let rtt = at.saturating_duration_since(probe.sent);
        let Some(of) = probe.node else {
            self.uplink.gateway_answered(probe.sent);
            return None;
        };
        let node = self.nodes.get_mut(&of)?;
        let heard = node.heard_mut(probe.way, probe.kind);
        heard.answered = Some((probe.sent, rtt)).max(heard.answered);
        heard.fault = fault.map(Into::into);
        if probe.way == Way::Tunnel {
            self.heard(of, id, &probe, at);
        }
        Some((probe.way, probe.kind, rtt))
    }

    /// A probe has failed, and why. That is said in the report; the loss counts when the time is up.
    pub fn failed(&mut self, id: ProbeId, fault: String) {
        if let Some(probe) = self.in_flight.get(&id)
            && let Some(node) = probe.node.and_then(|node| self.nodes.get_mut(&node))
        {
            let heard = node.heard_mut(probe.way, probe.kind);
            heard.failed = Some(probe.sent);
            heard.fault = Some(fault.into());
        }
    }

    /// A probe could not be sent because this machine had no room for it: it says nothing about the node.
    pub fn not_sent(&mut self, id: ProbeId, now: Instant) {
        if let Some(InFlight { node: Some(node), purpose, expired: false, .. }) = self.in_flight.remove(&id) {
            self.again(node, id, purpose, now + self.options.timeout / 2);
        }
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Reachability> {
        std::mem::take(&mut self.changes)
    }

    /// What is known of every node. `wall` is the time of day at `now`.
    pub fn report(&self, now: Instant, wall: Timestamp) -> Report {
        let nodes = self.ids.values().filter_map(|id| {
            let node = self.nodes.get(id)?;
            Some(report::of(node, now, wall))
        });
        let announced: usize = self.clusters.values().map(Collection::len).sum();
        let own = self.clusters.get(&self.own.cluster).is_some_and(|nodes| nodes.get(&self.own).is_some());
        Report {
            nodes: nodes.collect(),
            not_probed: announced.saturating_sub(usize::from(own) + self.nodes.len()),
            held: self.nodes.values().filter(|node| node.held).count(),
            responder_faults: vec![],
        }
    }

    fn watch(&mut self, target: Target, now: Instant) {
        let target = Arc::new(target);
        if let Some(id) = self.ids.get(&target.node)
            && let Some(node) = self.nodes.get_mut(id)
        {
            let before = std::mem::replace(&mut node.target, target.clone());
            if node.state == State::Unreachable && before.hosts != target.hosts {
                self.changes.push(change(&before, true));
                self.changes.push(change(&target, false));
            }
            return;
        }
        if self.nodes.len() >= MAX_NODES {
            return;
        }
        // The same node, or another with its addresses, is there: the old one's verdict is not this one's.
        let mut down = self.remembered.remove(&target.node);
        let same = |grave: &Target| {
            grave.node.cluster == target.node.cluster
                && (grave.node == target.node || grave.hosts.iter().any(|ip| target.hosts.contains(ip)))
        };
        let graves = self.graves.iter().filter(|(_, grave)| same(grave)).map(|(id, _)| *id);
        for id in graves.collect::<Vec<_>>() {
            down |= self.graves.get(&id).is_some_and(|grave| grave.node == target.node);
            self.clear_grave(id);
        }
        let id = self.next_node;
        self.next_node += 1;
        let state = if down { State::Unreachable } else { State::Unknown };
        if down {
            self.known += 1;
            self.changes.push(change(&target, false));
        }
        self.ids.insert(target.node.clone(), id);
        self.nodes.insert(id, Watched::new(target, state, now));
        let interval = self.interval();
        let (first, sweep) = (self.within(interval), self.within(SWEEP));
        self.ask_at(id, now + first);
        self.timers.insert((now + sweep, Timer::Sweep(id)));
    }

    /// A node is gone. One that was unreachable remains so for a while (`linger`): nobody says that its pods are
    /// reachable now.
    fn unwatch(&mut self, key: &NodeKey, linger: bool, now: Instant) {
        let Some(id) = self.ids.remove(key) else { return };
        let Some(node) = self.nodes.remove(&id) else { return };
        self.known -= usize::from(node.state != State::Unknown);
        if node.state != State::Unreachable {
            return;
        }
        if linger && self.graves.len() < MAX_NODES {
            self.graves.insert(id, node.target);
            self.timers.insert((now + GRAVE, Timer::Grave(id)));
        } else {
            self.changes.push(change(&node.target, true));
        }
    }

    fn clear_grave(&mut self, id: u64) {
        if let Some(grave) = self.graves.remove(&id) {
            self.changes.push(change(&grave, true));
        }
    }

    fn fire(&mut self, timer: Timer, at: Instant, now: Instant) {
        match timer {
            Timer::Expire(id) => self.expire(id, at, now),
            Timer::Forget(id) => drop(self.in_flight.remove(&id)),
            Timer::Ask(id) if self.nodes.get(&id).is_some_and(|node| node.next == Some(at)) => {
                self.ask(id, now);
            }
            Timer::Ask(_) => {}
            Timer::Round => self.ask_witnesses(now),
            Timer::Sweep(id) => self.sweep(id, now),
            Timer::Gateways => {
                self.ask_gateways(now);
                self.timers.insert((now + GATEWAYS, Timer::Gateways));
            }
            Timer::Grave(id) => self.clear_grave(id),
        }
    }

    /// The regular question to a node, and what else its silence so far calls for.
    fn ask(&mut self, id: u64, now: Instant) {
        let enough = self.options.failures;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.next = None;
        let (primary, lost) = (node.primary, node.lost);
        if lost > enough && lost.is_multiple_of(OTHER_WAY) && node.second == Second::Silent {
            node.second = Second::NotAsked;
        }
        let second = lost >= 1 && node.second == Second::NotAsked;
        // From the second loss on, something else must have answered meanwhile.
        let witness = lost >= 1 && lost < enough && node.state == State::Reachable;
        let asked = self.send(id, Way::Tunnel, primary, Purpose::Primary, now);
        if asked.is_none() {
            // It has no address inside the pod network; perhaps later.
            let pace = self.pace();
            self.ask_at(id, now + pace);
            return;
        }
        let opinion = second.then(|| self.send(id, Way::Tunnel, primary.other(), Purpose::Second, now));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.asked = asked;
            if let Some(opinion) = opinion {
                node.second = if opinion.is_some() { Second::Asked } else { Second::Silent };
            }
        }
        if lost == 1 || lost >= enough {
            self.send(id, Way::Underlay, Kind::Icmp, Purpose::Extra, now);
        }
        if witness && !self.round {
            self.round = true;
            let soonest = self.last_round.map_or(now, |last| last + BETWEEN_ROUNDS);
            self.timers.insert((soonest.max(now + GATHER), Timer::Round));
        }
    }

    fn sweep(&mut self, id: u64, now: Instant) {
        let Some(primary) = self.nodes.get(&id).map(|node| node.primary) else { return };
        for (way, kind) in Way::ALL.into_iter().flat_map(|way| Kind::ALL.map(|kind| (way, kind))) {
            if (way, kind) != (Way::Tunnel, primary) {
                self.send(id, way, kind, Purpose::Extra, now);
            }
        }
        // Nodes that were announced together do not stay together.
        let sooner = now + self.within(self.interval());
        if let Some(Watched { next: Some(next), .. }) = self.nodes.get(&id)
            && sooner < *next
        {
            self.ask_at(id, sooner);
        }
        let spread = self.within(SWEEP / 10);
        self.timers.insert((now + SWEEP * 19 / 20 + spread, Timer::Sweep(id)));
    }

    fn ask_witnesses(&mut self, now: Instant) {
        self.round = false;
        self.last_round = Some(now);
        self.ask_gateways(now);
        for id in self.uplink.witnesses(&self.own.cluster) {
            if let Some(node) = self.nodes.get(&id) {
                self.send(id, Way::Tunnel, node.primary, Purpose::Extra, now);
            }
        }
    }

    fn ask_gateways(&mut self, now: Instant) {
        for gateway in self.uplink.gateways.clone() {
            self.put(None, gateway, (Way::Underlay, Kind::Icmp), Purpose::Extra, now);
        }
    }

    /// None if the node has no such address.
    fn send(&mut self, id: u64, way: Way, kind: Kind, purpose: Purpose, now: Instant) -> Option<ProbeId> {
        let to = self.nodes.get(&id)?.target.address(way, kind)?;
        Some(self.put(Some(id), to, (way, kind), purpose, now))
    }

    fn put(
        &mut self,
        node: Option<u64>,
        to: IpAddr,
        how: (Way, Kind),
        purpose: Purpose,
        now: Instant,
    ) -> ProbeId {
        let id = ProbeId(self.next_probe);
        self.next_probe += 1;
        let (way, kind) = how;
        let once = self.options.timeout;
        // A connection may take two turns of the way, and has until the run of losses is complete.
        let timeout = if purpose == Purpose::Primary { once } else { once * (self.options.failures - 1) };
        self.in_flight.insert(id, InFlight { node, to, way, kind, purpose, sent: now, expired: false });
        self.timers.insert((now + timeout, Timer::Expire(id)));
        self.out.push(Probe { id, to, kind, timeout });
        id
    }

    fn expire(&mut self, id: ProbeId, due: Instant, now: Instant) {
        let enough = self.options.failures;
        let Some(probe) = self.in_flight.get_mut(&id) else { return };
        probe.expired = true;
        let (sent, purpose, of) = (probe.sent, probe.purpose, probe.node);
        let how = (probe.way, probe.kind);
        // A late answer is one too: slow is not gone.
        self.timers.insert((sent + self.options.timeout * 4, Timer::Forget(id)));
        let Some(of) = of else { return };
        let Some(node) = self.nodes.get_mut(&of) else { return };
        if purpose == Purpose::Primary && node.asked != Some(id) {
            return;
        }
        // This machine was not at it: the silence may be ours.
        if now.saturating_duration_since(due) > self.options.timeout / 2 {
            self.again(of, id, purpose, now);
            return;
        }
        let heard = node.heard_mut(how.0, how.1);
        if heard.failed != Some(sent) {
            heard.failed = Some(sent);
            let waited = due.saturating_duration_since(sent).as_millis();
            heard.fault = Some(format!("no answer within {waited} ms").into());
        }
        match purpose {
            Purpose::Extra => return,
            Purpose::Second if node.second == Second::Asked => node.second = Second::Silent,
            Purpose::Second => {}
            Purpose::Primary => {
                let counts = node.state != State::Reachable
                    || node.lost == 0
                    || self.uplink.blames(node, sent, self.known == 1);
                if counts {
                    node.lose(sent)
                } else {
                    node.hold()
                }
                let again = counts && node.lost < enough;
                let next = if again { now } else { (sent + self.pace()).max(now) };
                self.ask_at(of, next);
            }
        }
        self.complete(of, now);
    }

    /// A question that came to nothing through no fault of the node is asked again.
    fn again(&mut self, id: u64, probe: ProbeId, purpose: Purpose, at: Instant) {
        match (purpose, self.nodes.get_mut(&id)) {
            (Purpose::Primary, Some(node)) if node.asked == Some(probe) => self.ask_at(id, at),
            (Purpose::Second, Some(node)) if node.second == Second::Asked => node.second = Second::NotAsked,
            _ => {}
        }
    }

    /// A run of losses may be complete.
    fn complete(&mut self, id: u64, now: Instant) {
        let enough = self.options.failures;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.lost < enough {
            return;
        }
        match node.second {
            Second::Answered => {
                node.primary = node.primary.other();
                node.begin();
            }
            Second::Silent if node.state == State::Reachable => {
                node.fall(now);
                self.changes.push(change(&node.target, false));
            }
            _ => {}
        }
    }

    /// A node has answered through the tunnel.
    fn heard(&mut self, id: u64, probe_id: ProbeId, probe: &InFlight, now: Instant) {
        let (pace, soon) = (self.pace(), self.options.timeout);
        let enough = self.options.failures;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let cluster = node.target.node.cluster.clone();
        // Answers that come late, or to another question, leave the next one where it is.
        let current = node.asked == Some(probe_id) && !probe.expired;
        let mut next = current.then_some(probe.sent + pace);
        match node.state {
            State::Unreachable => {
                node.primary = probe.kind;
                node.begin();
                if node.rise(now) {
                    self.changes.push(change(&node.target, true));
                } else {
                    next = Some(now + soon);
                }
            }
            State::Unknown | State::Reachable => {
                if node.state == State::Unknown {
                    (node.state, node.since) = (State::Reachable, now);
                    self.known += 1;
                }
                let in_run = node.silent_from.is_some_and(|from| probe.sent >= from);
                // Of two kinds that are answered, ICMP costs less.
                let better = node.lost == 0 && probe.kind == Kind::Icmp;
                if probe.kind == node.primary || better || in_run && node.lost >= enough {
                    node.primary = probe.kind;
                    node.begin();
                } else if in_run {
                    node.second = Second::Answered;
                }
            }
        }
        if let Some(next) = next {
            self.ask_at(id, next.max(now));
        }
        self.uplink.node_answered(&cluster, id, probe.sent);
    }

    fn ask_at(&mut self, id: u64, at: Instant) {
        if let Some(node) = self.nodes.get_mut(&id) {
            if let Some(before) = node.next.replace(at) {
                self.timers.remove(&(before, Timer::Ask(id)));
            }
            self.timers.insert((at, Timer::Ask(id)));
        }
    }

    /// How often each node is asked: more nodes, less often.
    fn interval(&self) -> Duration {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.options.interval.max(Duration::from_secs(1) * nodes / MAX_RATE)
    }

    /// One interval, a tenth more or less.
    fn pace(&mut self) -> Duration {
        let interval = self.interval();
        interval * 9 / 10 + self.within(interval / 5)
    }

    /// Somewhere between nothing and this (xorshift).
    fn within(&mut self, most: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        most.mul_f64((self.random >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

fn change(target: &Target, reachable: bool) -> Reachability {
    Reachability { node: target.key(), hosts: target.hosts.clone(), reachable }
}
