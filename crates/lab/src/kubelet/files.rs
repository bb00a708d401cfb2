//! Files the kubelet writes for a pod: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

/// The host name of a pod: `spec.hostname`, or its name, cut to 63 characters.
pub fn hostname(spec: &PodSpec, name: &str) -> String {
    let full = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(name);
    let cut: String = full.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_string()
}

/// `/etc/resolv.conf` by the pod's DNS policy. `host` is the node's file.
pub fn resolv_conf(spec: &PodSpec, namespace: &str, dns: Option<IpAddr>, domain: &str, host: &str) -> String {
    let field = |key: &str| -> Vec<String> {
        let lines = host.lines().filter_map(|l| l.trim().strip_prefix(key));
        lines.filter(|l| l.starts_with([' ', '\t'])).flat_map(str::split_whitespace).map(Into::into).collect()
    };
    let (mut servers, mut search, mut options) = (field("nameserver"), field("search"), field("options"));
    let host_network = spec.host_network == Some(true);
    match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), dns) {
        ("None", _) => (servers, search, options) = (Vec::new(), Vec::new(), Vec::new()),
        ("ClusterFirst", Some(dns)) if !host_network => {
            cluster(&mut servers, &mut search, &mut options, namespace, dns, domain)
        }
        ("ClusterFirstWithHostNet", Some(dns)) => {
            cluster(&mut servers, &mut search, &mut options, namespace, dns, domain)
        }
        _ => {}
    }
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        search.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|o| o.split(':').next() != Some(&name));
            options.push(option.value.as_ref().map_or(name.clone(), |v| format!("{name}:{v}")));
        }
    }
    let mut text = String::new();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn cluster(
    servers: &mut Vec<String>,
    search: &mut Vec<String>,
    options: &mut Vec<String>,
    namespace: &str,
    dns: IpAddr,
    domain: &str,
) {
    *servers = vec![dns.to_string()];
    let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string()];
    search.splice(0..0, own);
    *options = vec!["ndots:5".into()];
}

/// `/etc/hosts` of a pod with a network of its own.
pub fn hosts(spec: &PodSpec, namespace: &str, hostname: &str, ips: &[IpAddr], domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
            Some(sub) => {
                text.push_str(&format!("{ip}\t{hostname}.{sub}.{namespace}.svc.{domain}\t{hostname}\n"))
            }
            None => text.push_str(&format!("{ip}\t{hostname}\n")),
        }
    }
    text.push_str(&aliases(spec));
    text
}

/// The entries of `spec.hostAliases`.
pub fn aliases(spec: &PodSpec) -> String {
    let entries = spec.host_aliases.iter().flatten();
    let lines: Vec<String> = entries
        .map(|a| format!("{}\t{}\n", a.ip, a.hostnames.clone().unwrap_or_default().join("\t")))
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("\n# Entries added by HostAliases.\n{}", lines.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(v: serde_json::Value) -> PodSpec {
        let mut v = v;
        v["containers"] = serde_json::json!([]);
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn resolv_conf_follows_the_policy() {
        let host = "# x\nnameserver 1.1.1.1\nsearch corp.example\noptions edns0\n";
        let dns = Some("10.96.0.10".parse().unwrap());
        let text = |v, dns| resolv_conf(&spec(v), "shop", dns, "cluster.local", host);
        assert_eq!(
            text(serde_json::json!({}), dns),
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        let of_node = "search corp.example\nnameserver 1.1.1.1\noptions edns0\n";
        assert_eq!(text(serde_json::json!({}), None), of_node);
        assert_eq!(text(serde_json::json!({"hostNetwork": true}), dns), of_node);
        let own = serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"],
            "options": [{"name": "ndots", "value": "2"}]}});
        assert_eq!(text(own, dns), "nameserver 9.9.9.9\noptions ndots:2\n");
    }

    #[test]
    fn hosts_names_the_pod_and_its_aliases() {
        let s = spec(
            serde_json::json!({"subdomain": "db", "hostAliases": [{"ip": "10.9.9.9", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts(&s, "shop", "db-0", &["10.1.0.4".parse().unwrap()], "cluster.local");
        assert!(text.contains("10.1.0.4\tdb-0.db.shop.svc.cluster.local\tdb-0\n"));
        assert!(text.ends_with("10.9.9.9\ta\tb\n"));
        assert_eq!(hostname(&s, &"x".repeat(70)).len(), 63);
    }
}
