//! What a Service's annotations ask for (behaviours 2.1, and our own for failover in steps). A word that
//! means nothing acts as if it were not there, and is told as a warning: it never loses the service.

use std::collections::BTreeMap;
use std::fmt::Display;

use causeway_model::lb::{Algorithm, Forwarding, FrontendKind};
use causeway_model::{
    Affinity, ClusterName, Exposure, LabelSelector, Operator, Preference, Requirement, Sharing,
};
use ipnet::IpNet;

/// Annotations and their older names; the new name wins if present with any value.
const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const AFFINITY: [&str; 2] = ["service.cilium.io/affinity", "io.cilium/service-affinity"];
const ORDER: &str = "service.causeway.io/cluster-order";
const WEIGHTS: &str = "service.causeway.io/cluster-weights";
const ALGORITHM: &str = "service.cilium.io/lb-algorithm";
pub(super) const FORWARDING: &str = "service.cilium.io/forwarding-mode";
const TYPE: &str = "service.cilium.io/type";
const NODE: &str = "service.cilium.io/node";
const NODE_SELECTOR: &str = "service.cilium.io/node-selector";
const RANGES_POLICY: &str = "service.cilium.io/src-ranges-policy";
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY: [&str; 2] =
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// This cluster, whatever its name is.
const LOCAL: &str = "local";
/// Clusters an annotation may name.
const MAX_CLUSTERS: usize = 64;
/// The largest weight of a cluster.
const MAX_WEIGHT: u16 = 10_000;

