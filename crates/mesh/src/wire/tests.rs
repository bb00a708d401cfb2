//! Bad input and odd spellings, kind by kind.

use causeway_model::mcs::IpFamily;
use causeway_model::{ClusterId, MaxClusters, TrafficPolicy};

use super::*;

fn from() -> ClusterInfo {
    ClusterInfo {
        name: ClusterName::new("cls-b").unwrap(),
        id: ClusterId::new(2, MaxClusters::C255).unwrap(),
        max_clusters: MaxClusters::C255,
    }
}

fn read(kind: Kind, suffix: &str, value: &str) -> Result<Entry, Error> {
    let key = format!("{}{suffix}", keys::prefix(keys::Layout::Native, kind, &from().name));
    decode(kind, &key, suffix, value.as_bytes(), &from())
}

fn refused(kind: Kind, suffix: &str, value: &str, says: &str) {
    let text = read(kind, suffix, value).unwrap_err().to_string();
    assert!(text.contains(says), "{text}");
    assert!(text.starts_with("cilium/state/"), "names the key: {text}");
}

const NODE: &str = r#"{"Name":"n","Cluster":"cls-b","IPAddresses":[{"Type":"InternalIP","IP":"172.20.0.11"},{"Type":"New","IP":"1.1.1.1"}],"IPv4AllocCIDR":{"IP":"10.2.0.0","Mask":"////AA=="},"ClusterID":2}"#;

#[test]
fn nodes_are_validated() {
    let Ok(Entry::Node(node)) = read(Kind::Nodes, "n", NODE) else { panic!() };
    assert_eq!((node.addresses.len(), node.pod_cidrs.len()), (1, 1));
    refused(Kind::Nodes, "n", "{", "not valid JSON");
    refused(Kind::Nodes, "m", NODE, "name in the key");
    refused(Kind::Nodes, "n", &NODE.replace("cls-b", "cls-c"), "not the cluster this key belongs to");
    refused(Kind::Nodes, "n", &NODE.replace("\"ClusterID\":2", "\"ClusterID\":3"), "announced id");
    refused(Kind::Nodes, "n", &NODE.replace("172.20.0.11", "172.20.0"), "not an IP address");
    refused(Kind::Nodes, "n", &NODE.replace("////AA==", "/w=="), "mask has 1 bytes");
    refused(
        Kind::Nodes,
        "n",
        &NODE.replace("////AA==", "AAAAAA==").replace("10.2.0.0", "0.0.0.0"),
        "nearly every address",
    );
    refused(Kind::Nodes, "n", &NODE.replace("////AA==", "/wD/AA=="), "contiguous");
    refused(Kind::Nodes, "n", &NODE.replace("10.2.0.0", "10.2.0.7"), "host bits");
}

#[test]
fn addresses_are_validated() {
    let good = r#"{"IP":"10.2.0.21","Mask":null,"HostIP":"172.20.0.11","ID":140013,"Key":0,"Metadata":"","K8sNamespace":"shop","K8sPodName":"cart"}"#;
    let Ok(Entry::Address(entry)) = read(Kind::Ip, "10.2.0.21", good) else { panic!() };
    assert_eq!(entry.identity.0, 140_013);
    let host = good.replace("140013", "1");
    let Ok(Entry::Address(entry)) = read(Kind::Ip, "10.2.0.21", &host) else { panic!() };
    assert_eq!(entry.identity, NumericIdentity::REMOTE_NODE);
    refused(Kind::Ip, "10.2.0.22", good, "not the address in the key");
    refused(Kind::Ip, "10.2.0.21", &good.replace("140013", "65536"), "range of cluster cls-b");
    refused(Kind::Ip, "10.2.0.21", &good.replace("140013", "16777217"), "range of cluster");
    refused(Kind::Ip, "10.2.0.21", &good.replace("\"10.2.0.21\"", "\"\""), "IP: not set");
    let prefix = r#"{"IP":"10.2.64.0","Mask":"////AA==","HostIP":"","ID":140013,"Key":0,"Metadata":""}"#;
    assert!(read(Kind::Ip, "10.2.64.0/24", prefix).is_ok());
}

#[test]
fn identities_are_validated() {
    let good = "k8s:app=cart;k8s:io.cilium.k8s.policy.cluster=cls-b;";
    assert!(read(Kind::Identities, "140013", good).is_ok());
    refused(Kind::Identities, "74512", good, "outside 131072..=196607");
    refused(Kind::Identities, "6", good, "outside");
    refused(Kind::Identities, "x", good, "not a decimal");
    refused(Kind::Identities, "140013", "", "empty");
    refused(Kind::Identities, "140013", "k8s:app=cart;", "is missing");
    refused(Kind::Identities, "140013", &good.replace("cls-b", "cls-a"), "does not name cluster");
    refused(Kind::Identities, "140013", &good.replace("k8s:io", "container:io"), "does not name cluster");
}

const SERVICE: &str = r#"{"cluster":"cls-b","namespace":"shop","name":"cart","frontends":{"10.97.3.7":{"http":{"Protocol":"TCP","Port":80}}},"backends":{"10.2.0.21":{"http":{"Protocol":"TCP","Port":8080}}},"hostnames":{},"labels":{"app":"cart"},"selector":{"app":"cart"},"includeExternal":true,"shared":true,"clusterID":2}"#;

