//! What `connect` and `disconnect` decide: checks over all clusters, then the changes of each.
//! Pure: facts in, changes out.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use super::facts::{Data, Facts};
use super::{Mode, entry};
use crate::names;

/// The changes of one Secret of one cluster; `None` removes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Index of the cluster in the facts.
    pub cluster: usize,
    /// Name of the Secret.
    pub secret: &'static str,
    /// Keys that really change.
    pub keys: BTreeMap<String, Option<ByteString>>,
}

/// Who reads whom: (reader, target) as indices of the facts; 0 is the source.
pub(crate) fn links(mode: Mode, clusters: usize) -> Vec<(usize, usize)> {
    let pairs = (0..clusters).flat_map(|a| (0..clusters).map(move |b| (a, b))).filter(|(a, b)| a != b);
    pairs
        .filter(|(reader, target)| match mode {
            Mode::Unicast => *reader == 0,
            Mode::Bidirectional => *reader == 0 || *target == 0,
            Mode::Mesh => true,
        })
        .collect()
}

/// Everything that forbids these links, one sentence each; empty = go.
pub(crate) fn problems(facts: &[Facts], links: &[(usize, usize)]) -> Vec<String> {
    let mut list = Vec::new();
    for (i, a) in facts.iter().enumerate() {
        for b in &facts[i + 1..] {
            pair_problems(a, b, &mut list);
        }
    }
    for &(reader, target) in links {
        existing_peer_problems(&facts[reader], &facts[target], &mut list);
    }
    list.dedup();
    list
}

fn pair_problems(a: &Facts, b: &Facts, list: &mut Vec<String>) {
    let (ca, cb) = (&a.cluster, &b.cluster);
    let both = format!("{} and {}", a.context, b.context);
    if ca.name == cb.name {
        list.push(format!("{both} are both named {}: every cluster needs its own cluster-name", ca.name));
    }
    if ca.id == cb.id {
        list.push(format!("{both} both have cluster id {}: every cluster needs its own cluster-id", ca.id));
    }
    if ca.max_clusters != cb.max_clusters {
        list.push(format!(
            "max-connected-clusters differs: {} in {}, {} in {}; it must be equal in all clusters",
            ca.max_clusters.max_id(),
            a.context,
            cb.max_clusters.max_id(),
            b.context
        ));
    }
    if a.tunnel != b.tunnel {
        let mode =
            |tunnel: &str| if tunnel == "disabled" { "native".into() } else { format!("tunnel ({tunnel})") };
        list.push(format!(
            "routing mode differs: {} in {}, {} in {}; set routing-mode to the same in all clusters",
            mode(&a.tunnel),
            a.context,
            mode(&b.tunnel),
            b.context
        ));
    }
    for (node_a, cidr_a) in &a.pod_cidrs {
        for (node_b, cidr_b) in &b.pod_cidrs {
            if cidr_a.contains(cidr_b) || cidr_b.contains(cidr_a) {
                list.push(format!(
                    "pod CIDRs overlap: {cidr_a} of node {node_a} in {} and {cidr_b} of node {node_b} in {}",
                    a.context, b.context
                ));
                // One example is enough; a whole overlapping cluster would fill the screen.
                return;
            }
        }
    }
}

fn existing_peer_problems(reader: &Facts, target: &Facts, list: &mut Vec<String>) {
    for (name, id) in reader.peers() {
        if name != target.cluster.name.as_str() && id == Some(target.cluster.id.get()) {
            list.push(format!(
                "{} is already connected to {name}, which has the same cluster id {} as {}",
                reader.context, target.cluster.id, target.context
            ));
        }
    }
}

/// The changes that establish the links. Trust first: a peer that is configured before it is
/// trusted would only be refused.
pub(crate) fn connect(facts: &[Facts], links: &[(usize, usize)]) -> Vec<Change> {
    let mut wanted = Wanted::default();
    for &(reader, target) in links {
        let (r, t) = (&facts[reader], &facts[target]);
        let Some(access) = &t.access else { continue };
        let own_ca = r.ca_key != t.ca_key;
        let name = &t.cluster.name;
        let id = t.cluster.id.get();
        let direct = entry::render(name, id, &access.addresses, access.port, own_ca);
        let ca = own_ca.then(|| t.ca.clone());
        // With a cache only that dials the peer, and the agents dial the cache.
        let (text, agents_ca) = match &r.cache {
            Some(cache) => (entry::render_cached(id, cache), None),
            None => (direct.clone(), ca.clone()),
        };
        for (secret, text, ca) in [(names::PEERS, text, agents_ca), (names::KVSTOREMESH_PEERS, direct, ca)] {
            wanted.set(reader, secret, name.as_str(), Some(text));
            wanted.set(reader, secret, &entry::ca_key(name), ca);
        }
        let trust = own_ca.then(|| r.ca.clone());
        wanted.set(target, names::PEER_TRUST, &trust_key(r.cluster.name.as_str()), trust);
    }
    wanted.changes(facts)
}