/// The annotations of one Service, and what is wrong with those that were read.
#[derive(Debug)]
pub(super) struct Annotations<'a> {
    all: &'a BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl<'a> Annotations<'a> {
    pub(super) fn new(all: &'a BTreeMap<String, String>) -> Self {
        Self { all, warnings: vec![] }
    }

    /// What was wrong, a sentence each.
    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings
    }

    /// Notes that the value of something means nothing, why, and what is done instead.
    pub(super) fn warn(&mut self, name: &str, value: &str, why: impl Display) {
        // Values come from whoever may write Services, and go into Events.
        let mut shown: String = value.chars().take(64).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        self.warnings.push(format!("{name} {shown:?} {why}"));
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.all.get(name).map(String::as_str)
    }

    /// The value under the first of these names that is there, with that name.
    fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, &'a str)> {
        names.into_iter().find_map(|name| Some((name, self.get(name)?)))
    }

    /// The meaning of a word in any letter case.
    fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)], instead: &str) -> Option<T> {
        let value = self.get(name)?;
        let found = words.iter().find(|(word, _)| value.trim().eq_ignore_ascii_case(word));
        if found.is_none() {
            let legal: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.warn(name, value, format_args!("is none of {}: {instead}", legal.join(", ")));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// What they say about the mesh.
    pub(super) fn sharing(&mut self) -> Sharing {
        let is_true = |(_, value): (_, &str)| value.eq_ignore_ascii_case("true");
        if !self.first(GLOBAL).is_some_and(is_true) {
            return Sharing::default();
        }
        let affinity = match self.first(AFFINITY) {
            None => Affinity::None,
            Some((_, word)) if word.eq_ignore_ascii_case("local") => Affinity::Local,
            Some((_, word)) if word.eq_ignore_ascii_case("remote") => Affinity::Remote,
            Some((_, word)) if word.eq_ignore_ascii_case("none") => Affinity::None,
            Some((name, word)) => {
                self.warn(name, word, "is none of local, remote, none: no cluster is preferred");
                Affinity::None
            }
        };
        Sharing { global: true, shared: self.first(SHARED).is_none_or(is_true), affinity }
    }

    /// Which clusters are used first, and how much each gets. Of no use unless the service is global.
    pub(super) fn preference(&mut self, sharing: Sharing) -> Preference {
        if !sharing.global {
            return Preference::default();
        }
        let order = self.get(ORDER).map(|text| (text, order(text)));
        let weights = self.get(WEIGHTS).map(|text| (text, weights(text)));
        let mut preference = Preference::default();
        match order {
            Some((_, Ok(order))) => preference.order = order,
            Some((text, Err(why))) => self.warn(ORDER, text, format_args!("{why}: the order is ignored")),
            None => {}
        }
        match weights {
            Some((_, Ok(weights))) => preference.weights = weights,
            Some((text, Err(why))) => {
                self.warn(WEIGHTS, text, format_args!("{why}: all backends get the same"));
            }
            None => {}
        }
        if !preference.order.is_empty()
            && sharing.affinity != Affinity::None
            && let Some((name, word)) = self.first(AFFINITY)
        {
            self.warn(name, word, format_args!("is not used: {ORDER} says more"));
        }
        preference
    }

    pub(super) fn algorithm(&mut self) -> Option<Algorithm> {
        let words = [("random", Algorithm::Random), ("maglev", Algorithm::Maglev)];
        self.word(ALGORITHM, &words, "the node's own algorithm is used")
    }

    pub(super) fn forwarding(&mut self) -> Option<Forwarding> {
        let words = [("snat", Forwarding::Snat), ("dsr", Forwarding::Dsr)];
        self.word(FORWARDING, &words, "the node's own mode is used")
    }

    /// The kinds of addresses that are served: all if not one word of it is a kind.
    pub(super) fn exposed(&mut self) -> Exposure {
        const KINDS: [(&str, FrontendKind); 3] = [
            ("ClusterIP", FrontendKind::ClusterIP),
            ("NodePort", FrontendKind::NodePort),
            ("LoadBalancer", FrontendKind::LoadBalancer),
        ];
        let mut kinds = vec![];
        for word in self.get(TYPE).into_iter().flat_map(|text| text.split(',')).map(str::trim) {
            match KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
                Some((_, kind)) => kinds.push(*kind),
                None => self.warn(TYPE, word, "is none of ClusterIP, NodePort, LoadBalancer: it is ignored"),
            }
        }
        kinds.sort_unstable();
        kinds.dedup();
        Exposure(kinds)
    }

    /// The labels that nodes must have to serve external addresses: those a selector says, or one label with the name
    /// of the older annotation and its value.
    pub(super) fn nodes(&mut self) -> LabelSelector {
        if let Some(text) = self.get(NODE_SELECTOR) {
            match LabelSelector::parse(text) {
                Ok(selector) => return selector,
                Err(error) => self.warn(NODE_SELECTOR, text, format_args!("is ignored: {error}")),
            }
        }
        let value = self.get(NODE).map(str::trim).filter(|value| !value.is_empty());
        let required = |value: &str| Requirement {
            key: NODE.to_owned(),
            operator: Operator::In(vec![value.to_owned()]),
        };
        LabelSelector(value.map(required).into_iter().collect())
    }

    /// Who may use the load balancer's addresses: what the spec says, or without it the older annotation.
    /// A range that is none is left out; if none is left where some were meant, nobody may.
    pub(super) fn source_ranges(&mut self, of_spec: &[String]) -> (Vec<IpNet>, bool) {
        let annotated = self.get(RANGES).filter(|_| of_spec.is_empty());
        let texts =
            of_spec.iter().map(String::as_str).chain(annotated.into_iter().flat_map(|t| t.split(',')));
        let mut ranges = vec![];
        let mut meant = false;
        for text in texts.map(str::trim).filter(|text| !text.is_empty()).collect::<Vec<_>>() {
            meant = true;
            match text.parse::<IpNet>() {
                Ok(range) => ranges.push(range.trunc()),
                Err(_) => {
                    self.warn("loadBalancerSourceRanges", text, "is no range like 10.0.0.0/8: it is ignored")
                }
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        let words = [("allow", false), ("deny", true)];
        let deny = self.word(RANGES_POLICY, &words, "the ranges are those that may");
        let deny = deny.unwrap_or(false) && !ranges.is_empty();
        if meant && ranges.is_empty() {
            // Ranges that mean nothing must not open the service to everybody.
            return (everybody(), true);
        }
        (ranges, deny)
    }

    /// Whether clients should stay in their zone.
    pub(super) fn prefers_zone(&mut self, distribution: Option<&str>) -> bool {
        match distribution {
            Some("PreferClose" | "PreferSameZone") => true,
            Some("PreferSameNode") | None => match self.first(TOPOLOGY) {
                Some((_, mode)) => mode.eq_ignore_ascii_case("auto"),
                None => false,
            },
            Some(other) => {
                let why = "is none of PreferClose, PreferSameZone, PreferSameNode: it is ignored";
                self.warn("trafficDistribution", other, why);
                false
            }
        }
    }
}

/// The ranges of all addresses of both families.
fn everybody() -> Vec<IpNet> {
    vec![
        IpNet::new_assert(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
        IpNet::new_assert(std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
    ]
}

fn cluster(word: &str) -> Result<Option<ClusterName>, String> {
    match word.trim() {
        LOCAL => Ok(None),
        name => ClusterName::new(name).map(Some).map_err(|error| format!("cannot be read ({error})")),
    }
}

/// `local,cls-b,cls-c`
fn order(text: &str) -> Result<Vec<Option<ClusterName>>, String> {
    let mut order = vec![];
    for word in text.split(',').filter(|word| !word.trim().is_empty()) {
        let name = cluster(word)?;
        if order.contains(&name) {
            return Err(format!("names {} twice", word.trim()));
        }
        order.push(name);
    }
    match order.len() {
        0 => Err("names no cluster".to_owned()),
        n if n > MAX_CLUSTERS => Err(format!("names more than {MAX_CLUSTERS} clusters")),
        _ => Ok(order),
    }
}

/// `local=90,cls-b=10`
fn weights(text: &str) -> Result<BTreeMap<Option<ClusterName>, u16>, String> {
    let mut weights = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let Some((name, weight)) = part.split_once('=') else {
            return Err(format!("has {:?}, which is not cluster=weight", part.trim()));
        };
        let legal = weight.trim().parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
        let Some(weight) = legal else {
            return Err(format!("has a weight {:?}, which is not 0 to {MAX_WEIGHT}", weight.trim()));
        };
        if weights.insert(cluster(name)?, weight).is_some() {
            return Err(format!("names {} twice", name.trim()));
        }
    }
    match weights.len() {
        0 => Err("names no cluster".to_owned()),
        n if n > MAX_CLUSTERS => Err(format!("names more than {MAX_CLUSTERS} clusters")),
        _ => Ok(weights),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn sharing(pairs: &[(&str, &str)]) -> (Sharing, Vec<String>) {
        let map = map(pairs);
        let mut annotations = Annotations::new(&map);
        (annotations.sharing(), annotations.into_warnings())
    }

    #[test]
    fn aliases_and_precedence() {
        let of = |pairs: &[(&str, &str)]| sharing(pairs).0;
        assert_eq!(of(&[]), Sharing::default());
        assert_eq!(of(&[("service.cilium.io/shared", "true")]), Sharing::default());
        let global = Sharing { global: true, shared: true, affinity: Affinity::None };
        assert_eq!(of(&[("service.cilium.io/global", "TRUE")]), global);
        assert_eq!(of(&[("io.cilium/global-service", "true")]), global);
        // The new name wins with any value.
        assert!(!of(&[("service.cilium.io/global", ""), ("io.cilium/global-service", "true")]).global);
        assert!(!of(&[("service.cilium.io/global", "true"), ("io.cilium/shared-service", "no")]).shared);
    }

    #[test]
    fn affinity_words() {
        for (word, want, warned) in [
            ("local", Affinity::Local, false),
            ("Remote", Affinity::Remote, false),
            ("none", Affinity::None, false),
            ("nearest", Affinity::None, true),
            ("", Affinity::None, true),
        ] {
            for name in AFFINITY {
                let (sharing, warnings) = sharing(&[("service.cilium.io/global", "true"), (name, word)]);
                assert_eq!(sharing.affinity, want, "{word}");
                assert_eq!(!warnings.is_empty(), warned, "{word}: {warnings:?}");
                assert!(warnings.iter().all(|warning| warning.starts_with(name)), "{warnings:?}");
            }
        }
        // Of no service of the mesh it says nothing, and nothing is wrong with it.
        assert_eq!(sharing(&[("service.cilium.io/affinity", "nearest")]), (Sharing::default(), vec![]));
    }

    fn preference(pairs: &[(&str, &str)], sharing: Sharing) -> (Preference, String) {
        let map = map(pairs);
        let mut annotations = Annotations::new(&map);
        (annotations.preference(sharing), annotations.into_warnings().join("\n"))
    }

    #[test]
    fn steps_and_weights() {
        let global = Sharing { global: true, shared: true, affinity: Affinity::None };
        let name = |name: &str| Some(ClusterName::new(name).unwrap());
        let both = [(ORDER, "local, cls-b,cls-c,"), (WEIGHTS, "local=90, cls-b = 10")];
        let (read, warnings) = preference(&both, global);
        assert_eq!(read.order, [None, name("cls-b"), name("cls-c")]);
        assert_eq!(read.weights, [(None, 90), (name("cls-b"), 10)].into());
        assert_eq!(warnings, "");
        assert_eq!(preference(&both, Sharing::default()).0, Preference::default());
        for (bad, says) in [
            ((ORDER, "local,local"), "names local twice"),
            ((ORDER, " , "), "names no cluster"),
            ((ORDER, "local,Cls_B"), "Cls_B"),
            ((WEIGHTS, "local"), "is not cluster=weight"),
            ((WEIGHTS, "local=-1"), "is not 0 to 10000"),
            ((WEIGHTS, "local=10001"), "is not 0 to 10000"),
            ((WEIGHTS, "cls-b=1,cls-b=2"), "names cls-b twice"),
            ((WEIGHTS, ""), "names no cluster"),
        ] {
            let (read, warnings) = preference(&[bad], global);
            assert_eq!(read, Preference::default(), "{bad:?}");
            assert!(warnings.starts_with(bad.0) && warnings.contains(says), "{warnings}");
        }
        let local = Sharing { affinity: Affinity::Local, ..global };
        let (read, warnings) =
            preference(&[(ORDER, "cls-b"), ("service.cilium.io/affinity", "local")], local);
        assert_eq!(read.order, [name("cls-b")]);
        assert!(warnings.contains("is not used: service.causeway.io/cluster-order"), "{warnings}");
    }

    #[test]
    fn balancing_words() {
        let of = |pairs: &[(&str, &str)]| {
            let map = map(pairs);
            let mut annotations = Annotations::new(&map);
            let read = (annotations.algorithm(), annotations.forwarding(), annotations.exposed().0);
            (read, annotations.into_warnings().len())
        };
        assert_eq!(of(&[]), ((None, None, vec![]), 0));
        let all = [(ALGORITHM, "Maglev"), (FORWARDING, "dsr"), (TYPE, "NodePort, clusterip")];
        let kinds = vec![FrontendKind::ClusterIP, FrontendKind::NodePort];
        let read = (Some(Algorithm::Maglev), Some(Forwarding::Dsr), kinds);
        assert_eq!(of(&all), (read, 0));
        let bad = [(ALGORITHM, "least-conn"), (FORWARDING, "hybrid"), (TYPE, "Anycast")];
        assert_eq!(of(&bad), ((None, None, vec![]), 3));
    }

    #[test]
    fn nodes_that_serve() {
        let of = |pairs: &[(&str, &str)]| {
            let map = map(pairs);
            let mut annotations = Annotations::new(&map);
            (annotations.nodes(), annotations.into_warnings().join(" "))
        };
        let parsed = |text| LabelSelector::parse(text).unwrap();
        assert_eq!(of(&[]), (LabelSelector::default(), String::new()));
        assert_eq!(of(&[(NODE, " ")]).0, LabelSelector::default());
        assert_eq!(of(&[(NODE, "edge")]).0, parsed("service.cilium.io/node=edge"));
        // The selector goes before the single label, unless it is none.
        let both = [(NODE, "edge"), (NODE_SELECTOR, "tier in ( edge , core )")];
        assert_eq!(of(&both), (parsed("tier in (edge,core)"), String::new()));
        let (read, warning) = of(&[(NODE, "edge"), (NODE_SELECTOR, "tier on (edge)")]);
        assert_eq!(read, parsed("service.cilium.io/node=edge"));
        assert!(warning.starts_with(NODE_SELECTOR) && warning.contains("is no label selector"), "{warning}");
    }

    #[test]
    fn ranges_of_clients() {
        let of = |spec: &[&str], pairs: &[(&str, &str)]| {
            let map = map(pairs);
            let mut annotations = Annotations::new(&map);
            let spec: Vec<String> = spec.iter().map(|text| text.to_string()).collect();
            let (ranges, deny) = annotations.source_ranges(&spec);
            let ranges: Vec<_> = ranges.iter().map(IpNet::to_string).collect();
            (ranges.join(" "), deny, annotations.into_warnings().len())
        };
        assert_eq!(of(&[], &[]), (String::new(), false, 0));
        assert_eq!(of(&["10.0.0.9/8", " 10.0.0.0/8"], &[]), ("10.0.0.0/8".to_owned(), false, 0));
        assert_eq!(of(&[], &[(RANGES, "10.0.0.0/8, fd00::/8")]).0, "10.0.0.0/8 fd00::/8");
        assert_eq!(of(&["10.0.0.0/8"], &[(RANGES_POLICY, "Deny")]), ("10.0.0.0/8".to_owned(), true, 0));
        assert_eq!(of(&["10.0.0.0/8"], &[(RANGES_POLICY, "maybe")]), ("10.0.0.0/8".to_owned(), false, 1));
        assert_eq!(of(&["10.0.0.0/8", "x"], &[]), ("10.0.0.0/8".to_owned(), false, 1));
        // Nonsense alone opens nothing.
        assert_eq!(of(&["x"], &[]), ("0.0.0.0/0 ::/0".to_owned(), true, 1));
    }

    #[test]
    fn zones() {
        let of = |distribution, pairs: &[(&str, &str)]| {
            let map = map(pairs);
            let mut annotations = Annotations::new(&map);
            (annotations.prefers_zone(distribution), annotations.into_warnings().len())
        };
        assert_eq!(of(None, &[]), (false, 0));
        assert_eq!(of(Some("PreferClose"), &[]), (true, 0));
        assert_eq!(of(Some("PreferSameNode"), &[]), (false, 0));
        assert_eq!(of(Some("Anywhere"), &[]), (false, 1));
        assert_eq!(of(None, &[("service.kubernetes.io/topology-mode", "Auto")]), (true, 0));
        assert_eq!(of(None, &[("service.kubernetes.io/topology-aware-hints", "disabled")]), (false, 0));
    }
}
