//! Clusters in the order and with the shares that a Service names, and what people see of it.

use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};

#[test]
fn netns_clusters_are_used_as_the_service_says_and_the_trace_tells_why() {
    let mesh = Clusters::meshed("t-steps");
    let url = mesh.web();
    mesh.answered_by(&url, &[ONE, TWO]);
    let annotate = |text: &str| {
        mesh.kubectl(ONE, &["-n", "shop", "annotate", "--overwrite", "service/web", text]);
    };
    let node = mesh.kubectl(ONE, &["-n", "shop", "get", "pod", "client", "-o", "jsonpath={.spec.nodeName}"]);
    let service = |words: &[&str]| mesh.on_node(ONE, &node, &[&["causeway", "service"], words].concat());
    let backends = || -> Vec<Value> {
        let text = service(&["trace", "shop/client", "shop/web:80", "-o", "json"]);
        let trace: Value = serde_json::from_str(&text).unwrap();
        trace["services"][0]["frontends"][0]["backends"].as_array().unwrap().clone()
    };

    annotate(&format!("service.causeway.io/cluster-order={TWO},local"));
    mesh.answered_by(&url, &[TWO]);
    mesh.always_answered_by(&url, &[TWO]);
    let told = backends();
    assert_eq!(told.len(), 4, "{told:?}");
    for backend in &told {
        match backend["cluster"].as_str() {
            Some(TWO) => assert_eq!(backend["share"], 0.5, "{backend}"),
            cluster => {
                assert_eq!((cluster, &backend["listed"]), (None, &Value::Bool(true)), "{backend}");
                assert_eq!(backend["reason"], format!("{TWO} goes before it"), "{backend}");
            }
        }
    }
    let list = service(&["list", "--clustermesh-affinity"]);
    let preferred = list.lines().filter(|line| line.contains("(preferred)") && line.contains(TWO)).count();
    assert_eq!(preferred, 2, "{list}");

    // The first of the order has none: the next takes over, and hands back.
    mesh.kubectl(TWO, &["-n", "shop", "scale", "deployment/web", "--replicas", "0"]);
    mesh.answered_by(&url, &[ONE]);
    mesh.kubectl(TWO, &["-n", "shop", "scale", "deployment/web", "--replicas", "2"]);
    mesh.answered_by(&url, &[TWO]);

    // Shares: a cluster without one is drained; half of a cluster's share is each backend's of two.
    annotate("service.causeway.io/cluster-order-");
    annotate("service.causeway.io/cluster-weights=local=1");
    mesh.answered_by(&url, &[ONE]);
    annotate(&format!("service.causeway.io/cluster-weights=local=3,{TWO}=1"));
    mesh.answered_by(&url, &[ONE, TWO]);
    let share = |of: Option<&str>| {
        let told = backends();
        let theirs = told.iter().filter(|backend| backend["cluster"].as_str() == of);
        theirs.map(|backend| backend["share"].as_f64().unwrap()).sum::<f64>()
    };
    until("the shares", || (share(None) - 0.75).abs() < 1e-6 && (share(Some(TWO)) - 0.25).abs() < 1e-6);

    // Nonsense loses nothing, and is told: once, by an Event, and wherever services are listed.
    annotate("service.causeway.io/cluster-weights-");
    annotate("service.cilium.io/affinity=nearest");
    mesh.answered_by(&url, &[ONE, TWO]);
    let events = || {
        let about = ["--field-selector", "involvedObject.name=web,reason=InvalidServiceSetting"];
        let get = ["-n", "shop", "get", "events", "-o", "jsonpath={.items[*].message}"];
        mesh.kubectl(ONE, &[&get[..], &about].concat())
    };
    let says = "service.cilium.io/affinity \"nearest\" is none of local, remote, none";
    until("the event", || events().contains(says));
    assert_eq!(events().matches(says).count(), 1, "{}", events());
    until("the warning", || service(&["list"]).contains(says));

    // Who asks for what is not there is told so.
    let wrong = mesh.lab.node_exec(ONE, &node, &["causeway", "service", "trace", "shop/client", "shop/none"]);
    let wrong = wrong.unwrap();
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no Service shop/none"), "{wrong:?}");
}
