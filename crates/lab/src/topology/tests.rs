//! Topologies that work and topologies that are refused.

use rstest::rstest;

use super::*;

fn default_yaml() -> String {
    serde_saphyr::to_string(&Topology::default()).unwrap()
}

#[test]
fn the_default_is_valid_and_survives_being_written() {
    let default = Topology::default();
    default.validate().unwrap();
    assert_eq!(Topology::parse(&default_yaml()).unwrap(), default);
}

#[test]
fn every_address_is_decided() {
    let plan = Plan::new(&Topology::default());
    let one = &plan.clusters[0];
    assert_eq!(one.api_server.to_string(), "172.16.1.2");
    let nodes: Vec<_> = one.nodes.iter().map(|n| format!("{} {} {}", n.name, n.zone, n.address)).collect();
    let expected = ["cls-gz3k8a2m-1 ap-guangzhou-3 172.16.1.10", "cls-gz3k8a2m-2 ap-guangzhou-4 172.16.1.11"];
    assert_eq!(nodes, expected);
    assert!(plan.unrouted.is_empty());
    let (a, b) = (one.pools["subnet-gz3abc"], plan.clusters[1].pools["subnet-gz3abc"]);
    assert_eq!((a.first.to_string(), a.last.to_string()), ("172.16.1.128".into(), "172.16.1.190".into()));
    assert!(b.first > a.last && b.last < "172.16.1.255".parse::<std::net::Ipv4Addr>().unwrap());
}

#[test]
fn clusters_may_share_a_subnet_and_nodes_may_be_named() {
    let text = "
clusters:
- {name: a, id: 1, podCIDR: 10.1.0.0/16, serviceCIDR: 10.96.0.0/16, subnet: s1, nodes: 1}
- name: b
  id: 2
  podCIDR: 10.2.0.0/16
  serviceCIDR: 10.96.0.0/16
  subnet: s1
  nodes: [{name: x, zone: z9}, {name: n2, subnet: s2}]
subnets:
- {id: s1, cidr: 172.16.1.0/24, zone: z1}
- {id: s2, cidr: 172.16.2.0/28, zone: z2}
routes: []
";
    let plan = Plan::new(&Topology::parse(text).unwrap());
    let b = &plan.clusters[1];
    assert_eq!(b.api_server.to_string(), "172.16.1.3");
    let nodes: Vec<_> = b.nodes.iter().map(|n| format!("{} {} {}", n.name, n.zone, n.address)).collect();
    assert_eq!(nodes, ["x z9 172.16.1.11", "n2 z2 172.16.2.4"]);
    assert_eq!(plan.unrouted, [(0, 1)]);
    assert_eq!(plan.subnets_of(b), [0, 1]);
}

#[rstest]
#[case::id_zero("id: 1", "id: 0", "clusters[0].id", "1 to 255")]
#[case::id_256("id: 2", "id: 256", "clusters[1].id", "256")]
#[case::id_taken("id: 2", "id: 1", "clusters[1].id", "taken by cluster cls-gz3k8a2m")]
#[case::upper_case("name: cls-gz3k8a2m", "name: Cls-gz3k8a2m", "clusters[0].name", "lower-case")]
#[case::name_of_33("name: cls-gz3k8a2m", "name: a23456789012345678901234567890123", "clusters[0].name", "32")]
#[case::same_name("name: cls-sh7d4f9q", "name: cls-gz3k8a2m", "clusters[1].name", "twice")]
#[case::pods_of_another(
    "10.20.0.0/16",
    "10.10.128.0/17",
    "clusters[1].podCIDR",
    "the pods of cluster cls-gz3k8a2m"
)]
#[case::pods_in_services(
    "10.20.0.0/16",
    "10.96.0.0/12",
    "clusters[1].podCIDR",
    "the Services of cluster cls-gz3k8a2m"
)]
#[case::services_in_subnet(
    "10.97.0.0/16",
    "172.16.1.0/24",
    "clusters[1].serviceCIDR",
    "subnet subnet-gz3abc"
)]
#[case::subnets_overlap("172.16.2.0/24", "172.16.0.0/16", "subnets[1].cidr", "subnet subnet-gz3abc")]
#[case::host_bits("172.16.2.0/24", "172.16.2.1/24", "subnets[1].cidr", "write 172.16.2.0/24")]
#[case::tiny_subnet("172.16.2.0/24", "172.16.2.0/29", "subnets[1].cidr", "at most /28")]
#[case::unknown_subnet(
    "subnet: subnet-sh7def",
    "subnet: subnet-x",
    "clusters[1].subnet",
    "one of: subnet-gz3abc"
)]
#[case::no_nodes("nodes: 2", "nodes: 0", "clusters[0].nodes", "1 to 64")]
#[case::too_many_for_pods("10.10.0.0/16", "10.10.0.0/24", "clusters[0].nodes", "room for 1 nodes, not 2")]
#[case::bad_mask("10.10.0.0/16", "10.10.0.0/25", "clusters[0].nodeCIDRMask", "25 to 28")]
#[case::unknown_field("id: 1", "id: 1\n  colour: red", "colour", "unknown field")]
#[case::bad_count("nodes: 2", "nodes: -1", "nodes", "-1 nodes are not possible")]
#[case::unknown_node_field("nodes: 2", "nodes: [{name: a, size: 3}]", "size", "unknown field")]
#[case::not_a_range("10.10.0.0/16", "ten", "podCIDR", "invalid IP address")]
fn refused(#[case] from: &str, #[case] to: &str, #[case] field: &str, #[case] text: &str) {
    let default = default_yaml();
    let yaml = default.replacen(from, to, 1);
    assert_ne!(yaml, default, "nothing was replaced in:\n{default}");
    let error = Topology::parse(&yaml).unwrap_err().to_string();
    assert!(error.contains(field), "{error}");
    assert!(error.contains(text), "{error}");
}

