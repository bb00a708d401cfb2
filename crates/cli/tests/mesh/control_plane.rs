//! What the clusters tell each other, and what is refused with the old state intact.

use crate::clusters::{Clusters, ONE, TWO, until};

#[test]
fn netns_what_is_wrong_is_said_and_the_old_state_stays() {
    let mesh = Clusters::meshed("t-wrong");
    let url = mesh.web();
    mesh.answered_by(&url, &[ONE, TWO]);
    let secret = |patch: &str| {
        mesh.kubectl(
            ONE,
            &["-n", "kube-system", "patch", "secret", "cilium-clustermesh", "--type=merge", "-p", patch],
        );
    };
    let says = |text: &str| {
        until(&format!("the status to say {text:?}"), || {
            let output = mesh.try_causeway(&["clustermesh", "status", "--context", ONE]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.contains(text)
        });
        mesh.always_answered_by(&url, &[ONE, TWO]);
    };
    let get = ["-n", "kube-system", "get", "secret", "cilium-clustermesh", "-o", "json"];
    let good: serde_json::Value = serde_json::from_str(&mesh.kubectl(ONE, &get)).unwrap();
    let restore = || secret(&serde_json::json!({"data": good["data"]}).to_string());

    // A malformed peer file: the connection it described goes on.
    secret(&format!(r#"{{"stringData":{{"{TWO}":"endpoints: [1, {{"}}}}"#));
    says("not a YAML etcd client configuration");
    restore();
    mesh.ready(ONE);

    // A certificate of another authority.
    let stranger = rcgen::generate_simple_self_signed(["stranger".into()]).unwrap().cert.pem();
    secret(&serde_json::json!({"stringData": {format!("{TWO}.etcd-client-ca.crt"): stranger}}).to_string());
    says("certificate");
    restore();
    mesh.ready(ONE);

    // A name and an id that are taken.
    let same = mesh.try_causeway(&["clustermesh", "connect", "--context", ONE, "--destination-context", ONE]);
    assert!(!same.status.success());
    let unknown =
        mesh.try_causeway(&["clustermesh", "connect", "--context", ONE, "--destination-context", "nobody"]);
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("nobody"), "{unknown:?}");
    mesh.always_answered_by(&url, &[ONE, TWO]);
}

#[test]
fn netns_a_wait_that_takes_too_long_fails() {
    let mesh = Clusters::up("t-wait");
    mesh.connect();
    mesh.ready(ONE);
    mesh.causeway(&["lab", "link", "cut", ONE, TWO]);
    let wait = |seconds: &str| {
        mesh.try_causeway(&["clustermesh", "status", "--context", ONE, "--wait", "--wait-duration", seconds])
    };
    until("the agents to notice", || !wait("0s").status.success());
    let late = wait("1s");
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(String::from_utf8_lossy(&late.stdout).contains("not connected"), "{late:?}");
}
