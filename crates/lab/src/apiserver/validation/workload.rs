//! Deployments, replica sets, daemon sets, stateful sets and jobs.

use serde_json::{Value, json};

use super::meta::{immutable, labels};
use super::pod::{one_of, pod_spec};
use crate::apiserver::error::FieldErrors;
use crate::apiserver::object::{at, int, list, text};
use crate::apiserver::selector::LabelSelector;

fn selector_and_template(v: &Value, errors: &mut FieldErrors) {
    let selector = at(v, "spec.selector");
    let empty = selector.is_none_or(|s| LabelSelector::from_object(s).is_empty());
    if selector.is_none() {
        errors.required("spec.selector", "");
    } else if empty {
        errors.invalid(
            "spec.selector",
            selector.cloned().unwrap_or(json!({})),
            "empty selector is invalid for deployment",
        );
    }
    let template_labels = at(v, "spec.template.metadata.labels");
    if let Some(s) = selector.filter(|_| !empty) {
        for (i, e) in list(s, "matchExpressions").iter().enumerate() {
            let path = format!("spec.selector.matchExpressions[{i}]");
            match text(e, "operator") {
                "In" | "NotIn" if list(e, "values").is_empty() => {
                    errors.required(
                        format!("{path}.values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => errors.invalid(format!("{path}.operator"), other, "not a valid selector operator"),
            }
        }
        if !LabelSelector::from_object(s).matches_labels(template_labels) {
            errors.invalid(
                "spec.template.metadata.labels",
                template_labels.cloned().unwrap_or(json!({})),
                "`selector` does not match template `labels`",
            );
        }
    }
    template(v, errors);
}

fn template(v: &Value, errors: &mut FieldErrors) {
    labels(at(v, "spec.template.metadata.labels"), "spec.template.labels", errors);
    let empty = json!({});
    pod_spec(at(v, "spec.template.spec").unwrap_or(&empty), "spec.template.spec", errors);
}

fn always_restart(v: &Value, errors: &mut FieldErrors) {
    let policy = text(v, "spec.template.spec.restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        errors.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
}

fn not_negative(v: &Value, fields: &[&str], errors: &mut FieldErrors) {
    for f in fields {
        if let Some(n) = int(v, f).filter(|n| *n < 0) {
            errors.invalid(*f, n, "must be greater than or equal to 0");
        }
    }
}

/// A deployment.
pub fn deployment(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    selector_and_template(v, errors);
    always_restart(v, errors);
    not_negative(
        v,
        &[
            "spec.replicas",
            "spec.minReadySeconds",
            "spec.revisionHistoryLimit",
            "spec.progressDeadlineSeconds",
        ],
        errors,
    );
    one_of(&v["spec"]["strategy"], "spec.strategy", "type", &["Recreate", "RollingUpdate"], errors);
    if text(v, "spec.strategy.type") == "Recreate" && at(v, "spec.strategy.rollingUpdate").is_some() {
        errors.forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        );
    }
    let is_zero = |p: &str| matches!(at(v, p), Some(x) if *x == json!(0) || *x == json!("0%"));
    if is_zero("spec.strategy.rollingUpdate.maxUnavailable")
        && is_zero("spec.strategy.rollingUpdate.maxSurge")
    {
        errors.invalid("spec.strategy.rollingUpdate.maxUnavailable", 0, "may not be 0 when `maxSurge` is 0");
    }
    if let Some(old) = old {
        immutable(old, v, "spec.selector", errors);
    }
}

/// A replica set.
pub fn replica_set(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    selector_and_template(v, errors);
    always_restart(v, errors);
    not_negative(v, &["spec.replicas", "spec.minReadySeconds"], errors);
    if let Some(old) = old {
        immutable(old, v, "spec.selector", errors);
    }
}

/// A daemon set.
pub fn daemon_set(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    selector_and_template(v, errors);
    always_restart(v, errors);
    one_of(
        &v["spec"]["updateStrategy"],
        "spec.updateStrategy",
        "type",
        &["RollingUpdate", "OnDelete"],
        errors,
    );
    if let Some(old) = old {
        immutable(old, v, "spec.selector", errors);
    }
}

/// A stateful set.
pub fn stateful_set(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    selector_and_template(v, errors);
    always_restart(v, errors);
    not_negative(v, &["spec.replicas", "spec.minReadySeconds"], errors);
    if let Some(old) = old {
        for field in ["selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"] {
            immutable(old, v, &format!("spec.{field}"), errors);
        }
    }
}

/// A job.
pub fn job(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    template(v, errors);
    if !matches!(text(v, "spec.template.spec.restartPolicy"), "OnFailure" | "Never") {
        errors.required("spec.template.spec.restartPolicy", "valid values: \"OnFailure\", \"Never\"");
    }
    not_negative(v, &["spec.parallelism", "spec.completions", "spec.backoffLimit"], errors);
    if let Some(old) = old {
        immutable(old, v, "spec.selector", errors);
        immutable(old, v, "spec.completions", errors);
    }
}
