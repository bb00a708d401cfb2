//! Stock kubectl against the lab's API server: every verb that needs no kubelet.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use support::Cluster;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: host, command: [sleep, 1d], ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, type: LoadBalancer, ports: [{port: 80, targetPort: 8080}]}
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: p}}
spec:
  nodeName: n1
  containers: [{name: c, image: host, command: [sleep, 1d]}]
"#;

#[test]
fn apply_get_describe_scale_rollout() {
    let c = Cluster::start();
    assert!(c.apply(WEB).contains("deployment.apps/web created"));
    let again = c.apply(WEB);
    assert!(
        again.contains("deployment.apps/web unchanged") && again.contains("service/web unchanged"),
        "{again}"
    );
    assert!(c.ok(&["get", "all", "-A", "-o", "wide"]).contains("app=web"));
    assert!(c.ok(&["get", "deploy", "web"]).contains("0/2"));
    assert!(c.ok(&["get", "deploy", "web", "-o", "yaml"]).contains("progressDeadlineSeconds: 600"));
    assert!(c.ok(&["get", "deploy", "-l", "app in (web)"]).contains("web"));
    assert!(c.output(&["get", "deploy", "-l", "app!=web"], None).stdout.is_empty());
    assert!(c.ok(&["describe", "deployment", "web"]).contains("25% max unavailable, 25% max surge"));
    assert!(c.ok(&["describe", "service", "web"]).contains("NodePort:"));
    assert!(c.ok(&["describe", "ns", "default"]).contains("Active"));
    c.ok(&["scale", "deploy/web", "--replicas=5"]);
    assert_eq!(
        c.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas} {.metadata.generation}"]),
        "5 2"
    );
    c.ok(&["rollout", "restart", "deploy/web"]);
    assert!(c.ok(&["get", "deploy", "web", "-o", "yaml"]).contains("kubectl.kubernetes.io/restartedAt"));
    c.ok(&["rollout", "history", "deploy/web"]);
    let status = r#"{"status":{"observedGeneration":3,"replicas":5,"updatedReplicas":5,"readyReplicas":5,"availableReplicas":5,"conditions":[{"type":"Available","status":"True"}]}}"#;
    c.ok(&["patch", "deploy", "web", "--subresource=status", "--type=merge", "-p", status]);
    assert!(c.ok(&["rollout", "status", "deploy/web", "--timeout=30s"]).contains("successfully rolled out"));
    c.ok(&["wait", "--for=condition=Available", "deploy/web", "--timeout=30s"]);
    assert_eq!(
        c.ok(&["get", "deploy", "web", "-o", "jsonpath={.metadata.generation}"]),
        "3",
        "a status has no generation"
    );
    c.ok(&["delete", "deploy,svc", "web"]);
    c.fails(&["get", "deploy", "web"], None);
}

