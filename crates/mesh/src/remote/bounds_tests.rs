//! What a peer may not do to us: each bound, and what follows when it is reached.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_model::{ClusterConfig, ClusterId, ClusterInfo, ClusterName, Event, MaxClusters};

use super::*;
use crate::keys::{self, Layout};
use crate::wire::{Reason, config};

fn cluster(name: &str, id: u32, max_clusters: MaxClusters) -> ClusterInfo {
    ClusterInfo {
        name: ClusterName::new(name).unwrap(),
        id: ClusterId::new(id, max_clusters).unwrap(),
        max_clusters,
    }
}

/// A session, the requests it has made, and what it told.
struct Rig {
    session: Session,
    ids: Ids,
    now: Duration,
    asked: BTreeMap<StreamId, Action>,
    actions: Vec<Action>,
    told: Vec<RemoteChange>,
}

impl Rig {
    fn new(kinds: &[Kind], change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::agent(cluster("cls-a", 1, MaxClusters::C255));
        options.kinds = kinds.to_vec();
        change(&mut options);
        let own = options.local.clone();
        Self {
            session: Session::new(ClusterName::new("cls-b").unwrap(), options, 1),
            ids: Ids::new(own.id, own.name),
            now: Duration::ZERO,
            asked: BTreeMap::new(),
            actions: vec![],
            told: vec![],
        }
    }

    fn take(&mut self, out: Output<RemoteChange>) {
        self.told.extend(out.events);
        for action in out.actions {
            if let Action::List { stream, .. } | Action::Watch { stream, .. } = &action {
                self.asked.insert(*stream, action.clone());
            }
            self.actions.push(action);
        }
    }

    fn say(&mut self, body: Body) {
        let input = Input { conn: self.session.conn(), body };
        let out = self.session.handle(self.now, input, &mut self.ids);
        self.take(out);
    }

    fn wait(&mut self, by: Duration) {
        self.now += by;
        let out = self.session.tick(self.now);
        self.take(out);
    }

    fn op(&self, stream: StreamId) -> u64 {
        match self.asked[&stream] {
            Action::List { op, .. } | Action::Watch { op, .. } => op,
            _ => unreachable!("only these are kept"),
        }
    }

    fn page(&mut self, stream: StreamId, revision: i64, entries: &[(String, String)], more: bool) {
        let entries = entries.iter().map(|(k, v)| (k.clone().into(), v.clone().into())).collect();
        let op = self.op(stream);
        self.say(Body::Page { stream, op, store: 7, revision, entries, more });
    }

    fn batch(&mut self, stream: StreamId, revision: i64, changes: Vec<Change>) {
        let op = self.op(stream);
        self.say(Body::Batch { stream, op, store: 7, revision, changes });
    }

    /// Connects to a peer that writes no markers.
    fn up_with(&mut self, config: &ClusterConfig) {
        self.wait(Duration::from_secs(60));
        assert!(matches!(self.actions.last(), Some(Action::Connect { .. })), "{:?}", self.actions);
        self.say(Body::Connected);
        self.page(StreamId::Heartbeat, 10, &[(keys::HEARTBEAT.into(), "t".into())], false);
        self.batch(StreamId::Heartbeat, 10, vec![]);
        self.say(Body::Config { store: 7, value: Some(config::encode(config)) });
    }

    fn up(&mut self) {
        self.up_with(&announced());
    }

    fn status(&self) -> RemoteStatus {
        self.session.status(|at| format!("{at:?}"))
    }

    fn count(&self, reason: Reason) -> u64 {
        self.status().rejected.of(reason)
    }

    fn told(&mut self) -> Vec<RemoteChange> {
        std::mem::take(&mut self.told)
    }
}

fn announced() -> ClusterConfig {
    ClusterConfig {
        id: 2,
        synced_canaries: false,
        cached: false,
        max_connected_clusters: 255,
        service_exports_enabled: Some(true),
    }
}

const IP: StreamId = StreamId::Data(Kind::Ip);
const SERVICES: StreamId = StreamId::Data(Kind::Services);

