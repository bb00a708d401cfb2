//! What the three clusters run: the same pods and Services everywhere, but for what a row is about.

use super::ALL;
use crate::clusters::{Clusters, ONE, THREE, TWO};

/// Seconds a client must be silent until `sticky` forgets it.
pub(super) const FORGETS: u64 = 10;
/// What most Services have behind their only port.
const HTTP: &str = "ports: [{name: http, port: 80, targetPort: 8080}]";
const GLOBAL: &str = "service.cilium.io/global: 'true'";

/// A pod of servers that say in which cluster they are, and one to ask from, in every cluster; one that stays in the second.
pub(super) fn workloads(mesh: &Clusters) {
    let pod = |cluster: &str, app: &str| {
        let container = |name: &str, kind: &str, port: u16| {
            format!(
                "  - name: {name}\n    image: causeway\n    command: [/usr/local/bin/causeway, lab, workload, {kind}, \
                 --listen, ':{port}']\n    env: [{{name: CLUSTER_NAME, value: {cluster}}}]\n"
            )
        };
        let containers = [("http", 8080), ("http", 8081), ("udp-echo", 9000), ("tcp-echo", 9000)];
        let containers: String =
            containers.map(|(kind, port)| container(&format!("{kind}-{port}"), kind, port)).concat();
        format!(
            "metadata: {{labels: {{app: {app}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n{containers}"
        )
    };
    for cluster in ALL {
        let template = pod(cluster, "web").replace('\n', "\n    ");
        let mut text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\napiVersion: v1\nkind: Pod\nmetadata: \
             {{name: client, namespace: shop}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: client, \
             image: causeway, command: [sleep, infinity]}}]\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: \
             {{name: web, namespace: shop}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    \
             {template}\n---\n"
        );
        if cluster == TWO {
            let kept = pod(cluster, "kept").replace("{labels", "{name: kept, namespace: shop, labels");
            text += &format!("apiVersion: v1\nkind: Pod\n{kept}---\n");
        }
        mesh.apply(cluster, &(text + &services(cluster)));
    }
    for cluster in ALL {
        mesh.kubectl(cluster, &["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
        mesh.kubectl(
            cluster,
            &["-n", "shop", "wait", "--for", "condition=Ready", "pod", "--all", "--timeout=60s"],
        );
    }
}

/// The Services of a cluster.
pub(super) fn services(cluster: &str) -> String {
    let one = |name: &str, annotations: &str, spec: &str| {
        let selector = if spec.contains("selector") { "" } else { "\n  selector: {app: web}" };
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\n\
             spec:\n  ipFamilyPolicy: PreferDualStack{selector}\n  {spec}\n---\n"
        )
    };
    let also = |more: &str| format!("{GLOBAL}, {more}");
    let order = format!("service.causeway.io/cluster-order: '{TWO},{THREE},local'");
    let only = |here: &str, then: &str, otherwise: &str| {
        if cluster == here { then.to_owned() } else { otherwise.to_owned() }
    };
    let mut all = vec![
        one(
            "all",
            GLOBAL,
            "ports: [{name: http, port: 80, targetPort: 8080}, {name: udp, port: 80, targetPort: 9000, protocol: UDP}, \
             {name: again, port: 8088, targetPort: 8080}]",
        ),
        // The truth table.
        one("quiet", &only(ONE, &also("service.cilium.io/shared: 'false'"), GLOBAL), HTTP),
        one("plain", &only(TWO, "", GLOBAL), HTTP),
        one("empty", GLOBAL, &only(ONE, &format!("selector: {{app: nobody}}\n  {HTTP}"), HTTP)),
        // Older names of annotations, which the newer ones overrule; and sharing without being global.
        one("older", "io.cilium/global-service: 'TRUE', io.cilium/service-affinity: Remote", HTTP),
        one(
            "overruled",
            &only(ONE, "io.cilium/global-service: 'true', service.cilium.io/global: 'no'", GLOBAL),
            HTTP,
        ),
        one("loose", &only(TWO, "service.cilium.io/shared: 'true'", GLOBAL), HTTP),
        // Who goes before whom.
        one("near", &also("service.cilium.io/affinity: local"), HTTP),
        one("far", &also("service.cilium.io/affinity: remote"), HTTP),
        one("ordered", &also(&order), HTTP),
        one(
            "kept",
            GLOBAL,
            "selector: {app: kept}\n  ports: [{name: http, port: 80, targetPort: 8080}, {name: echo, port: 7, targetPort: 9000}]",
        ),
        // Ports have names, or none.
        one(
            "named",
            GLOBAL,
            &match cluster {
                ONE => HTTP.to_owned(),
                TWO => HTTP.replace("8080", "8081"),
                _ => HTTP.replace("name: http", "name: other"),
            },
        ),
        one(
            "unnamed",
            GLOBAL,
            &match cluster {
                ONE => HTTP.replace("name: http, ", ""),
                TWO => HTTP.to_owned(),
                _ => HTTP.replace("name: http", "name: other"),
            },
        ),
        one("sticky", &also("service.cilium.io/affinity: remote"), &sticky()),
        one(
            "door",
            &also("service.cilium.io/affinity: remote"),
            "type: NodePort\n  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 31080}, {name: udp, port: 80, \
             targetPort: 9000, nodePort: 31081, protocol: UDP}]",
        ),
        one("bound", GLOBAL, &format!("internalTrafficPolicy: Local\n  {HTTP}")),
        one("zoned", GLOBAL, &format!("trafficDistribution: PreferClose\n  selector: null\n  {HTTP}")),
        one(
            "own",
            "",
            "type: NodePort\n  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 31090}]",
        ),
    ];
    if cluster != THREE {
        all.push(one("absent", GLOBAL, HTTP));
    }
    all.concat()
}

/// A Service whose ports remember clients each by itself.
fn sticky() -> String {
    let ports: Vec<String> =
        (1..=8).map(|n| format!("{{name: p{n}, port: {}, targetPort: 8080}}", 8000 + n)).collect();
    format!(
        "sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {FORGETS}}}}}\n  ports: [{}]",
        ports.join(", ")
    )
}

/// The addresses of a Service, one of each family, as they stand before a port.
pub(super) fn addresses(mesh: &Clusters, cluster: &str, service: &str) -> [String; 2] {
    let get = ["-n", "shop", "get", "service", service, "-o", "jsonpath={.spec.clusterIPs[*]}"];
    let text = mesh.kubectl(cluster, &get);
    let (v4, v6) = text.split_once(' ').unwrap_or_else(|| panic!("{service} has only {text}"));
    [v4.to_owned(), format!("[{v6}]")]
}