#[test]
fn services_are_validated() {
    assert!(read(Kind::Services, "shop/cart", SERVICE).is_ok());
    refused(Kind::Services, "shop/other", SERVICE, "in the key");
    refused(Kind::Services, "shop", SERVICE, "<namespace>/<name>");
    refused(Kind::Services, "shop/cart", &SERVICE.replace("cls-b", "x"), "cluster");
    refused(Kind::Services, "shop/cart", &SERVICE.replace("clusterID\":2", "clusterID\":9"), "announced id");
    refused(Kind::Services, "shop/cart", &SERVICE.replace("10.97.3.7", ""), "not an IP address");
    refused(
        Kind::Services,
        "shop/cart",
        &SERVICE.replace(r#"{"Protocol":"TCP","Port":8080}"#, "null"),
        "is null",
    );
    refused(Kind::Services, "shop/cart", &SERVICE.replace("8080", "808080"), "backends");
    let odd = SERVICE
        .replace("frontends", "FRONTENDS")
        .replace(r#"{"app":"cart"}"#, "null")
        .replace("\"hostnames\":{}", r#""zones":{"10.2.0.21":{"zone":"z"}},"newField":[1,{"a":null}]"#);
    let Ok(Entry::Service(service)) = read(Kind::Services, "shop/cart", &odd) else { panic!() };
    assert_eq!((service.frontends.len(), service.labels.len()), (1, 0));
}

#[test]
fn exports_are_validated() {
    let good = r#"{"cluster":"cls-b","name":"cart","namespace":"shop","Annotations":null,"Labels":null,"exportCreationTimestamp":"2026-02-10T09:00:00Z","ports":[{"name":"http","protocol":"TCP","port":80}],"type":"ClusterSetIP","sessionAffinity":"None"}"#;
    assert!(read(Kind::ServiceExports, "shop/cart", good).is_ok());
    let lower = good.replace("\"Annotations\":null", r#""annotations":{"a":"b"}"#);
    let Ok(Entry::Export(export)) = read(Kind::ServiceExports, "shop/cart", &lower) else { panic!() };
    assert_eq!(export.annotations.unwrap()["a"], "b");
    assert_eq!((export.families.len(), export.internal_traffic), (0, TrafficPolicy::Cluster));
    // The fields of 1.19, there and back.
    let newer = good.replace(
        r#""sessionAffinity":"None""#,
        r#""sessionAffinity":"None","ipFamilies":["IPv6","IPv4","IPv9"],"internalTrafficPolicy":"Local","trafficDistribution":"PreferClose""#,
    );
    let Ok(Entry::Export(export)) = read(Kind::ServiceExports, "shop/cart", &newer) else { panic!() };
    assert_eq!(
        (&export.families, export.internal_traffic),
        (&vec![IpFamily::V6, IpFamily::V4], TrafficPolicy::Local)
    );
    assert_eq!(String::from_utf8(Entry::Export(export).encode().1).unwrap(), newer.replace(r#","IPv9""#, ""));
    refused(
        Kind::ServiceExports,
        "shop/cart",
        &good.replace("2026-02-10T09:00:00Z", "0001-01-01T00:00:00Z"),
        "not set",
    );
    refused(Kind::ServiceExports, "shop/cart", &good.replace("\"None\"", "\"Some\""), "sessionAffinity");
    refused(Kind::ServiceExports, "shop/cart", &good.replace("ClusterSetIP", "X"), "type");
}

#[test]
fn sizes_are_bounded() {
    let long = format!("{NODE}{}", " ".repeat(MAX_VALUE));
    refused(Kind::Nodes, "n", &long, "bytes long");
    refused(Kind::Nodes, &"n".repeat(keys::MAX_KEY), NODE, "bytes long");
}

#[test]
fn configurations() {
    let c = ClusterName::new("cls-b").unwrap();
    let text = r#"{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false}}"#;
    let config = config::decode(&c, text.as_bytes()).unwrap();
    assert_eq!(config.service_exports_enabled, Some(false));
    assert_eq!(config::encode(&config), text.as_bytes());
    let least = config::decode(&c, br#"{"ID":0,"capabilities":null,"future":{}}"#).unwrap();
    assert_eq!(config::encode(&least), br#"{"capabilities":{}}"#);
    assert!(config::decode(&c, b"[]").unwrap_err().to_string().contains("cilium/cluster-config/cls-b"));
}

fn reason(kind: Kind, suffix: &str, value: &str) -> Reason {
    read(kind, suffix, value).unwrap_err().reason
}

#[test]
fn refusals_are_counted_by_reason() {
    let address = r#"{"IP":"10.2.0.21","Mask":null,"HostIP":"172.20.0.11","ID":140013,"Key":0}"#;
    for (suffix, value, want) in [
        ("10.2.0.22", address.to_owned(), Reason::BadKey),
        ("10.2.0.21", "{".to_owned(), Reason::BadValue),
        ("10.2.0.21", address.replace("140013", "70000"), Reason::ForeignIdentity),
        ("10.2.0.21", address.replace("172.20.0.11", "127.0.0.1"), Reason::ForeignAddress),
        ("10.2.0.21", " ".repeat(MAX_VALUE + 1), Reason::ValueTooLarge),
    ] {
        assert_eq!(reason(Kind::Ip, suffix, &value), want, "{value:.80}");
    }
    assert_eq!(reason(Kind::Nodes, "n", &NODE.replace("cls-b", "cls-c")), Reason::ForeignCluster);
    assert_eq!(reason(Kind::Services, "shop/cart", &SERVICE.replace("cls-b", "x")), Reason::ForeignCluster);
    let many: Vec<String> =
        (0..300).map(|n| format!(r#"{{"Type":"InternalIP","IP":"10.9.{n}.1"}}"#)).collect();
    let many = NODE.replace(r#"{"Type":"New","IP":"1.1.1.1"}"#, &many[..256].join(","));
    assert_eq!(reason(Kind::Nodes, "n", &many), Reason::TooMany);
    let backends = |count: usize| {
        let all: Vec<String> =
            (0..count).map(|n| format!(r#""10.3.{}.{}":null"#, n / 250, n % 250 + 1)).collect();
        SERVICE.replace("\"backends\":{", &format!("\"backends\":{{{},", all.join(",")))
    };
    assert!(read(Kind::Services, "shop/cart", &backends(19_999)).is_ok());
    assert_eq!(reason(Kind::Services, "shop/cart", &backends(20_000)), Reason::TooMany);
    // The words are the same in the metrics and in the status.
    let word = serde_json::to_string(&Reason::RevisionBackwards).unwrap();
    assert_eq!(word.trim_matches('"'), Reason::RevisionBackwards.word());
}

#[test]
fn nesting_is_bounded_also_in_fields_nobody_knows() {
    let with = |levels: usize| {
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        SERVICE.replace("\"hostnames\":{}", &format!("\"new\":{deep}"))
    };
    assert!(read(Kind::Services, "shop/cart", &with(MAX_DEPTH - 1)).is_ok());
    assert_eq!(reason(Kind::Services, "shop/cart", &with(MAX_DEPTH)), Reason::TooDeep);
    assert_eq!(reason(Kind::Services, "shop/cart", &with(200_000)), Reason::TooDeep);
    // Brackets in texts are no nesting.
    let text = SERVICE.replace("\"app\":\"cart\"", &format!(r#""app":"\"{}""#, "[{".repeat(100)));
    assert!(read(Kind::Services, "shop/cart", &text).is_ok());
}

#[test]
fn some_addresses_no_remote_cluster_has() {
    let entry = |ip: &str, mask: &str| {
        format!(r#"{{"IP":"{ip}","Mask":{mask},"HostIP":"172.20.0.11","ID":140013,"Key":0}}"#)
    };
    for (suffix, ip, mask) in [
        ("127.0.0.5", "127.0.0.5", "null"),
        ("0.0.0.0", "0.0.0.0", "null"),
        ("169.254.169.254", "169.254.169.254", "null"),
        ("224.0.0.251", "224.0.0.251", "null"),
        ("255.255.255.255", "255.255.255.255", "null"),
        ("::1", "::1", "null"),
        ("::", "::", "null"),
        ("fe80::1", "fe80::1", "null"),
        ("ff02::1", "ff02::1", "null"),
        ("0.0.0.0/1", "0.0.0.0", "\"gAAAAA==\""),
        ("128.0.0.0/1", "128.0.0.0", "\"gAAAAA==\""),
        ("2000::/3", "2000::", "\"4AAAAAAAAAAAAAAAAAAAAA==\""),
        ("169.0.0.0/8", "169.0.0.0", "\"/wAAAA==\""),
    ] {
        assert_eq!(reason(Kind::Ip, suffix, &entry(ip, mask)), Reason::ForeignAddress, "{suffix}");
    }
    for (suffix, ip, mask) in [
        ("10.0.0.0/8", "10.0.0.0", "\"/wAAAA==\""),
        ("240.1.2.3", "240.1.2.3", "null"),
        ("fd00::1", "fd00::1", "null"),
        ("2001:db8::/32", "2001:db8::", "\"/////wAAAAAAAAAAAAAAAA==\""),
    ] {
        assert!(read(Kind::Ip, suffix, &entry(ip, mask)).is_ok(), "{suffix}");
    }
    refused(Kind::Services, "shop/cart", &SERVICE.replace("10.2.0.21", "127.0.0.1"), "special-purpose range");
    refused(
        Kind::Nodes,
        "n",
        &NODE.replace("10.2.0.0", "0.0.0.0").replace("////AA==", "gAAAAA=="),
        "nearly every",
    );
    // An address of a node that means nothing elsewhere is left out; the node stays.
    let odd = NODE.replace("\"IP\":\"1.1.1.1\"", "\"IP\":\"169.254.1.1\"").replace("New", "ExternalIP");
    let Ok(Entry::Node(node)) = read(Kind::Nodes, "n", &odd) else { panic!() };
    assert_eq!(node.addresses.len(), 1);
}
