//! Two dual-stack clusters: every pod reaches every other on both families.

use std::net::IpAddr;

use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};

/// What an object of Kubernetes says, as JSON.
fn get(mesh: &Clusters, cluster: &str, args: &[&str]) -> Value {
    let text = mesh.kubectl(cluster, &[&["get", "-o", "json"], args].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The texts of a list, each under `key` or plain.
fn texts(list: &Value, key: &str) -> Vec<String> {
    let one = |v: &Value| v.get(key).unwrap_or(v).as_str().map(str::to_owned);
    list.as_array().into_iter().flatten().filter_map(one).collect()
}

fn families(ips: &[String]) -> Vec<bool> {
    ips.iter().map(|ip| ip.split('/').next().unwrap().parse::<IpAddr>().unwrap().is_ipv6()).collect()
}

#[test]
fn netns_pods_of_dual_stack_clusters_reach_each_other_on_both_families() {
    let mesh = Clusters::meshed_with("t-dual", &["--ip-families", "ipv4,ipv6"]);
    let (node1, node2, far) = (&*format!("{ONE}-1"), &*format!("{ONE}-2"), &*format!("{TWO}-1"));
    nodes(&mesh, node1);
    let pods = [(ONE, "a", node1), (ONE, "b", node1), (ONE, "c", node2), (TWO, "d", far)];
    let pods = pods.map(|(cluster, name, node)| {
        mesh.echo_pod(cluster, name, node);
        let ips = texts(&get(&mesh, cluster, &["pod", name])["status"]["podIPs"], "ip");
        assert_eq!(families(&ips), [false, true], "{ips:?}");
        (cluster, name, ips)
    });
    let [a, others @ ..] = &pods;
    for other in others {
        for (from, to) in [(a, other), (other, a)] {
            for ip in &to.2 {
                let echo = if ip.contains(':') { format!("[{ip}]:7000") } else { format!("{ip}:7000") };
                mesh.workload(from.0, from.1, &["tcp-stream", &echo, "--bytes", "1048576"]);
                for bytes in ["64", "60000"] {
                    let text =
                        mesh.workload(from.0, from.1, &["udp-request", &echo, "--size", bytes, "-o", "json"]);
                    assert!(text.contains("\"answered\":1"), "{text}");
                }
            }
        }
    }
    // The agent of the first cluster learns whose address it is: the identity has the cluster's id.
    until("the other cluster's pod to be known", || {
        let get = ["causeway", "bpf", "ipcache", "get", &pods[3].2[1], "-o", "json"];
        let known = mesh.on_node(ONE, node1, &get);
        let known: Value = serde_json::from_str(&known).unwrap_or_else(|e| panic!("{e}: {known}"));
        known["identity"].as_u64().unwrap() >> 16 == 2
    });
    services(&mesh);
}

/// A node has an address, a pod CIDR and a place in the pod network of each family.
fn nodes(mesh: &Clusters, name: &str) {
    let node = get(mesh, ONE, &["node", name]);
    assert_eq!(families(&texts(&node["spec"]["podCIDRs"], "")), [false, true], "{}", node["spec"]);
    let addresses = node["status"]["addresses"].as_array().unwrap();
    let internal: Vec<&Value> = addresses.iter().filter(|a| a["type"] == "InternalIP").collect();
    assert_eq!(internal.len(), 2, "{addresses:?}");
    let cilium = get(mesh, ONE, &["ciliumnode", name]);
    let addresses = cilium["spec"]["addresses"].as_array().unwrap();
    let kinds: Vec<_> = addresses.iter().map(|a| a["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["InternalIP", "InternalIP", "CiliumInternalIP", "CiliumInternalIP"], "{addresses:?}");
    assert!(cilium["spec"]["health"]["ipv6"].is_string(), "{}", cilium["spec"]);
}

/// Services get an address of each family they have, and a slice of endpoints.
fn services(mesh: &Clusters) {
    let service = |name: &str, policy: &str, first: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ipFamilyPolicy: {policy}\n  \
             ipFamilies: [{first}]\n  selector: {{app: d}}\n  ports: [{{port: 80, targetPort: 7000}}]\n"
        )
    };
    for (name, policy, first, expected) in [
        ("both", "PreferDualStack", "IPv4", &[false, true][..]),
        ("turned", "RequireDualStack", "IPv6", &[true, false]),
        ("new", "SingleStack", "IPv6", &[true]),
        ("old", "SingleStack", "IPv4", &[false]),
    ] {
        mesh.apply(TWO, &service(name, policy, first));
        let ips = texts(&get(mesh, TWO, &["service", name])["spec"]["clusterIPs"], "");
        assert_eq!(families(&ips), expected, "{name}: {ips:?}");
        until(&format!("{name} has endpoints of its families"), || {
            let label = format!("kubernetes.io/service-name={name}");
            let slices = get(mesh, TWO, &["endpointslices", "-l", &label]);
            let ips: Vec<String> = slices["items"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
                .flat_map(|endpoint| texts(&endpoint["addresses"], ""))
                .collect();
            let mut found = families(&ips);
            found.sort_unstable();
            let mut wanted = expected.to_vec();
            wanted.sort_unstable();
            found == wanted
        });
    }
}
