//! The life of an endpoint: what a removal, a replacement, a failure and a restart leave behind.

mod common;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use causeway_datapath::EndpointSpec;
use causeway_model::PodRef;
use common::{Node, Ns, ip};

/// Names of the pod interfaces of the calling thread's namespace.
fn interfaces() -> Vec<String> {
    let output = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split(": ").nth(1)?.split('@').next().map(str::to_owned))
        .filter(|name| name.starts_with("lxc") || name.starts_with("tmp"))
        .collect()
}

/// Files below the node's pins and records that name an endpoint.
fn traces(node: &Node) -> Vec<PathBuf> {
    let (pins, records) = (node.config.bpffs.join("causeway/links"), node.config.state_dir.join("endpoints"));
    node.ns.run(move || {
        let files = [pins, records].into_iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
        files
            .map(|file| file.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("lxc"))
            .collect()
    })
}

#[test]
fn netns_a_removed_endpoint_leaves_nothing() {
    let mut node = Node::new("remove", 1, None);
    node.open();
    let pod = node.pod(5, 65_600);
    assert_eq!(node.ns.run(interfaces), [pod.endpoint.host_ifname.as_str()]);
    assert_eq!(traces(&node).len(), 3, "two programs and a record: {:?}", traces(&node));
    node.datapath(|d| {
        assert_eq!(d.remove_endpoint("pod5").unwrap().unwrap().pod_name, "pod5");
        assert_eq!(d.remove_endpoint("pod5").unwrap(), None, "a second DEL is fine");
        assert_eq!(d.remove_endpoint("never-there").unwrap(), None);
        assert!(d.endpoints().is_empty());
        let error = d.check_endpoint("pod5").unwrap_err().to_string();
        assert!(error.contains("pod5") && error.contains("not known"), "{error}");
    });
    assert!(node.ns.run(interfaces).is_empty());
    assert_eq!(traces(&node), Vec::<PathBuf>::new());
}

#[test]
fn netns_a_failed_endpoint_leaves_nothing() {
    let mut node = Node::new("fail", 1, None);
    node.open();
    // The interface name is taken in the sandbox: it fails half way.
    let ns = Ns::new(None);
    ns.run(|| ip("link add eth0 type bridge"));
    let spec = |netns: PathBuf| EndpointSpec {
        container_id: "bad".into(),
        ifname: "eth0".into(),
        netns,
        ips: ["10.1.0.9", "fd00:1::9"].map(|ip| ip.parse::<IpAddr>().unwrap()).into_iter().collect(),
        pod: PodRef { namespace: "default".into(), name: "bad".into() },
        pod_uid: "uid".into(),
    };
    let (taken, missing) = (spec(ns.path()), spec("/nonexistent/ns".into()));
    node.datapath(move |d| {
        d.add_endpoint(&taken).unwrap_err();
        let error = d.add_endpoint(&missing).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ns"), "{error}");
        assert!(d.endpoints().is_empty());
    });
    assert!(node.ns.run(interfaces).is_empty());
    assert_eq!(traces(&node), Vec::<PathBuf>::new());
}

#[test]
fn netns_an_endpoint_asked_for_again_is_replaced() {
    let mut node = Node::new("again", 1, None);
    node.open();
    let first = node.pod(5, 65_600);
    let second = node.pod(5, 65_601);
    assert_eq!(first.endpoint.id, second.endpoint.id);
    assert_eq!(first.endpoint.host_ifname, second.endpoint.host_ifname);
    assert_ne!(first.endpoint.ifindex, second.endpoint.ifindex);
    assert_eq!(node.ns.run(interfaces).len(), 1);
    node.datapath(|d| d.check_endpoint("pod5").unwrap());
    assert_eq!(traces(&node).len(), 3);
}

#[test]
fn netns_a_check_says_what_is_wrong() {
    let mut node = Node::new("check", 1, None);
    node.open();
    let pod = node.pod(5, 65_600);
    node.datapath(|d| d.check_endpoint("pod5").unwrap());
    pod.ns.run(|| ip("addr del 10.1.0.5/32 dev eth0"));
    let error = node.datapath(|d| d.check_endpoint("pod5").unwrap_err().to_string());
    assert!(error.contains("lost its address 10.1.0.5"), "{error}");
    pod.ns.run(|| ip("addr add 10.1.0.5/32 dev eth0"));
    node.datapath(|d| d.check_endpoint("pod5").unwrap());
    pod.ns.run(|| ip("addr del fd00:1::5/128 dev eth0"));
    let error = node.datapath(|d| d.check_endpoint("pod5").unwrap_err().to_string());
    assert!(error.contains("lost its address fd00:1::5"), "{error}");
    let name = pod.endpoint.host_ifname.clone();
    node.ns.run(move || ip(&format!("link del {name}")));
    let error = node.datapath(|d| d.check_endpoint("pod5").unwrap_err().to_string());
    assert!(error.contains(&pod.endpoint.host_ifname), "{error}");
}

#[test]
fn netns_a_restart_forgets_pods_that_are_gone_and_keeps_the_others() {
    let mut node = Node::new("forget", 1, None);
    node.open();
    let (gone, kept) = (node.pod(5, 65_600), node.pod(6, 65_601));
    node.close();
    let name = gone.endpoint.host_ifname.clone();
    node.ns.run(move || ip(&format!("link del {name}")));
    node.open();
    let known: Vec<String> = node.datapath(|d| d.endpoints().keys().cloned().collect());
    assert_eq!(known, ["pod6"]);
    let adopted = node.datapath(|d| d.endpoints()["pod6"].clone());
    assert_eq!(adopted.identity, 65_601);
    assert_eq!(adopted.ifindex, kept.endpoint.ifindex);
    node.datapath(|d| d.check_endpoint("pod6").unwrap());
    // Its address is free for another sandbox, which stays when the agent restarts once more.
    let heir = node.pod(5, 65_602);
    node.close();
    node.open();
    node.datapath(|d| d.check_endpoint("pod5").unwrap());
    assert_eq!(node.datapath(|d| d.endpoints()["pod5"].ifindex), heir.endpoint.ifindex);
}
