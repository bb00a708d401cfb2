//! How the exports of one name become one: the oldest export wins, then the cluster whose name comes
//! first; ports are the union of all.

use std::collections::BTreeSet;

use causeway_model::mcs::IpFamily;
use causeway_model::{ExportPort, ExportType, ServiceExport, SessionAffinity};
use jiff::Timestamp;

/// Most characters of a conflict's message.
const MAX_MESSAGE: usize = 1000;
/// Seconds Kubernetes sets where a Service does not say how long a client keeps its backend.
const AFFINITY_SECONDS: u32 = 10_800;

/// What the exports of one name are together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<'a> {
    /// The export that wins where they differ.
    pub winner: &'a ServiceExport,
    /// All ports that do not contradict an older export.
    pub ports: Vec<ExportPort>,
    /// The families all have; where one has none in common with the older ones, those of the older ones.
    pub families: Vec<IpFamily>,
    /// Where they differ.
    pub conflict: Option<Conflict>,
}

/// The first way in which exports of one name differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The reason of condition `Conflict`.
    pub reason: &'static str,
    /// For people: what differs, how many disagree, and what counts.
    pub message: String,
}

/// Merges exports of one name; `None` without any.
pub fn merge<'a>(exports: impl IntoIterator<Item = &'a ServiceExport>) -> Option<Merged<'a>> {
    let mut ordered: Vec<&ServiceExport> = exports.into_iter().collect();
    ordered.sort_by_cached_key(|export| precedence(export));
    let winner = *ordered.first()?;
    let (ports, port_conflict) = merge_ports(&ordered);
    let (families, family_conflict) = merge_families(&ordered);
    let mut conflict = port_conflict.or(family_conflict).or_else(|| first_difference(&ordered));
    if let Some(Conflict { message, .. }) = &mut conflict {
        // Names in it are the peers'.
        *message = message.chars().take(MAX_MESSAGE).collect();
    }
    Some(Merged { winner, ports, families, conflict })
}

/// What sorts exports: those that win come first. An export without a creation time is the youngest.
fn precedence(export: &ServiceExport) -> (bool, Option<Timestamp>, String) {
    let created = export.created.parse().ok();
    (created.is_none(), created, export.cluster.to_string())
}

/// Two ports that are one: the same number and protocol.
fn is_same(a: &ExportPort, b: &ExportPort) -> bool {
    (a.port, protocol(a)) == (b.port, protocol(b))
}

/// The protocol of a port, TCP where none is given.
fn protocol(port: &ExportPort) -> &str {
    if port.protocol.is_empty() { "TCP" } else { &port.protocol }
}

fn shown(port: &ExportPort) -> String {
    let name = if port.name.is_empty() { "without name" } else { &port.name };
    format!("{name} ({}/{})", port.port, protocol(port))
}

/// The union by number and protocol. What contradicts an older port is left out: its name on another
/// number, or a port without name beside another one, which no Service may have.
fn merge_ports(ordered: &[&ServiceExport]) -> (Vec<ExportPort>, Option<Conflict>) {
    let mut held: Vec<(&ExportPort, &ServiceExport)> = vec![];
    let mut problem: Option<String> = None;
    for export in ordered {
        for port in &export.ports {
            let cluster = &export.cluster;
            let clash = match held.iter().find(|(older, _)| is_same(older, port)) {
                Some((older, _)) if older.name == port.name && older.app_protocol == port.app_protocol => {
                    None
                }
                Some((older, by)) => Some(format!(
                    "port {} of cluster {cluster} has another name or application protocol than {} of cluster {}, which counts",
                    shown(port),
                    shown(older),
                    by.cluster
                )),
                None => {
                    let by_name = held.iter().find(|(older, _)| {
                        older.name == port.name || older.name.is_empty() || port.name.is_empty()
                    });
                    match by_name {
                        None => {
                            held.push((port, export));
                            None
                        }
                        Some((older, by)) => Some(format!(
                            "port {} of cluster {cluster} is left out: it does not go with {} of cluster {}",
                            shown(port),
                            shown(older),
                            by.cluster
                        )),
                    }
                }
            };
            problem = problem.or(clash);
        }
    }
    let numbers = |export: &ServiceExport| {
        export.ports.iter().map(|port| (port.port, protocol(port).to_owned())).collect::<BTreeSet<_>>()
    };
    let problem = problem.or_else(|| {
        let other = ordered.iter().find(|export| numbers(export) != numbers(ordered[0]))?;
        let (a, b) = (&ordered[0].cluster, &other.cluster);
        Some(format!("the ports of clusters {a} and {b} are not the same; all of them are offered"))
    });
    let ports = held.into_iter().map(|(port, _)| {
        let protocol = protocol(port).to_owned();
        ExportPort { protocol, ..port.clone() }
    });
    (ports.collect(), problem.map(|message| Conflict { reason: "PortConflict", message }))
}

