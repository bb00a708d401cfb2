//! Names, as pods ask for them: by the ordinary resolver of the C library, and by our own command.

use std::collections::BTreeSet;

use crate::clusters::{Clusters, ONE, until};

/// A headless service of two pods with host names, one that stands outside, and a pod to ask from.
const WORKLOAD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: sql, port: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: web.shop.svc.test.example}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 1
  containers: [{name: db, image: causeway, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec:
  hostname: db-1
  subdomain: db
  terminationGracePeriodSeconds: 1
  containers: [{name: db, image: causeway, command: [sleep, infinity]}]
"#;

/// What `causeway operator` writes for the endpoints of another cluster.
const MIRRORED: &str = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-other
  namespace: shop
  labels:
    kubernetes.io/service-name: db
    endpointslice.kubernetes.io/managed-by: endpointslice-mesh-controller.cilium.io
    multicluster.kubernetes.io/source-cluster: cls-sh7d4f9q
addressType: IPv4
endpoints: [{addresses: [10.20.9.9], hostname: db-0, conditions: {ready: true}}]
ports: [{name: sql, port: 5432, protocol: TCP}]
"#;

const IMPORTS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: serviceimports.multicluster.x-k8s.io}
spec:
  group: multicluster.x-k8s.io
  scope: Namespaced
  names: {kind: ServiceImport, listKind: ServiceImportList, plural: serviceimports, singular: serviceimport}
  versions:
    - name: v1beta1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;

const IMPORT: &str = r#"
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceImport
metadata: {name: web, namespace: shop}
spec: {type: ClusterSetIP, ips: [192.0.2.44], ports: [{name: http, port: 80}]}
"#;

/// Another name server, for the world outside.
const UPSTREAM: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: upstream, namespace: kube-system}
spec:
  serviceAccountName: kube-dns
  dnsPolicy: Default
  terminationGracePeriodSeconds: 1
  containers:
    - name: dns
      image: causeway
      command: [/usr/local/bin/causeway, dns, --cluster-name=outside, --cluster-domain=test.example, --clusterset-domain=, --dns-upstreams=none]
      env:
        - {name: KUBERNETES_SERVICE_HOST, value: API_HOST}
        - {name: KUBERNETES_SERVICE_PORT, value: "6443"}
      readinessProbe: {httpGet: {path: /readyz, port: 9153}, periodSeconds: 1}
"#;