#[test]
fn create_edit_patch_label_annotate() {
    let c = Cluster::start();
    c.ok(&["create", "namespace", "shop"]);
    c.ok(&["-n", "shop", "create", "configmap", "cm", "--from-literal=a=1"]);
    c.ok(&["-n", "shop", "create", "secret", "generic", "s", "--from-literal=k=v"]);
    c.ok(&["-n", "shop", "create", "deployment", "d", "--image=host", "--replicas=0", "--port=80"]);
    assert_eq!(c.ok(&["-n", "shop", "get", "deploy", "d", "-o", "jsonpath={.spec.replicas}"]), "0");
    c.ok(&["-n", "shop", "create", "service", "nodeport", "np", "--tcp=80:8080"]);
    c.ok(&["-n", "shop", "expose", "deployment", "d", "--port=80", "--name=exposed"]);
    c.ok(&["-n", "shop", "create", "serviceaccount", "robot"]);
    assert_eq!(c.ok(&["-n", "shop", "create", "token", "robot"]).trim().split('.').count(), 3);
    c.ok(&["-n", "shop", "create", "role", "r", "--verb=get", "--resource=pods"]);
    c.ok(&["-n", "shop", "create", "rolebinding", "rb", "--role=r", "--serviceaccount=shop:robot"]);
    c.ok(&["-n", "shop", "label", "cm", "cm", "tier=back"]);
    c.ok(&["-n", "shop", "annotate", "cm", "cm", "note=x"]);
    c.ok(&["-n", "shop", "patch", "cm", "cm", "-p", r#"{"data":{"b":"2"}}"#]);
    c.ok(&["-n", "shop", "patch", "cm", "cm", "--type=merge", "-p", r#"{"data":{"a":null}}"#]);
    c.ok(&[
        "-n",
        "shop",
        "patch",
        "cm",
        "cm",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/data/c","value":"3"}]"#,
    ]);
    assert_eq!(
        c.ok(&["-n", "shop", "get", "cm", "cm", "-o", "jsonpath={.data} {.metadata.labels.tier}"]),
        r#"{"b":"2","c":"3"} back"#
    );
    let edited = c
        .command(&["-n", "shop", "edit", "cm", "cm"])
        .env("KUBE_EDITOR", "sed -i s/\\\"3\\\"/\\\"4\\\"/")
        .output()
        .unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(c.ok(&["-n", "shop", "get", "cm", "cm", "-o", "jsonpath={.data.c}"]), "4");
    c.ok(&["-n", "shop", "set", "image", "deploy/d", "host=other"]);
    c.ok(&["delete", "namespace", "shop", "--timeout=60s"]);
    c.fails(&["get", "namespace", "shop"], None);
}

#[test]
fn server_side_apply_conflicts() {
    let c = Cluster::start();
    c.ok_with(&["apply", "--server-side", "--field-manager=one", "-f", "-"], Some(WEB));
    let other = WEB.replace("replicas: 2", "replicas: 3");
    let e = c.fails(&["apply", "--server-side", "--field-manager=two", "-f", "-"], Some(&other));
    assert!(e.contains("conflict with \"one\"") && e.contains(".spec.replicas"), "{e}");
    c.ok_with(
        &["apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-"],
        Some(&other),
    );
    assert_eq!(c.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]), "3");
    let diff = c.output(&["diff", "--server-side", "--field-manager=two", "-f", "-"], Some(&other));
    assert!(
        diff.status.success(),
        "{}{}",
        String::from_utf8_lossy(&diff.stdout),
        String::from_utf8_lossy(&diff.stderr)
    );
    c.ok_with(&["apply", "--dry-run=server", "-f", "-"], Some(WEB));
    assert_eq!(
        c.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]),
        "3",
        "a dry run changes nothing"
    );
}

