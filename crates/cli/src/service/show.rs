//! Services for people.

use causeway_mesh::merge::{BackendView, FrontendView, ServiceView};
use comfy_table::{Table, presets};

use super::trace::{Trace, TracedService};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Every address with the backends the kernel knows of.
pub(super) fn list(services: &[ServiceView], affinity: bool) -> String {
    let mut table = table(&["FRONTEND", "TYPE", "SERVICE", "BACKENDS"]);
    let mut warnings = vec![];
    for service in services {
        let name = format!("{}/{}", service.namespace, service.name);
        warnings.extend(service.warnings.iter().map(|warning| format!("warning: {name}: {warning}")));
        let frontends = service.frontends.iter().filter(|frontend| frontend.held_by.is_none());
        for frontend in frontends {
            let backends = backends(frontend, affinity);
            table.add_row([&frontend.address, &frontend.kind, &name, &backends]);
        }
    }
    let text = table.trim_fmt();
    [text].into_iter().chain(warnings).collect::<Vec<_>>().join("\n")
}

fn backends(frontend: &FrontendView, affinity: bool) -> String {
    let lines = |list: &[BackendView], inside: &str| -> Vec<String> {
        let listed = list.iter().filter(|backend| backend.listed);
        let lines: Vec<_> = listed
            .zip(1..)
            .map(|(backend, n)| format!("{inside}{n} => {}", one(backend, affinity)))
            .collect();
        match lines.is_empty() {
            true => vec![format!("{inside}none: refused")],
            false => lines,
        }
    };
    match &frontend.internal {
        None => lines(&frontend.backends, ""),
        Some(internal) => [lines(&frontend.backends, "outside: "), lines(internal, "inside: ")].concat(),
    }
    .join("\n")
}

fn one(backend: &BackendView, affinity: bool) -> String {
    let at = backend.cluster.as_ref().map(|cluster| format!("@{cluster}")).unwrap_or_default();
    let preferred = if affinity && backend.share > 0.0 { " (preferred)" } else { "" };
    format!("{}{at} ({}){preferred}", backend.address, backend.state.as_str())
}

/// What became of every candidate.
pub(super) fn trace(trace: &Trace) -> String {
    trace.services.iter().map(|service| of_service(trace, service)).collect::<Vec<_>>().join("\n\n")
}

fn of_service(trace: &Trace, service: &TracedService) -> String {
    let place = if trace.inside { "inside" } else { "outside" };
    let preference = if service.preference.is_empty() { "all clusters alike" } else { &service.preference };
    let mut text = format!(
        "{} ({place} the cluster) to {}: {preference}, traffic policy {}\n",
        trace.from, service.service, service.policy
    );
    for warning in &service.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for frontend in &service.frontends {
        text.push_str(&format!("\n{} ({})\n", frontend.address, frontend.kind));
        if let Some(other) = &frontend.held_by {
            text.push_str(&format!("  this address belongs to {other}\n"));
            continue;
        }
        let mut table = table(&["  BACKEND", "CLUSTER", "NODE", "STATE", "NEW CONNECTIONS"]);
        for backend in &frontend.backends {
            let verdict = match &backend.reason {
                None => format!("{:.1}%", backend.share * 100.0),
                Some(reason) if backend.listed => format!("none, keeps those it has: {reason}"),
                Some(reason) => format!("none: {reason}"),
            };
            table.add_row([
                &format!("  {}", backend.address),
                backend.cluster.as_deref().unwrap_or("this one"),
                backend.node.as_deref().unwrap_or("-"),
                backend.state.as_str(),
                &verdict,
            ]);
        }
        text.push_str(&table.trim_fmt());
        text.push('\n');
        if !frontend.backends.iter().any(|backend| backend.reason.is_none()) {
            text.push_str("  no backend takes connections: they are refused\n");
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use causeway_mesh::merge::BackendState;

    use super::*;
    use crate::service::trace::TracedFrontend;

    fn backend(address: &str, cluster: Option<&str>, share: f64, reason: Option<&str>) -> BackendView {
        BackendView {
            address: address.into(),
            cluster: cluster.map(ToOwned::to_owned),
            node: cluster.is_none().then(|| "n1".to_owned()),
            state: BackendState::Active,
            listed: true,
            share,
            reason: reason.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn preferred_ones_are_marked_and_warnings_shown() {
        let backends = vec![
            backend("10.1.0.1:8080/TCP", None, 1.0, None),
            backend("10.2.0.1:8080/TCP", Some("cls-b"), 0.0, Some("this cluster goes before it")),
        ];
        let view = ServiceView {
            namespace: "shop".into(),
            name: "web".into(),
            kind: "ClusterIP".into(),
            global: true,
            shared: true,
            preference: "affinity local".into(),
            external_traffic_policy: "Cluster".into(),
            internal_traffic_policy: "Cluster".into(),
            warnings: vec!["service.cilium.io/affinity \"x\" is none of local".into()],
            frontends: vec![FrontendView {
                address: "10.96.0.1:80/TCP".into(),
                kind: "ClusterIP".into(),
                port_name: String::new(),
                held_by: None,
                backends: backends.clone(),
                internal: None,
            }],
        };
        let text = list(std::slice::from_ref(&view), true);
        assert!(text.contains("1 => 10.1.0.1:8080/TCP (active) (preferred)"), "{text}");
        assert!(text.contains("2 => 10.2.0.1:8080/TCP@cls-b (active)\n"), "{text}");
        assert!(text.contains("warning: shop/web: service.cilium.io/affinity"), "{text}");
        assert!(!list(std::slice::from_ref(&view), false).contains("preferred"));
        let mut split = view;
        split.frontends[0].internal = Some(vec![]);
        let text = list(&[split], false);
        assert!(text.contains("outside: 1 => 10.1.0.1") && text.contains("inside: none: refused"), "{text}");

        let traced = TracedService {
            service: "shop/web".into(),
            preference: String::new(),
            policy: "Cluster".into(),
            warnings: vec![],
            frontends: vec![TracedFrontend {
                address: "10.96.0.1:80/TCP".into(),
                kind: "ClusterIP".into(),
                held_by: None,
                backends,
            }],
        };
        let text = trace(&Trace { from: "shop/client".into(), inside: true, services: vec![traced] });
        assert!(
            text.starts_with("shop/client (inside the cluster) to shop/web: all clusters alike"),
            "{text}"
        );
        assert!(text.contains("100.0%"), "{text}");
        assert!(text.contains("none, keeps those it has: this cluster goes before it"), "{text}");
    }
}
