//! A global Service: both clusters answer, either takes over, and nothing remains of a cluster that has left.

use crate::clusters::{Clusters, ONE, TWO, until};

#[test]
fn netns_a_global_service_spans_the_clusters_until_they_part() {
    let mesh = Clusters::meshed("t-svc");
    let url = mesh.web();
    mesh.answered_by(&url, &[ONE, TWO]);

    // What the node's kernel holds, as people look at it.
    let node = format!("{ONE}-1");
    let look = |words: &[&str]| -> serde_json::Value {
        let argv = [&["causeway", "bpf"], words, &["-o", "json"]].concat();
        serde_json::from_str(&mesh.on_node(ONE, &node, &argv)).unwrap()
    };
    let routes = look(&["ipcache", "list"]);
    assert_eq!(routes.as_array().unwrap().len(), mesh.ipcache(ONE, &node).len(), "{routes}");
    let frontend = format!("{}:80/TCP", url.trim_start_matches("http://"));
    let services = look(&["lb", "list"]);
    let web = services.as_array().unwrap().iter().find(|s| s["frontend"] == *frontend).unwrap();
    let backends = web["backends"].as_array().unwrap();
    let far = backends
        .iter()
        .map(|b| b["address"].as_str().unwrap())
        .filter(|b| b.starts_with("10.20."))
        .collect::<Vec<_>>();
    assert_eq!((backends.len(), far.len()), (4, 2), "{web}");
    let ip = far[0].split(':').next().unwrap();
    let route = look(&["ipcache", "get", ip]);
    assert!(route["tunnel_endpoint"].as_str().unwrap().starts_with("172.16.2."), "{route}");
    let nowhere =
        mesh.lab.node_exec(ONE, &node, &["causeway", "bpf", "ipcache", "get", "192.0.2.1"]).unwrap();
    assert!(!nowhere.status.success(), "{nowhere:?}");

    // One cluster has no backend: the other answers all, whichever it is.
    for (empty, full) in [(ONE, TWO), (TWO, ONE)] {
        mesh.kubectl(empty, &["-n", "shop", "scale", "deployment/web", "--replicas", "0"]);
        mesh.answered_by(&url, &[full]);
        mesh.kubectl(empty, &["-n", "shop", "scale", "deployment/web", "--replicas", "2"]);
        mesh.answered_by(&url, &[ONE, TWO]);
    }

    // The control planes lose each other: what was known stays.
    mesh.causeway(&["lab", "link", "cut", ONE, TWO]);
    until("the agents to notice", || {
        mesh.status(ONE)["peers"][TWO]["connected"] == 0 || {
            let text = mesh.try_causeway(&["clustermesh", "status", "--context", ONE]);
            String::from_utf8_lossy(&text.stdout).contains("not connected")
        }
    });
    mesh.always_answered_by(&url, &[ONE, TWO]);
    mesh.causeway(&["lab", "link", "restore", ONE, TWO]);
    mesh.ready(ONE);
    mesh.always_answered_by(&url, &[ONE, TWO]);

    // Disconnected: nothing of the other is left, in the service, the maps or the routes.
    let remote = |entries: Vec<String>| {
        entries.iter().filter(|a| a.starts_with("0a14") || a.starts_with("ac1002")).count()
    };
    assert!(remote(mesh.ipcache(ONE, &node)) > 0, "{:?}", mesh.ipcache(ONE, &node));
    mesh.causeway(&["clustermesh", "disconnect", "--context", ONE, "--destination-context", TWO]);
    mesh.answered_by(&url, &[ONE]);
    until("the other cluster's addresses to be gone", || remote(mesh.ipcache(ONE, &node)) == 0);
    until("its routes to be gone", || !mesh.on_node(ONE, &node, &["ip", "route"]).contains("10.20."));
    mesh.answered_by(&url, &[ONE]);

    // And again, twice: the second time there is nothing to do.
    mesh.connect();
    let again = mesh.connect();
    assert!(!again.contains("write "), "{again}");
    mesh.answered_by(&url, &[ONE, TWO]);
}