/// What all have in common, so that any family reaches all clusters. Exports that do not name their
/// families have every one.
fn merge_families(ordered: &[&ServiceExport]) -> (Vec<IpFamily>, Option<Conflict>) {
    let mut common: Option<Vec<IpFamily>> = None;
    let mut stranger = None;
    for export in ordered.iter().filter(|export| !export.families.is_empty()) {
        let Some(held) = &common else {
            common = Some(export.families.clone());
            continue;
        };
        let both: Vec<IpFamily> =
            held.iter().copied().filter(|family| export.families.contains(family)).collect();
        if both.is_empty() {
            stranger = stranger.or(Some(&export.cluster));
        } else {
            common = Some(both);
        }
    }
    let conflict = stranger.map(|cluster| Conflict {
        reason: "IPFamilyConflict",
        message: format!("cluster {cluster} has no IP family in common with the older exports"),
    });
    (common.unwrap_or_default(), conflict)
}

/// How a field is called, what it is a conflict of, and its value in an export.
type Field = (&'static str, &'static str, fn(&ServiceExport) -> String);

const FIELDS: [Field; 7] = [
    ("type", "TypeConflict", |export| match export.kind {
        ExportType::ClusterSetIP => "ClusterSetIP".to_owned(),
        ExportType::Headless => "Headless".to_owned(),
    }),
    ("session affinity", "SessionAffinityConflict", |export| match export.session_affinity {
        SessionAffinity::None => "None".to_owned(),
        SessionAffinity::ClientIP { .. } => "ClientIP".to_owned(),
    }),
    ("time of session affinity", "SessionAffinityConfigConflict", |export| match export.session_affinity {
        SessionAffinity::None => "none".to_owned(),
        SessionAffinity::ClientIP { timeout_seconds } => {
            format!("{} s", timeout_seconds.unwrap_or(AFFINITY_SECONDS))
        }
    }),
    ("exported annotations", "AnnotationsConflict", |export| {
        format!("{:?}", export.annotations.clone().unwrap_or_default())
    }),
    ("exported labels", "LabelsConflict", |export| {
        format!("{:?}", export.labels.clone().unwrap_or_default())
    }),
    ("internal traffic policy", "InternalTrafficPolicyConflict", |export| {
        format!("{:?}", export.internal_traffic)
    }),
    ("traffic distribution", "TrafficDistributionConflict", |export| match &*export.traffic_distribution {
        "" => "none".to_owned(),
        word => word.to_owned(),
    }),
];

/// The first field in which one differs from the winner.
fn first_difference(ordered: &[&ServiceExport]) -> Option<Conflict> {
    /// Most characters of a value in a message.
    const SHOWN: usize = 200;
    FIELDS.iter().find_map(|(name, reason, value)| {
        let counts = value(ordered[0]);
        let others = ordered.iter().filter(|export| value(export) != counts).count();
        let shown: String = counts.chars().take(SHOWN).collect();
        let (all, winner) = (ordered.len(), &ordered[0].cluster);
        (others > 0).then(|| Conflict {
            reason,
            message: format!(
                "{others} of {all} clusters have another {name}; that of the oldest export, in cluster {winner}, counts: {shown}"
            ),
        })
    })
}
