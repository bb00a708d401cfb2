//! The data path outlives its agent.

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};

/// The probe runs until it is told to stop; this long only where the test has died.
const PROBE: &str = "echo $$ >/tmp/probe.pid; exec causeway lab workload probe $0 --rate 1000 --seconds 600";

#[test]
fn netns_no_packet_is_lost_without_an_agent_or_by_a_new_one() {
    let mesh = Clusters::meshed("t-agent");
    let node = &*format!("{ONE}-1");
    mesh.echo_pod(ONE, "a", node);
    let there = format!("{}:7000", mesh.echo_pod(TWO, "d", &format!("{TWO}-1")));
    let flow = |count: &str| {
        mesh.workload(ONE, "a", &["udp-request", &there, "--count", count]);
        mesh.workload(ONE, "a", &["tcp-stream", &there, "--bytes", "100000"]);
    };
    until("the first packet to arrive", || {
        let argv = ["causeway", "lab", "workload", "udp-request", &there, "--count", "1"];
        mesh.lab.exec(ONE, "default", "a", &argv).unwrap().status.success()
    });
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| mesh.lab.exec(ONE, "default", "a", &["sh", "-c", PROBE, &there]).unwrap());
        let probing = |command: &str| mesh.lab.exec(ONE, "default", "a", &["sh", "-c", command]).unwrap();
        until("the probe to run", || probing("test -s /tmp/probe.pid").status.success());

        // Killed: the kubelet starts another, which adopts what the first left.
        let first = mesh.agent(ONE, node).unwrap();
        kill(first, Signal::SIGKILL).unwrap();
        until("another agent", || mesh.agent(ONE, node).is_some_and(|pid| pid != first));
        flow("20");

        // Taken off the node: what flows goes on flowing, and new flows begin.
        let nowhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"there-is":"none"}}}}}"#;
        mesh.kubectl(ONE, &["-n", "kube-system", "patch", "daemonset", "causeway", "-p", nowhere]);
        until("the agents to be gone", || mesh.agent(ONE, node).is_none());
        flow("20");
        let back = r#"{"spec":{"template":{"spec":{"nodeSelector":null}}}}"#;
        mesh.kubectl(ONE, &["-n", "kube-system", "patch", "daemonset", "causeway", "-p", back]);
        mesh.kubectl(ONE, &["-n", "kube-system", "rollout", "status", "daemonset/causeway", "--timeout=60s"]);
        mesh.ready(ONE);
        flow("20");
        assert!(!probe.is_finished(), "the probe ended before all of it had happened");
        assert!(probing("kill -INT $(cat /tmp/probe.pid)").status.success());

        let output = probe.join().unwrap();
        let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(counts["lost"], 0, "{counts}");
        assert!(counts["sent"].as_u64() > Some(0), "{counts}");
    });
}
