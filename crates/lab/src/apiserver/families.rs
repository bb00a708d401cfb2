//! Which address families a Service has, as Kubernetes decides it (KEP-563): from the policy, from what is asked for, and
//! from what the cluster has. `allocate` gives it an address of each.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::error::FieldErrors;
use super::object::{list, text};

/// Names of the families in the API.
pub const V4: &str = "IPv4";
/// See [`V4`].
pub const V6: &str = "IPv6";

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// The addresses a specification names, none for a headless service. Clients that know one only write `clusterIP`.
pub fn cluster_ips(spec: &Value) -> Vec<String> {
    let mut all = texts(spec, "clusterIPs");
    let first = text(spec, "clusterIP");
    if all.is_empty() && !first.is_empty() {
        all.push(first.to_owned());
    }
    all.retain(|ip| ip != "None");
    all
}

fn texts(spec: &Value, field: &str) -> Vec<String> {
    list(spec, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What a client leaves out of an update stays as it was; who goes back to a single stack by the policy alone loses the
/// second family.
pub fn carry_over(spec: &mut Value, old: Option<&Value>) {
    let old = old.unwrap_or(&Value::Null);
    let (ip, had) = (text(spec, "clusterIP").to_owned(), text(old, "clusterIP").to_owned());
    if ip.is_empty() && !had.is_empty() {
        spec["clusterIP"] = had.as_str().into();
    }
    for field in ["clusterIPs", "ipFamilies"] {
        let kept = list(spec, field).is_empty() && !list(old, field).is_empty();
        // Another first address is one the client has chosen; the others do not go with it.
        if kept && (ip.is_empty() || ip == had) {
            spec[field] = old[field].clone();
        }
    }
    // A client that knows one address only has changed it: the list follows, whether or not that is allowed.
    if !ip.is_empty() && ip != had && spec["clusterIPs"].is_array() && spec["clusterIPs"] == old["clusterIPs"]
    {
        spec["clusterIPs"][0] = ip.into();
    }
    let before = text(old, "ipFamilyPolicy");
    if text(spec, "ipFamilyPolicy").is_empty() && !before.is_empty() {
        spec["ipFamilyPolicy"] = before.into();
    }
    if text(spec, "ipFamilyPolicy") == SINGLE && !before.is_empty() && before != SINGLE {
        for field in ["clusterIPs", "ipFamilies"] {
            if let Some(all) = spec[field].as_array_mut().filter(|all| Some(&**all) == old[field].as_array())
            {
                all.truncate(1);
            }
        }
    }
}

/// Writes policy and families of a service into its specification and returns the families; `None` if they cannot be.
/// `cluster` has those of the cluster, the default one first.
pub fn decide(spec: &mut Value, cluster: &[&str], errors: &mut FieldErrors) -> Option<Vec<String>> {
    let headless = text(spec, "clusterIP") == "None";
    // Nobody but its owner knows who is behind it.
    let free = headless && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let policy = match text(spec, "ipFamilyPolicy") {
        "" => if free { REQUIRE } else { SINGLE }.to_owned(),
        policy => policy.to_owned(),
    };
    let (ips, mut families) = (cluster_ips(spec), texts(spec, "ipFamilies"));
    let before = errors.0.len();
    if ![SINGLE, PREFER, REQUIRE].contains(&policy.as_str()) {
        errors.unsupported("spec.ipFamilyPolicy", policy.as_str(), &[PREFER, REQUIRE, SINGLE]);
    }
    for (field, count) in [("clusterIPs", ips.len()), ("ipFamilies", families.len())] {
        if policy == SINGLE && count > 1 {
            let why =
                format!("must be RequireDualStack or PreferDualStack when multiple '{field}' are specified");
            errors.invalid("spec.ipFamilyPolicy", policy.as_str(), why);
        }
        if count > 2 {
            errors.invalid(format!("spec.{field}"), spec[field].clone(), "may only hold up to 2 values");
        }
    }
    for (i, ip) in ips.iter().enumerate() {
        let family = match ip.parse() {
            Ok(IpAddr::V4(_)) => V4,
            Ok(IpAddr::V6(_)) => V6,
            // Complained about elsewhere.
            Err(_) => continue,
        };
        match families.get(i) {
            None => families.push(family.into()),
            Some(named) if named != family => {
                let why = format!("expected \"{family}\" to match \"{ip}\" of clusterIPs");
                errors.invalid(format!("spec.ipFamilies[{i}]"), named.as_str(), why);
            }
            Some(_) => {}
        }
    }
    if families.is_empty() {
        families.extend(cluster.first().map(|&family| family.to_owned()));
    }
    if let ([only], true) = (families.as_slice(), policy != SINGLE) {
        let other = if only == V4 { V6 } else { V4 };
        if free || cluster.contains(&other) {
            families.push(other.into());
        }
    }
    if policy == REQUIRE && cluster.len() < 2 && !free {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid("spec.ipFamilyPolicy", policy.as_str(), why);
    }
    for (i, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{i}]");
        if ![V4, V6].contains(&family.as_str()) {
            errors.unsupported(path, family.as_str(), &[V4, V6]);
        } else if families[..i].contains(family) {
            errors.duplicate(path, family.as_str());
        } else if !free && !cluster.contains(&family.as_str()) {
            errors.invalid(path, family.as_str(), "not configured on this cluster");
        }
    }
    if errors.0.len() > before {
        return None;
    }
    spec["ipFamilies"] = json!(families);
    spec["ipFamilyPolicy"] = policy.into();
    if headless {
        spec["clusterIPs"] = json!(["None"]);
    }
    Some(families)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Policy and families of a new service, or the first complaint.
    fn of(spec: Value, cluster: &[&str]) -> Result<(String, Vec<String>), String> {
        updated(spec, None, cluster)
            .map(|spec| (text(&spec, "ipFamilyPolicy").into(), texts(&spec, "ipFamilies")))
    }

    fn updated(mut spec: Value, old: Option<Value>, cluster: &[&str]) -> Result<Value, String> {
        let mut errors = FieldErrors::default();
        carry_over(&mut spec, old.as_ref());
        decide(&mut spec, cluster, &mut errors);
        match errors.0.first() {
            None => Ok(spec),
            Some(error) => Err(format!("{error:?}")),
        }
    }

    const ONE: [&str; 1] = [V4];
    const BOTH: [&str; 2] = [V4, V6];

    #[test]
    fn what_is_not_said_is_inferred() {
        for (spec, cluster, policy, families) in [
            (json!({}), &ONE[..], SINGLE, &ONE[..]),
            (json!({}), &BOTH, SINGLE, &ONE),
            (json!({"ipFamilyPolicy": PREFER}), &ONE, PREFER, &ONE),
            (json!({"ipFamilyPolicy": PREFER}), &BOTH, PREFER, &BOTH),
            (json!({"ipFamilyPolicy": REQUIRE, "ipFamilies": [V6]}), &BOTH, REQUIRE, &[V6, V4]),
            (json!({"clusterIP": "fd00::9"}), &BOTH, SINGLE, &[V6]),
            (json!({"ipFamilies": [V6]}), &BOTH, SINGLE, &[V6]),
            (json!({"clusterIP": "None", "selector": {"a": "b"}}), &BOTH, SINGLE, &ONE),
            // Headless without selector: whatever its owner puts behind it.
            (json!({"clusterIP": "None"}), &ONE, REQUIRE, &BOTH),
        ] {
            let expected = (policy.to_owned(), families.iter().map(|f| (*f).to_owned()).collect());
            assert_eq!(of(spec.clone(), cluster), Ok(expected), "{spec}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (spec, cluster, field) in [
            (json!({"ipFamilyPolicy": REQUIRE}), &ONE[..], "spec.ipFamilyPolicy"),
            (json!({"ipFamilies": [V6]}), &ONE, "spec.ipFamilies[0]"),
            (json!({"ipFamilies": [V4, V6]}), &BOTH, "spec.ipFamilyPolicy"),
            (json!({"ipFamilyPolicy": PREFER, "ipFamilies": [V4, V4]}), &BOTH, "spec.ipFamilies[1]"),
            (json!({"clusterIP": "10.96.0.9", "ipFamilies": [V6]}), &BOTH, "spec.ipFamilies[0]"),
            (json!({"ipFamilyPolicy": "Both"}), &BOTH, "spec.ipFamilyPolicy"),
        ] {
            let refused = of(spec.clone(), cluster).unwrap_err();
            assert!(refused.contains(field), "{spec}: {refused}");
        }
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let old = json!({
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
            "ipFamilies": [V4, V6], "ipFamilyPolicy": REQUIRE,
        });
        let same = updated(json!({}), Some(old.clone()), &BOTH).unwrap();
        assert_eq!(same, old);
        let one = updated(json!({"clusterIP": "10.96.0.9"}), Some(old.clone()), &BOTH).unwrap();
        assert_eq!(one, old, "a client that knows one address only");
        let mut other = old.clone();
        other["clusterIP"] = "10.96.0.10".into();
        let other = updated(other, Some(old.clone()), &BOTH).unwrap();
        assert_eq!(cluster_ips(&other), ["10.96.0.10", "fd00::9"]);
        let mut down = old.clone();
        down["ipFamilyPolicy"] = SINGLE.into();
        let down = updated(down, Some(old), &BOTH).unwrap();
        assert_eq!((&down["clusterIPs"], &down["ipFamilies"]), (&json!(["10.96.0.9"]), &json!([V4])));
        let up = updated(json!({"ipFamilyPolicy": PREFER}), Some(down), &BOTH).unwrap();
        assert_eq!((&up["clusterIPs"], &up["ipFamilies"]), (&json!(["10.96.0.9"]), &json!([V4, V6])));
    }
}