#[test]
fn every_cluster_can_be_made_dual_stack() {
    let topology = Topology::default().dual_stack();
    topology.validate().unwrap();
    assert_eq!(Topology::parse(&serde_saphyr::to_string(&topology).unwrap()).unwrap(), topology);
    let plan = Plan::new(&topology);
    let two = &plan.clusters[1];
    assert_eq!(two.pod_cidr_v6.unwrap().to_string(), "fd00:10:2::/48");
    assert_eq!(two.service_cidr_v6.unwrap().to_string(), "fd00:96:2::/112");
    let texts: Vec<_> = two.nodes.iter().flat_map(|n| n.addresses()).map(|ip| ip.to_string()).collect();
    assert_eq!(texts, ["172.16.2.10", "fd00:172:2::a", "172.16.2.11", "fd00:172:2::b"]);
    assert_eq!(plan.subnets[1].gateway_v6().unwrap().to_string(), "fd00:172:2::1");
    // What was given stays.
    let mut given = Topology::default();
    given.clusters[0].pod_cidr_v6 = Some("fd01::/56".parse().unwrap());
    assert_eq!(given.dual_stack().clusters[0].pod_cidr_v6.unwrap().to_string(), "fd01::/56");
}

#[rstest]
#[case::one_of_two("serviceCIDRv6: fd00:96:1::/112", "", "clusters[0].serviceCIDRv6", "it is missing")]
#[case::small_pods("fd00:10:1::/48", "fd00:10:1::/64", "clusters[0].podCIDRv6", "room for 1 nodes")]
#[case::many_services("fd00:96:1::/112", "fd00:96:1::/64", "clusters[0].serviceCIDRv6", "/108 to /124")]
#[case::same_pods(
    "fd00:10:2::/48",
    "fd00:10:1::/48",
    "clusters[1].podCIDRv6",
    "the pods of cluster cls-gz3k8a2m"
)]
#[case::host_bits("fd00:10:2::/48", "fd00:10:2::1/48", "clusters[1].podCIDRv6", "write fd00:10:2::/48")]
#[case::no_subnet("cidrv6: fd00:172:2::/64", "", "subnets[1].cidrv6", "cluster cls-sh7d4f9q is dual stack")]
fn refused_dual_stack(#[case] from: &str, #[case] to: &str, #[case] field: &str, #[case] text: &str) {
    let written = serde_saphyr::to_string(&Topology::default().dual_stack()).unwrap();
    let yaml = written.replacen(from, to, 1);
    assert_ne!(yaml, written, "nothing was replaced in:\n{written}");
    let error = Topology::parse(&yaml).unwrap_err().to_string();
    assert!(error.contains(field) && error.contains(text), "{error}");
}

#[test]
fn refused_when_a_subnet_is_full() {
    let yaml =
        default_yaml().replacen("172.16.1.0/24", "172.16.1.0/28", 1).replacen("nodes: 2", "nodes: 5", 1);
    let error = Topology::parse(&yaml).unwrap_err().to_string();
    assert!(error.contains("clusters[0].nodes") && error.contains("room for 4 nodes"), "{error}");
}

#[test]
fn refused_when_nodes_are_named_twice() {
    let yaml = default_yaml().replacen("nodes: 2", "nodes: [{name: a}, {name: a}]", 1);
    let error = Topology::parse(&yaml).unwrap_err().to_string();
    assert!(error.contains("clusters[0].nodes[1].name") && error.contains("twice"), "{error}");
}

#[test]
fn refused_when_a_route_leads_nowhere() {
    let yaml = format!("{}routes:\n- [subnet-gz3abc, nowhere]\n", default_yaml());
    let error = Topology::parse(&yaml).unwrap_err().to_string();
    assert!(error.contains("routes[0][1]") && error.contains("nowhere"), "{error}");
}