/// The changes that take the links back.
pub(crate) fn disconnect(facts: &[Facts], links: &[(usize, usize)]) -> Vec<Change> {
    let mut wanted = Wanted::default();
    for &(reader, target) in links {
        wanted.forget(reader, facts[target].cluster.name.as_str());
        let key = trust_key(facts[reader].cluster.name.as_str());
        wanted.set(target, names::PEER_TRUST, &key, None);
    }
    wanted.changes(facts)
}

/// The changes by which one cluster forgets peers that need not answer, and their trust.
pub(crate) fn forget(facts: &Facts, peers: &[String]) -> Vec<Change> {
    let mut wanted = Wanted::default();
    for peer in peers {
        wanted.forget(0, peer);
        wanted.set(0, names::PEER_TRUST, &trust_key(peer), None);
    }
    wanted.changes(std::slice::from_ref(facts))
}

/// Key of a peer's authority in the Secret of trusted peers.
fn trust_key(peer: &str) -> String {
    format!("{peer}.crt")
}

/// Content wished for, by (order of writing, cluster, Secret).
#[derive(Default)]
struct Wanted(BTreeMap<(bool, usize, &'static str), BTreeMap<String, Option<String>>>);

impl Wanted {
    fn set(&mut self, cluster: usize, secret: &'static str, key: &str, value: Option<String>) {
        let late = secret != names::PEER_TRUST;
        self.0.entry((late, cluster, secret)).or_default().insert(key.to_owned(), value);
    }

    fn forget(&mut self, cluster: usize, peer: &str) {
        for secret in [names::PEERS, names::KVSTOREMESH_PEERS] {
            for key in entry::keys(peer) {
                self.set(cluster, secret, &key, None);
            }
        }
    }

    /// Only what differs from what is there.
    fn changes(self, facts: &[Facts]) -> Vec<Change> {
        let empty = Data::new();
        let changes = self.0.into_iter().filter_map(|((_, cluster, secret), keys)| {
            let there = facts[cluster].secrets.get(secret).unwrap_or(&empty);
            let keys = keys.into_iter().map(|(key, text)| (key, text.map(|t| ByteString(t.into_bytes()))));
            let keys: BTreeMap<_, _> = keys.filter(|(key, value)| there.get(key) != value.as_ref()).collect();
            (!keys.is_empty()).then_some(Change { cluster, secret, keys })
        });
        changes.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters};

    use super::super::facts::{Access, LocalCache};
    use super::*;

    fn facts(name: &str, id: u32, ca: &str, cidr: &str) -> Facts {
        let secrets = [names::PEERS, names::KVSTOREMESH_PEERS, names::PEER_TRUST];
        Facts {
            context: format!("ctx-{name}"),
            cluster: ClusterInfo {
                name: ClusterName::new(name).unwrap(),
                id: ClusterId::new(id, MaxClusters::C255).unwrap(),
                max_clusters: MaxClusters::C255,
            },
            tunnel: "vxlan".into(),
            access: Some(Access {
                service_type: "LoadBalancer".into(),
                addresses: BTreeSet::from([format!("10.{id}.0.9").parse().unwrap()]),
                port: 2379,
            }),
            cache: None,
            ca: format!("CA {ca}\n"),
            ca_key: ca.as_bytes().to_vec(),
            pod_cidrs: vec![(format!("{name}-1"), cidr.parse().unwrap())],
            secrets: secrets.map(|s| (s, Data::new())).into(),
        }
    }

    fn carry_out(facts: &mut [Facts], changes: &[Change]) {
        for change in changes {
            let data = facts[change.cluster].secrets.entry(change.secret).or_default();
            for (key, value) in &change.keys {
                match value {
                    Some(value) => data.insert(key.clone(), value.clone()),
                    None => data.remove(key),
                };
            }
        }
    }

    #[test]
    fn modes() {
        assert_eq!(links(Mode::Unicast, 3), [(0, 1), (0, 2)]);
        assert_eq!(links(Mode::Bidirectional, 3), [(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!(links(Mode::Mesh, 3).len(), 6);
    }

    #[test]
    fn connect_is_idempotent_and_disconnect_undoes_it() {
        let mut all = [
            facts("cls-a", 1, "a", "10.1.0.0/24"),
            facts("cls-b", 2, "b", "10.2.0.0/24"),
            facts("cls-c", 3, "a", "10.3.0.0/24"),
        ];
        let before: Vec<_> = all.iter().map(|f| f.secrets.clone()).collect();
        let links = links(Mode::Mesh, 3);
        assert_eq!(problems(&all, &links), [""; 0]);
        let changes = connect(&all, &links);
        assert_eq!(changes.first().unwrap().secret, names::PEER_TRUST, "trust comes first");
        carry_out(&mut all, &changes);
        // A trusts B by its own CA; A and C share one, so nothing is exchanged between them.
        let peers = &all[0].secrets[names::PEERS];
        assert_eq!(peers.keys().collect::<Vec<_>>(), ["cls-b", "cls-b.etcd-client-ca.crt", "cls-c"]);
        assert_eq!(all[0].secrets[names::PEER_TRUST].keys().collect::<Vec<_>>(), ["cls-b.crt"]);
        assert_eq!(all[1].secrets[names::PEER_TRUST].keys().collect::<Vec<_>>(), ["cls-a.crt", "cls-c.crt"]);
        assert_eq!(all[0].secrets[names::PEERS], all[0].secrets[names::KVSTOREMESH_PEERS]);
        assert_eq!(connect(&all, &links), []);
        let changes = disconnect(&all, &links);
        carry_out(&mut all, &changes);
        assert_eq!(all.iter().map(|f| f.secrets.clone()).collect::<Vec<_>>(), before);
        assert_eq!(disconnect(&all, &links), []);
    }

    #[test]
    fn with_a_cache_the_agents_dial_it_and_it_dials_the_peers() {
        let mut all = [facts("cls-a", 1, "a", "10.1.0.0/24"), facts("cls-b", 2, "b", "10.2.0.0/24")];
        let links = links(Mode::Bidirectional, 2);
        let direct = connect(&all, &links);
        carry_out(&mut all, &direct);
        let before = all[0].secrets[names::KVSTOREMESH_PEERS].clone();
        // Turned on after the clusters were connected: connecting again moves the agents.
        let host = "clustermesh-apiserver.kube-system.svc".to_owned();
        all[0].cache = Some(LocalCache { host, address: "10.96.0.7".parse().unwrap() });
        let changes = connect(&all, &links);
        assert_eq!(changes.iter().map(|c| (c.cluster, c.secret)).collect::<Vec<_>>(), [(0, names::PEERS)]);
        carry_out(&mut all, &changes);
        let peers = &all[0].secrets[names::PEERS];
        assert_eq!(
            peers.keys().collect::<Vec<_>>(),
            ["cls-b"],
            "the peer's authority is the cache's business"
        );
        let text = String::from_utf8(peers["cls-b"].0.clone()).unwrap();
        assert!(text.contains("https://clustermesh-apiserver.kube-system.svc:2379"), "{text}");
        assert_eq!(all[0].secrets[names::KVSTOREMESH_PEERS], before);
        assert_eq!(connect(&all, &links), []);
        let changes = disconnect(&all, &links);
        carry_out(&mut all, &changes);
        assert!(all.iter().flat_map(|f| f.secrets.values()).all(Data::is_empty));
    }

    #[test]
    fn unicast_gives_the_destination_trust_only() {
        let all = [facts("cls-a", 1, "a", "10.1.0.0/24"), facts("cls-b", 2, "b", "10.2.0.0/24")];
        let changes = connect(&all, &links(Mode::Unicast, 2));
        let of_b: Vec<_> = changes.iter().filter(|c| c.cluster == 1).map(|c| c.secret).collect();
        assert_eq!(of_b, [names::PEER_TRUST]);
        assert_eq!(changes.iter().map(|c| c.cluster).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
    }

    #[test]
    fn forgetting_a_cluster_that_is_gone() {
        let mut all = [facts("cls-a", 1, "a", "10.1.0.0/24"), facts("cls-b", 2, "b", "10.2.0.0/24")];
        let changes = connect(&all, &links(Mode::Bidirectional, 2));
        carry_out(&mut all, &changes);
        let changes = forget(&all[0], &["cls-b".to_owned()]);
        carry_out(&mut all, &changes);
        assert!(all[0].secrets.values().all(Data::is_empty));
    }

    #[test]
    fn what_must_not_meet_is_named() {
        let a = facts("cls-a", 1, "a", "10.1.0.0/24");
        let check = |b: Facts| {
            let all = [a.clone(), b];
            problems(&all, &links(Mode::Bidirectional, 2)).join("; ")
        };
        assert!(check(facts("cls-a", 2, "b", "10.2.0.0/24")).contains("both named cls-a"));
        assert!(check(facts("cls-b", 1, "b", "10.2.0.0/24")).contains("both have cluster id 1"));
        let text = check(facts("cls-b", 2, "b", "10.1.0.0/16"));
        assert!(text.contains("10.1.0.0/24 of node cls-a-1") && text.contains("10.1.0.0/16"), "{text}");
        let mut b = facts("cls-b", 2, "b", "10.2.0.0/24");
        b.cluster.max_clusters = MaxClusters::C511;
        assert!(check(b).contains("must be equal"));
        // A third cluster with the id of one that is already connected.
        let mut all = [a.clone(), facts("cls-b", 2, "b", "10.2.0.0/24")];
        let changes = connect(&all, &links(Mode::Bidirectional, 2));
        carry_out(&mut all, &changes);
        let next = [all[0].clone(), facts("cls-c", 2, "c", "10.3.0.0/24")];
        assert!(problems(&next, &links(Mode::Unicast, 2))[0].contains("already connected to cls-b"));
    }
}