/// The IPv4 addresses the resolver of the C library finds, in order; none for no name.
fn resolve(mesh: &Clusters, name: &str) -> Vec<String> {
    let output = mesh.lab.exec(ONE, "shop", "client", &["getent", "ahostsv4", name]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut seen = BTreeSet::new();
    let addresses = text.lines().filter_map(|line| line.split_whitespace().next());
    addresses.filter(|address| seen.insert(address.to_string())).map(Into::into).collect()
}

fn resolves(mesh: &Clusters, name: &str, addresses: &[&str]) {
    let wanted: BTreeSet<_> = addresses.iter().map(ToString::to_string).collect();
    until(&format!("{name} to be {addresses:?}"), || {
        resolve(mesh, name).into_iter().collect::<BTreeSet<_>>() == wanted
    });
}

fn pod_ip(mesh: &Clusters, pod: &str) -> String {
    mesh.kubectl(ONE, &["-n", "shop", "get", "pod", pod, "-o", "jsonpath={.status.podIP}"])
}

#[test]
fn netns_pods_find_services_by_name() {
    let mesh = Clusters::up("t-names");
    let rollout = ["-n", "kube-system", "rollout", "status", "deployment/kube-dns", "--timeout=60s"];
    mesh.kubectl(ONE, &rollout);
    let url = mesh.web();
    let web = url.trim_start_matches("http://");
    mesh.apply(ONE, WORKLOAD);
    mesh.kubectl(
        ONE,
        &["-n", "shop", "wait", "--for", "condition=Ready", "pod/db-0", "pod/db-1", "--timeout=60s"],
    );
    let (db0, db1) = (pod_ip(&mesh, "db-0"), pod_ip(&mesh, "db-1"));

    // The pod's own settings lead to short names.
    let client = |argv: &[&str]| mesh.lab.exec(ONE, "shop", "client", argv).unwrap();
    let resolv = String::from_utf8(client(&["cat", "/etc/resolv.conf"]).stdout).unwrap();
    let server = mesh.kubectl(
        ONE,
        &["-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"],
    );
    assert!(server.ends_with(".10"), "{server}");
    assert!(resolv.starts_with("search shop.svc.cluster.local svc.cluster.local cluster.local"), "{resolv}");
    assert!(resolv.contains(&format!("nameserver {server}\n")) && resolv.contains("ndots:5"), "{resolv}");
    for name in
        ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "WEB.shop.svc.cluster.local."]
    {
        resolves(&mesh, name, &[web]);
    }
    mesh.answered_by("http://web", &[ONE]);
    resolves(&mesh, "db", &[&db0, &db1]);
    resolves(&mesh, "db-1.db", &[&db1]);
    let back = client(&["getent", "hosts", web]);
    assert!(String::from_utf8_lossy(&back.stdout).contains("web.shop.svc.cluster.local"), "{back:?}");
    // There is no such name. With a dot at the end, or else the name is tried outside too, where nobody answers yet.
    for name in
        ["nothing.shop.svc.cluster.local.", "db-9.db.shop.svc.cluster.local.", "web.bank.svc.cluster.local."]
    {
        assert_eq!(client(&["getent", "ahostsv4", name]).status.code(), Some(2), "{name}");
    }
    for tcp in [&[][..], &["--tcp"]] {
        let argv =
            [&["causeway", "dns", "query", "_sql._tcp.db.shop.svc.cluster.local", "srv"], tcp].concat();
        let output = client(&argv);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(" 5432 db-0.db.shop.svc.cluster.local."), "{output:?}");
    }

    // Pods that another cluster's slices name are in headless names, and go with them.
    mesh.apply(ONE, MIRRORED);
    resolves(&mesh, "db", &[&db0, &db1, "10.20.9.9"]);
    resolves(&mesh, "db-0.db", &[&db0, "10.20.9.9"]);
    mesh.kubectl(ONE, &["-n", "shop", "delete", "endpointslice", "db-other"]);
    resolves(&mesh, "db", &[&db0, &db1]);

    // Names of the cluster set, as soon as there is such a thing.
    let set = "web.shop.svc.clusterset.local";
    assert!(resolve(&mesh, set).is_empty());
    mesh.apply(ONE, IMPORTS);
    until("imports to be known", || {
        mesh.kubectl(
            ONE,
            &["get", "crd", "serviceimports.multicluster.x-k8s.io", "-o", "jsonpath={.status.conditions}"],
        )
        .contains("Established")
    });
    mesh.apply(ONE, IMPORT);
    resolves(&mesh, set, &["192.0.2.44"]);

    // Beside another DNS of the cluster: the cluster set's names only, and what that DNS needs to know is said.
    let said = mesh.install(ONE, &["--enable-dns"]);
    mesh.kubectl(
        ONE,
        &["-n", "kube-system", "rollout", "status", "deployment/causeway-dns", "--timeout=60s"],
    );
    let beside = ["-n", "kube-system", "get", "service", "causeway-dns", "-o", "jsonpath={.spec.clusterIP}"];
    let beside = mesh.kubectl(ONE, &beside);
    assert!(
        said.contains("clusterset.local:53 {") && said.contains(&format!("forward . {beside}\n")),
        "{said}"
    );
    let ask = |name: &str| {
        let output = client(&["causeway", "dns", "query", name, "--server", &beside]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    until("the server beside it", || ask(set).contains("192.0.2.44"));
    for name in ["web.shop.svc.cluster.local", "example.com"] {
        assert!(ask(name).contains("REFUSED"), "{name}: {}", ask(name));
    }
    assert!(ask("else.shop.svc.clusterset.local").contains("NXDOMAIN"));

    // What is not ours is asked of others.
    let plan = mesh.lab.plan();
    let api = plan.clusters.iter().find(|cluster| cluster.name == ONE).unwrap().api_server.to_string();
    mesh.apply(ONE, &UPSTREAM.replace("API_HOST", &api));
    mesh.kubectl(
        ONE,
        &["-n", "kube-system", "wait", "--for", "condition=Ready", "pod/upstream", "--timeout=60s"],
    );
    let upstream =
        mesh.kubectl(ONE, &["-n", "kube-system", "get", "pod", "upstream", "-o", "jsonpath={.status.podIP}"]);
    let env = format!(
        r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"dns","env":[{{"name":"CAUSEWAY_DNS_UPSTREAMS","value":"{upstream}"}}]}}]}}}}}}}}"#
    );
    mesh.kubectl(ONE, &["-n", "kube-system", "patch", "deployment", "kube-dns", "-p", &env]);
    mesh.kubectl(ONE, &rollout);
    resolves(&mesh, "web.shop.svc.test.example", &[web]);
    resolves(&mesh, "outside", &[web]);
    assert_eq!(client(&["getent", "ahostsv4", "nothing.shop.svc.test.example"]).status.code(), Some(2));
    mesh.answered_by("http://outside", &[ONE]);
}