#[test]
fn invalid_objects_are_refused_with_path_and_reason() {
    let c = Cluster::start();
    for (change, wants) in [
        (("name: web, labels", "name: Web_1, labels"), ["metadata.name", "RFC 1123"]),
        (
            ("metadata: {labels: {app: web}}", "metadata: {labels: {app: other}}"),
            ["spec.template.metadata.labels", "`selector` does not match template `labels`"],
        ),
        (("replicas: 2", "replicas: -1"), ["spec.replicas", "greater than or equal to 0"]),
        (
            ("containerPort: 8080", "containerPort: 99999"),
            ["spec.template.spec.containers[0].ports[0].containerPort", "must be between 1 and 65535"],
        ),
        (("replicas: 2", "replicass: 2"), ["unknown field \"spec.replicass\"", "strict decoding"]),
        (("replicas: 2", "replicas: two"), ["spec.replicas", "cannot"]),
        (("port: 80,", "port: 0,"), ["spec.ports[0].port", "must be between"]),
        (("image: host,", ""), ["spec.template.spec.containers[0].image", "Required value"]),
    ] {
        let e = c.fails(&["apply", "-f", "-"], Some(&WEB.replace(change.0, change.1)));
        for want in wants {
            assert!(e.contains(want), "{change:?}: {want:?} is not in:\n{e}");
        }
    }
    c.ok(&["delete", "deploy,svc", "web", "--ignore-not-found"]);
    c.apply(WEB);
    let e = c.fails(&["patch", "svc", "web", "-p", r#"{"spec":{"clusterIP":"10.96.7.7"}}"#], None);
    assert!(e.contains("may not change once set"), "{e}");
    let e = c
        .fails(&["patch", "deploy", "web", "-p", r#"{"spec":{"selector":{"matchLabels":{"x":"y"}}}}"#], None);
    assert!(e.contains("field is immutable"), "{e}");
    c.apply(POD);
    let e = c.fails(&["patch", "pod", "p", "-p", r#"{"spec":{"restartPolicy":"Never"}}"#], None);
    assert!(e.contains("pod updates may not change fields"), "{e}");
    let taken = c.ok(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let port = c.ok(&["get", "svc", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let other = |extra: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: other}}\nspec: {{{extra}}}\n")
    };
    let e =
        c.fails(&["create", "-f", "-"], Some(&other(&format!("clusterIP: {taken}, ports: [{{port: 1}}]"))));
    assert!(e.contains("already allocated"), "{e}");
    let e = c.fails(
        &["create", "-f", "-"],
        Some(&other(&format!("type: NodePort, ports: [{{port: 1, nodePort: {port}}}]"))),
    );
    assert!(e.contains("provided port is already allocated"), "{e}");
    let e = c.fails(&["create", "-f", "-"], Some(&other("clusterIP: 192.0.2.1, ports: [{port: 1}]")));
    assert!(e.contains("The range of valid IPs is 10.96.0.0/16"), "{e}");
    c.ok_with(&["create", "-f", "-"], Some(&other("clusterIP: None, selector: {a: b}")));
}

#[test]
fn deletion_grace_finalizers_and_cascade() {
    let c = Cluster::start();
    c.apply(POD);
    c.ok(&["delete", "pod", "p", "--wait=false"]);
    assert_eq!(c.ok(&["get", "pod", "p", "-o", "jsonpath={.metadata.deletionGracePeriodSeconds}"]), "30");
    assert!(c.ok(&["get", "pod", "p"]).contains("Terminating"));
    c.ok(&["delete", "pod", "p", "--force", "--grace-period=0"]);
    c.fails(&["get", "pod", "p"], None);

    c.ok(&["create", "configmap", "held"]);
    c.ok(&["patch", "cm", "held", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#]);
    c.ok(&["delete", "cm", "held", "--wait=false"]);
    assert!(!c.ok(&["get", "cm", "held", "-o", "jsonpath={.metadata.deletionTimestamp}"]).is_empty());
    c.ok(&["patch", "cm", "held", "--type=json", "-p", r#"[{"op":"remove","path":"/metadata/finalizers"}]"#]);
    c.fails(&["get", "cm", "held"], None);

    for (cascade, survives) in [("background", false), ("foreground", false), ("orphan", true)] {
        c.ok(&["create", "configmap", "owner"]);
        let uid = c.ok(&["get", "cm", "owner", "-o", "jsonpath={.metadata.uid}"]);
        c.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}, blockOwnerDeletion: true}}]\n"));
        c.ok(&["delete", "cm", "owner", &format!("--cascade={cascade}"), "--timeout=60s"]);
        c.fails(&["get", "cm", "owner"], None);
        if survives {
            assert_eq!(c.ok(&["get", "cm", "owned", "-o", "jsonpath={.metadata.ownerReferences}"]), "");
        } else {
            c.eventually(&["get", "cm", "owned"], |ok, _| !ok);
        }
    }
}

#[test]
fn custom_resources() {
    let c = Cluster::start();
    c.apply(r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, required: [name], properties: {size: {type: integer, minimum: 1, default: 2}, name: {type: string, pattern: '^[a-z]+$'}}}
          status: {type: object, properties: {size: {type: integer}}}
"#);
    c.ok(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=30s"]);
    let widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {name: abc}\n";
    c.apply(widget);
    c.ok_with(&["apply", "--server-side", "-f", "-"], Some(widget));
    let table = c.ok(&["get", "wd"]);
    assert!(table.contains("SIZE") && table.contains('2'), "{table}");
    c.ok(&["scale", "wd", "w", "--replicas=4"]);
    assert_eq!(c.ok(&["get", "wd", "w", "-o", "jsonpath={.spec.size} {.metadata.generation}"]), "4 2");
    let e = c.fails(&["patch", "wd", "w", "--type=merge", "-p", r#"{"spec":{"size":0}}"#], None);
    assert!(e.contains("spec.size in body should be greater than or equal to 1"), "{e}");
    let e =
        c.fails(&["create", "-f", "-"], Some(&widget.replace("name: w}", "name: v}").replace("abc", "A")));
    assert!(e.contains("spec.name in body should match"), "{e}");
    let e = c.fails(&["apply", "-f", "-"], Some(&widget.replace("name: abc", "name: abc, junk: 1")));
    assert!(e.contains("unknown field \"spec.junk\""), "{e}");
    c.ok(&["explain", "widget.spec"]);
    c.ok(&["delete", "crd", "widgets.example.com", "--timeout=60s"]);
    c.fails(&["get", "wd"], None);
}

#[test]
fn watching_prints_changes() {
    let c = Cluster::start();
    c.ok(&["create", "configmap", "a"]);
    let mut child = c.command(&["get", "cm", "-w", "-l", "see=me"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The label makes it enter the selection: an ADDED event. The watch may begin a little later than we write.
    c.ok(&["label", "cm", "a", "see=me"]);
    assert!(lines.next().unwrap().unwrap().contains("NAME"));
    assert!(lines.next().unwrap().unwrap().starts_with("a "));
    c.ok(&["patch", "cm", "a", "-p", r#"{"data":{"x":"y"}}"#]);
    assert!(lines.next().unwrap().unwrap().contains(" 1 "));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn about_the_server_and_the_user() {
    let c = Cluster::start();
    assert!(c.ok(&["api-resources"]).contains("deployments"));
    assert!(c.ok(&["api-resources", "--api-group=apps", "-o", "wide"]).contains("all"));
    assert!(c.ok(&["api-versions"]).contains("discovery.k8s.io/v1"));
    assert!(c.ok(&["version"]).contains("Server Version: v1."));
    assert!(c.ok(&["cluster-info"]).contains("is running at"));
    assert!(c.ok(&["explain", "pod.spec.containers"]).contains("image"));
    assert!(c.ok(&["auth", "whoami"]).contains("system:masters"));
    assert!(c.ok(&["auth", "can-i", "create", "pods"]).contains("yes"));
    let token = |t: &str| {
        c.output(
            &[
                "--kubeconfig=/dev/null",
                "--server",
                &c.url,
                "--insecure-skip-tls-verify",
                "--token",
                t,
                "auth",
                "whoami",
            ],
            None,
        )
    };
    assert!(String::from_utf8_lossy(&token("secret").stdout).contains("robot"));
    assert!(!token("wrong").status.success());
    let account = c.ok(&["create", "token", "default"]);
    assert!(
        String::from_utf8_lossy(&token(account.trim()).stdout)
            .contains("system:serviceaccount:default:default")
    );
    assert_eq!(c.ok(&["get", "--raw", "/readyz"]), "ok");
    assert!(c.ok(&["get", "svc,endpointslices,cm,sa", "-A"]).contains("kube-root-ca.crt"));
}

#[test]
fn logs_come_from_the_kubelet_of_the_node() {
    use std::io::Write;
    let c = Cluster::start();
    let kubelet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = kubelet.local_addr().unwrap().port();
    c.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nstatus:\n  addresses: [{{type: InternalIP, address: 127.0.0.1}}]\n  daemonEndpoints: {{kubeletEndpoint: {{Port: {port}}}}}\n"
    ));
    c.apply(POD);
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = kubelet.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        while !lines.next().unwrap().unwrap().is_empty() {}
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n").unwrap();
        first
    });
    assert_eq!(c.ok(&["logs", "p", "--tail=5"]), "hello\n");
    assert_eq!(asked.join().unwrap(), "GET /containerLogs/default/p/c?tailLines=5 HTTP/1.1");
    let e = c.fails(&["logs", "p"], None);
    assert!(e.contains("kubelet of node n1"), "{e}");
}
