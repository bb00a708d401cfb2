use serde_json::{Value, json};

use super::*;

fn by(manager: &str, force: bool) -> Applier {
    Applier { manager: manager.into(), force, api_version: "apps/v1".into(), subresource: String::new() }
}

fn deployment() -> Schema<'static> {
    Schema::named("io.k8s.api.apps.v1.Deployment")
}

fn config(replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
    })
}

#[test]
fn conflicts_name_the_field_and_its_owner() {
    let first = apply(None, &config(1, "a"), deployment(), &by("one", false)).unwrap();
    let err = apply(Some(&first), &config(2, "a"), deployment(), &by("two", false)).unwrap_err();
    assert_eq!(err, [Conflict { with: "\"one\"".into(), field: ".spec.replicas".into() }]);
    let forced = apply(Some(&first), &config(2, "a"), deployment(), &by("two", true)).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    let owners = owners(&forced);
    assert_eq!(owners[".spec.replicas"], ["two"]);
    assert_eq!(owners[".spec.template.spec.containers[name=\"c\"].image"], ["one", "two"]);
}

#[test]
fn fields_no_longer_applied_go_unless_shared() {
    let first = apply(None, &config(1, "a"), deployment(), &by("one", false)).unwrap();
    let mut less = config(1, "a");
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let second = apply(Some(&first), &less, deployment(), &by("one", false)).unwrap();
    assert!(second["spec"].get("replicas").is_none());
    let shared = apply(Some(&first), &config(1, "a"), deployment(), &by("two", false)).unwrap();
    let kept = apply(Some(&shared), &less, deployment(), &by("one", false)).unwrap();
    assert_eq!(kept["spec"]["replicas"], 1);
}

#[test]
fn list_entries_belong_to_their_keys() {
    let first = apply(None, &config(1, "a"), deployment(), &by("one", false)).unwrap();
    let sidecar = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "s", "image": "x"}]}}},
    });
    let both = apply(Some(&first), &sidecar, deployment(), &by("two", false)).unwrap();
    assert_eq!(both["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    let none = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    let back = apply(Some(&both), &none, deployment(), &by("two", false)).unwrap();
    assert_eq!(back["spec"]["template"]["spec"]["containers"], json!([{"name": "c", "image": "a"}]));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let first = apply(None, &config(1, "a"), deployment(), &by("one", false)).unwrap();
    let again = apply(Some(&first), &config(1, "a"), deployment(), &by("one", false)).unwrap();
    assert!(managed::same_but_times(&first, &again));
}