fn address(n: u8) -> (String, String) {
    let value = format!(r#"{{"IP":"10.2.0.{n}","Mask":null,"HostIP":"172.20.0.11","ID":140013,"Key":0}}"#);
    (format!("cilium/state/ip/v1/default/10.2.0.{n}"), value)
}

fn service(name: &str) -> (String, String) {
    let value = format!(
        r#"{{"cluster":"cls-b","namespace":"ns","name":"{name}","frontends":{{}},"backends":{{}},"shared":true,"clusterID":2}}"#
    );
    (format!("cilium/state/services/v1/cls-b/ns/{name}"), value)
}

fn delete(entry: &(String, String)) -> Change {
    Change::Delete(entry.0.clone().into())
}

fn put(entry: &(String, String)) -> Change {
    Change::Put(entry.0.clone().into(), entry.1.clone().into())
}

fn is_list(action: &Action, of: StreamId) -> bool {
    matches!(action, Action::List { stream, .. } if *stream == of)
}

#[test]
fn keys_beyond_the_limit_are_refused_and_read_when_there_is_room() {
    let mut rig = Rig::new(&[Kind::Ip], |options| options.limits.addresses = 2);
    rig.up();
    rig.page(IP, 10, &[address(1), address(2), address(3)], false);
    assert_eq!((rig.status().num_endpoints, rig.count(Reason::OverKeyLimit)), (2, 1));
    assert!(rig.status().rejected.last_reasons[0].contains("2 keys of ip are held"));
    // A known key may change; a deleted one makes room, and the refused one is read by another list.
    rig.batch(IP, 10, vec![]);
    rig.batch(IP, 11, vec![put(&address(2))]);
    assert!(matches!(rig.asked[&IP], Action::Watch { .. }));
    rig.batch(IP, 12, vec![delete(&address(1))]);
    assert!(is_list(rig.actions.last().unwrap(), IP), "{:?}", rig.actions.last());
    rig.page(IP, 12, &[address(2), address(3)], false);
    assert_eq!((rig.status().num_endpoints, rig.count(Reason::OverKeyLimit)), (2, 1));
    // Nothing is refused any more: no further lists.
    rig.batch(IP, 13, vec![delete(&address(2))]);
    assert!(matches!(rig.asked[&IP], Action::Watch { .. }));
}

#[test]
fn bytes_beyond_the_budget_are_refused_and_the_old_value_stays() {
    let size = |entry: &(String, String)| (entry.1.len() + "10.2.0.1".len()) as u64;
    let mut rig = Rig::new(&[Kind::Ip, Kind::Services], |o| o.limits.bytes = 2 * size(&address(1)) + 20);
    rig.up();
    rig.page(IP, 10, &[address(1), address(2)], false);
    assert_eq!(rig.status().num_bytes, 2 * size(&address(1)));
    rig.page(SERVICES, 10, &[service("s")], false);
    assert_eq!((rig.status().num_shared_services, rig.count(Reason::OverBudget)), (0, 1));
    // A longer value of a known key.
    let (key, value) = address(1);
    let longer = (key, value.replace("\"Key\":0", "\"Key\":0,\"Metadata\":\"something rather long\""));
    rig.batch(IP, 11, vec![put(&longer)]);
    assert_eq!((rig.status().num_endpoints, rig.count(Reason::OverBudget)), (2, 2));
    assert_eq!(rig.status().num_bytes, 2 * size(&address(1)));
    // Room of one kind is room for another.
    rig.batch(IP, 12, vec![delete(&address(2))]);
    rig.batch(SERVICES, 12, vec![]);
    rig.batch(IP, 13, vec![delete(&address(1))]);
    assert!(is_list(&rig.asked[&SERVICES], SERVICES));
    rig.page(SERVICES, 13, &[service("s")], false);
    assert_eq!(rig.status().num_shared_services, 1);
}

#[test]
fn services_of_a_dead_cluster_are_withdrawn_after_the_cache_ttl() {
    let ttl = Duration::from_secs(900);
    let mut rig = Rig::new(&[Kind::Ip, Kind::Services, Kind::ServiceExports], |o| o.cache_ttl = ttl);
    rig.up();
    rig.page(IP, 10, &[address(1)], false);
    rig.page(SERVICES, 10, &[service("s")], false);
    rig.page(StreamId::Data(Kind::ServiceExports), 10, &[], false);
    rig.told();
    rig.say(Body::Failed("cut".into()));
    let cut = rig.now;
    // Attempts to connect are no connection, and the timer is not restarted by them.
    rig.wait(Duration::from_secs(10));
    rig.say(Body::Failed("refused".into()));
    rig.wait(ttl - Duration::from_secs(11));
    assert_eq!(rig.told(), []);
    assert_eq!(
        rig.session.deadline().min(cut + ttl),
        rig.session.deadline(),
        "the end of the TTL is a deadline"
    );
    rig.wait(Duration::from_secs(1));
    use RemoteChange::{Export, Service};
    let all = [Service(Event::Reset), Service(Event::Synced), Export(Event::Reset), Export(Event::Synced)];
    assert_eq!(rig.told(), all);
    let status = rig.status();
    assert_eq!((status.num_cache_revocations, status.num_shared_services, status.num_endpoints), (1, 0, 1));
    rig.say(Body::Failed("refused".into()));
    rig.wait(2 * ttl);
    assert_eq!(rig.told(), [], "once per loss of the connection");
    // It comes back.
    rig.say(Body::Failed("refused".into()));
    rig.up();
    rig.page(IP, 11, &[address(1)], false);
    rig.page(SERVICES, 11, &[service("s")], false);
    let told = rig.told();
    assert!(
        matches!(
            &told[..],
            [Service(Event::Reset), Export(_), Service(Event::Upsert(_)), Service(Event::Synced)]
        ),
        "{told:?}"
    );
    assert_eq!(rig.status().num_cache_revocations, 1);
}

#[test]
fn without_a_ttl_everything_is_kept_for_ever() {
    let mut rig = Rig::new(&[Kind::Services], |_| {});
    rig.up();
    rig.page(SERVICES, 10, &[service("s")], false);
    rig.told();
    rig.say(Body::Failed("cut".into()));
    for _ in 0..100 {
        rig.wait(Duration::from_secs(86_400));
        rig.say(Body::Failed("refused".into()));
    }
    assert_eq!(
        (rig.told(), rig.status().num_shared_services, rig.status().num_cache_revocations),
        (vec![], 1, 0)
    );
}

#[test]
fn a_revision_that_goes_back_ends_the_connection() {
    let going_back: [fn(&mut Rig); 3] = [
        // The second page of a list, the confirmation of a watch, a change.
        |rig| {
            rig.page(IP, 10, &[address(1)], true);
            rig.page(IP, 9, &[address(2)], false);
        },
        |rig| {
            rig.page(IP, 10, &[address(1)], false);
            rig.batch(IP, 9, vec![]);
        },
        |rig| {
            rig.page(IP, 10, &[address(1)], false);
            rig.batch(IP, 10, vec![]);
            rig.batch(IP, 9, vec![put(&address(3))]);
        },
    ];
    for (n, go_back) in going_back.into_iter().enumerate() {
        let mut rig = Rig::new(&[Kind::Ip], |_| {});
        rig.up();
        go_back(&mut rig);
        let status = rig.status();
        assert_eq!((status.connected, rig.count(Reason::RevisionBackwards)), (false, 1), "{n}");
        assert!(status.last_error.as_ref().unwrap().contains("went back from"), "{n}: {status:?}");
        assert!(status.num_endpoints > 0, "{n}: what is known stays");
        // The next connection lists everything anew, at whatever revision.
        rig.up();
        rig.page(IP, 3, &[address(7)], false);
        assert_eq!((rig.status().ready, rig.status().num_endpoints), (true, 1), "{n}");
    }
}

#[test]
fn a_watch_may_catch_up_in_pieces() {
    let mut rig = Rig::new(&[Kind::Ip], |_| {});
    rig.up();
    // A long list, and a store that went on meanwhile: its present revision is told when the watch begins,
    // and then, piece by piece, what happened since the list.
    rig.page(IP, 10, &[address(1)], true);
    rig.page(IP, 15, &[address(2)], false);
    rig.batch(IP, 20, vec![]);
    rig.batch(IP, 12, vec![put(&address(3))]);
    rig.batch(IP, 18, vec![put(&address(4))]);
    let status = rig.status();
    assert_eq!((status.ready, status.num_endpoints, status.rejected.count), (true, 4, 0), "{status:?}");
}

#[test]
fn pages_that_cannot_be_are_refused() {
    let elsewhere = ("cilium/state/nodes/v1/cls-b/n".to_owned(), "{}".to_owned());
    for (entries, more, says) in [
        (vec![], true, "no keys"),
        (vec![address(2), address(1)], false, "out of order"),
        (vec![address(1), address(1)], false, "out of order"),
        (vec![elsewhere], false, "outside the range"),
        (vec![address(1), address(2), address(3)], true, "more keys than asked for"),
    ] {
        let mut rig = Rig::new(&[Kind::Ip], |options| options.timing.page = 2);
        rig.up();
        rig.page(IP, 10, &entries, more);
        let status = rig.status();
        assert!(!status.connected && status.num_endpoints == 0, "{says}");
        assert!(status.last_error.unwrap().contains(says), "{says}");
        assert_eq!(rig.count(Reason::BadPage), 1);
    }
    // Ever new keys: some are over the limit, and then there are too many to be a cluster's.
    let mut rig = Rig::new(&[Kind::Ip], |options| options.limits.addresses = 2);
    rig.up();
    for n in (1..9).step_by(2) {
        rig.page(IP, 10, &[address(n), address(n + 1)], true);
        assert!(rig.status().connected, "{n}");
    }
    rig.page(IP, 10, &[address(9)], true);
    assert!(rig.status().last_error.unwrap().contains("more keys in all"));
    assert_eq!((rig.status().num_endpoints, rig.count(Reason::OverKeyLimit)), (2, 6));
    // An endless list: the same page again and again.
    let mut rig = Rig::new(&[Kind::Ip], |_| {});
    rig.up();
    rig.page(IP, 10, &[address(1)], true);
    rig.page(IP, 10, &[address(1)], true);
    assert_eq!(rig.count(Reason::BadPage), 1);
}

#[test]
fn pages_that_are_too_large_shrink_and_one_huge_value_is_stepped_over() {
    let mut rig = Rig::new(&[Kind::Ip], |options| options.timing.page = 4);
    rig.up();
    rig.page(IP, 10, &[address(1), address(2)], false);
    rig.batch(IP, 10, vec![]);
    // A change that is too large for a message: listed again.
    let op = rig.op(IP);
    rig.say(Body::TooLarge { stream: IP, op });
    let mut limits = vec![];
    while let Action::List { limit, keys_only, revision, .. } = rig.asked[&IP] {
        limits.push((limit, keys_only, revision));
        if keys_only {
            break;
        }
        let op = rig.op(IP);
        rig.say(Body::TooLarge { stream: IP, op });
    }
    assert_eq!(limits, [(4, false, 0), (2, false, 0), (1, false, 0), (1, true, 0)]);
    // Which value that was is known only at a revision that is known.
    rig.page(IP, 12, &[(address(1).0, String::new())], true);
    for skipping in [false, true] {
        let Action::List { limit: 1, revision: 12, keys_only, .. } = rig.asked[&IP] else { panic!() };
        assert_eq!(keys_only, skipping);
        if !skipping {
            let op = rig.op(IP);
            rig.say(Body::TooLarge { stream: IP, op });
        }
    }
    rig.page(IP, 12, &[(address(1).0, String::new())], true);
    let Action::List { limit, keys_only, revision, start, .. } = &rig.asked[&IP] else { panic!() };
    assert_eq!((*limit, *keys_only, *revision), (2, false, 12), "larger pages again");
    assert_eq!(start, &[address(1).0.as_bytes(), &[0]].concat());
    rig.page(IP, 12, &[address(2), address(3)], false);
    let status = rig.status();
    assert_eq!((status.num_endpoints, rig.count(Reason::ValueTooLarge)), (3, 1), "the old value stays");
    assert!(
        status.ready && status.rejected.last_reasons[0].contains("10.2.0.1: value: longer"),
        "{status:?}"
    );
}

#[test]
fn a_watch_that_is_not_confirmed_ends_the_connection() {
    let mut rig = Rig::new(&[Kind::Ip], |_| {});
    rig.up();
    rig.page(IP, 10, &[], false);
    assert_eq!(rig.session.deadline(), rig.now + Duration::from_secs(15));
    rig.wait(Duration::from_secs(15));
    let status = rig.status();
    assert!(!status.connected && status.last_error.unwrap().contains("was not confirmed within 15 s"));
}

#[test]
fn nobody_may_claim_what_is_this_nodes_own() {
    let own = ["10.1.0.0/24", "172.20.0.1/32"].map(|net| net.parse().unwrap());
    let mut rig = Rig::new(&[Kind::Ip, Kind::Nodes], |options| options.own_prefixes = own.to_vec());
    rig.up();
    let ours = |text: &str| (address(1).0.replace("10.2.0.1", text), address(1).1.replace("10.2.0.1", text));
    rig.page(IP, 10, &[ours("10.1.0.77"), ours("10.1.1.77"), ours("172.20.0.1")], false);
    assert_eq!((rig.status().num_endpoints, rig.count(Reason::ForeignAddress)), (1, 2));
    let node =
        r#"{"Name":"n","Cluster":"cls-b","ClusterID":2,"IPv4AllocCIDR":{"IP":"10.0.0.0","Mask":"/wAAAA=="}}"#;
    rig.page(
        StreamId::Data(Kind::Nodes),
        10,
        &[("cilium/state/nodes/v1/cls-b/n".into(), node.into())],
        false,
    );
    assert_eq!((rig.status().num_nodes, rig.count(Reason::ForeignAddress)), (0, 3));
    assert!(rig.status().rejected.last_reasons[0].contains("overlaps 10.1.0.0/24, which is this node's own"));
}

#[test]
fn a_peer_that_accepts_and_misbehaves_is_asked_ever_less_often() {
    let mut rig = Rig::new(&[Kind::Ip], |_| {});
    let mut waits = vec![];
    for _ in 0..40 {
        rig.up();
        rig.page(IP, 10, &[], true);
        waits.push(rig.session.deadline() - rig.now);
    }
    assert!(waits[0] <= Duration::from_millis(1200), "{waits:?}");
    assert!(waits[39] >= Duration::from_secs(24) && waits[39] <= Duration::from_secs(36), "{waits:?}");
    assert!(waits[30..].iter().any(|wait| *wait != waits[39]), "with jitter");
    // A connection that held is a new beginning.
    rig.up();
    rig.page(IP, 10, &[], false);
    rig.batch(IP, 10, vec![]);
    rig.wait(Duration::from_secs(31));
    rig.say(Body::Failed("cut".into()));
    assert!(rig.session.deadline() - rig.now <= Duration::from_millis(1200));
}

#[test]
fn clusters_that_exchange_their_ids_do_not_wait_for_each_other() {
    let [two, three] = [2, 3].map(|id| ClusterId::new(id, MaxClusters::C255).unwrap());
    let other = ClusterName::new("cls-c").unwrap();
    let mut rig = Rig::new(&[Kind::Ip], |_| {});
    rig.up();
    rig.page(IP, 10, &[address(1)], false);
    rig.told();
    rig.ids.reserve(three, &other).unwrap();
    rig.say(Body::Failed("cut".into()));
    // It announces the other's id, which is refused; but the one it had is free, for the other to take.
    rig.up_with(&ClusterConfig { id: 3, ..announced() });
    assert_eq!(
        (rig.status().connected, rig.count(Reason::IdConflict), rig.status().num_endpoints),
        (false, 1, 0)
    );
    assert_eq!(rig.told(), [RemoteChange::Address(Event::Reset), RemoteChange::Address(Event::Synced)]);
    rig.ids.reserve(two, &other).unwrap();
    rig.ids.release(three, &other);
    rig.up_with(&ClusterConfig { id: 3, ..announced() });
    assert!(rig.status().connected, "{:?}", rig.status());
}

#[test]
fn exports_go_when_the_peer_no_longer_has_them() {
    let exports = StreamId::Data(Kind::ServiceExports);
    let mut rig = Rig::new(&[Kind::ServiceExports], |_| {});
    rig.up();
    let value = r#"{"cluster":"cls-b","name":"s","namespace":"ns","exportCreationTimestamp":"2026-02-10T09:00:00Z","ports":[],"type":"Headless","sessionAffinity":"None"}"#;
    rig.page(exports, 10, &[("cilium/state/serviceexports/v1/cls-b/ns/s".into(), value.into())], false);
    assert_eq!((rig.status().num_service_exports, rig.status().synced.service_exports), (1, Some(true)));
    rig.told();
    rig.say(Body::Failed("cut".into()));
    rig.up_with(&ClusterConfig { service_exports_enabled: None, ..announced() });
    assert_eq!(rig.told(), [RemoteChange::Export(Event::Reset), RemoteChange::Export(Event::Synced)]);
    assert_eq!((rig.status().num_service_exports, rig.status().synced.service_exports), (0, None));
    assert!(rig.status().ready);
}

#[test]
fn a_mesh_of_511_wants_511_everywhere_and_has_its_own_ranges() {
    let mut rig = Rig::new(&[Kind::Identities], |o| o.local = cluster("cls-a", 1, MaxClusters::C511));
    rig.up();
    assert!(rig.status().last_error.unwrap().contains("all members need the same"));
    assert_eq!(rig.count(Reason::BadConfig), 1);
    rig.up_with(&ClusterConfig { id: 300, max_connected_clusters: 511, ..announced() });
    let identity = |id: u32| {
        let value = "k8s:io.cilium.k8s.policy.cluster=cls-b;".to_owned();
        (format!("cilium/state/identities/v1/id/{id}"), value)
    };
    // 300 << 15, and the last one of cluster 299.
    let stream = StreamId::Data(Kind::Identities);
    rig.page(stream, 10, &[identity(9_830_399), identity(9_830_400), identity(9_863_167)], false);
    assert_eq!((rig.status().num_identities, rig.count(Reason::ForeignIdentity)), (2, 1));
    // In a mesh of 255 such an id does not exist.
    let mut rig = Rig::new(&[Kind::Identities], |_| {});
    rig.up_with(&ClusterConfig { id: 300, max_connected_clusters: 511, ..announced() });
    assert!(rig.status().last_error.unwrap().contains("between 1 and 255"));
}

#[test]
fn prefixes_of_both_layouts_lead_to_the_same_entries() {
    let mut rig = Rig::new(&[Kind::Ip], |_| {});
    rig.up();
    rig.page(IP, 10, &[address(1)], false);
    rig.told();
    rig.say(Body::Failed("cut".into()));
    // A cache took its place: other keys, the same entry, nothing to tell.
    rig.up_with(&ClusterConfig { cached: true, ..announced() });
    let (key, value) = address(1);
    let name = ClusterName::new("cls-b").unwrap();
    let native = keys::prefix(Layout::Native, Kind::Ip, &name);
    let key = key.replace(&native, &keys::prefix(Layout::Cached, Kind::Ip, &name));
    rig.page(IP, 3, &[(key, value)], false);
    assert_eq!((rig.told(), rig.status().num_endpoints, rig.status().ready), (vec![], 1, true));
}
