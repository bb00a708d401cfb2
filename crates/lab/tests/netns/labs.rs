//! Whole labs: up, twice, side by side, down, and every way of dying.

use std::collections::BTreeSet;
use std::io::BufRead;

use causeway_lab::state::LabDir;
use causeway_lab::{Error, Lab, LabOptions, Topology};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{processes, snapshot, until};
use crate::{Test, runtime};

pub(crate) const TESTS: &[Test] = &[
    ("netns_a_lab_comes_up_twice_and_goes_down_without_a_trace", up_twice_and_down),
    ("netns_a_killed_user_of_a_lab_leaves_nothing", killed_user),
    ("netns_a_killed_supervisor_leaves_nothing", killed_supervisor),
    ("netns_a_killed_supervisor_and_watchdog_are_cleaned_up_by_the_next_lab", killed_watchdog),
    ("netns_two_labs_are_side_by_side", two_labs),
];

/// A name that no other run of these tests has.
fn named(test: &str) -> String {
    format!("t-{test}-{}", std::process::id())
}

/// One cluster, so that a test takes a moment.
fn small(pods: &str) -> Topology {
    let text = format!(
        "clusters:\n- {{name: cls-t, id: 1, podCIDR: {pods}, serviceCIDR: 10.96.0.0/16, subnet: s, nodes: 2}}\n\
         subnets:\n- {{id: s, cidr: 172.16.1.0/24, zone: z-1}}\n"
    );
    Topology::parse(&text).unwrap()
}

fn up(name: &str, pods: &str) -> causeway_lab::Result<Lab> {
    let options = LabOptions { name: name.into(), ..LabOptions::default() };
    runtime().block_on(Lab::up(&small(pods), options))
}

fn supervisor(lab: &Lab) -> Pid {
    Pid::from_raw(lab.status().unwrap().supervisor as i32)
}

fn up_twice_and_down() {
    let name = &*named("twice");
    let before = snapshot(name);
    let lab = up(name, "10.10.0.0/16").unwrap();
    assert!(!lab.was_up());
    let first = supervisor(&lab);
    let again = up(name, "10.10.0.0/16").unwrap();
    assert!(again.was_up());
    assert_eq!(supervisor(&again), first, "the same lab");
    drop(again);
    let other = up(name, "10.11.0.0/16").unwrap_err();
    assert!(matches!(&other, Error::Refused(text) if text.contains("another topology")), "{other}");

    // A node is a machine of its own: name, root, cgroup, network.
    let (host, node) = (std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), "cls-t-1");
    let script = "hostname; cat /proc/self/cgroup; echo x > /usr/made-by-test; ls /sys/class/net; find /sys/fs/bpf -mindepth 1 -not -name *.debug | wc -l";
    let output = lab.node_exec("cls-t", node, &["sh", "-c", script]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(output.status.success(), "{output:?}");
    assert!(text.starts_with(&format!("{node}\n")), "{text}");
    assert!(text.contains(&format!("0::/causeway-{name}/cls-t/cls-t-1/")), "{text}");
    assert!(text.ends_with("eth0\nlo\n0\n"), "{text}");
    assert!(!std::path::Path::new("/usr/made-by-test").exists());
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), host);
    let failed = lab.node_exec("cls-t", node, &["sh", "-c", "exit 7"]).unwrap();
    assert_eq!(failed.status.code(), Some(7));

    // Every process of the lab is in its cgroup, the watchdog aside. They come and go between two looks.
    let group = lab.dir().cgroup().unwrap();
    until("only the watchdog to be outside the cgroup", || {
        let inside: BTreeSet<String> =
            group.processes_below().iter().map(|pid| format!("process {pid}")).collect();
        processes(name).difference(&inside).count() == 1
    });

    lab.down().unwrap();
    assert_eq!(snapshot(name), before);
    causeway_lab::lab::down(&LabDir::new(name).unwrap()).unwrap();
}

/// What brought a lab up without keeping it takes it along.
fn killed_user() {
    let name = &*named("leash");
    let before = snapshot(name);
    let mut user = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["lab", "--name", name, "up", "--foreground"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(user.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("nodes registered")), "the lab came up");
    assert_ne!(snapshot(name), before);
    user.kill().unwrap();
    user.wait().unwrap();
    until("the host to be as before", || snapshot(name) == before);
}

fn killed_supervisor() {
    let name = &*named("crash");
    let before = snapshot(name);
    let lab = up(name, "10.10.0.0/16").unwrap().keep();
    assert_ne!(snapshot(name), before);
    kill(supervisor(&lab), Signal::SIGKILL).unwrap();
    until("the host to be as before", || snapshot(name) == before);
}

fn killed_watchdog() {
    let name = &*named("crash2");
    let before = snapshot(name);
    let lab = up(name, "10.10.0.0/16").unwrap().keep();
    let group = lab.dir().cgroup().unwrap().processes_below();
    let all = processes(name);
    let watchdog: Vec<i32> = all
        .iter()
        .filter_map(|p| p.strip_prefix("process ")?.parse().ok())
        .filter(|p: &i32| !group.contains(&(*p as u32)))
        .collect();
    assert_eq!(watchdog.len(), 1);
    // A watchdog that dies alone is replaced, so the supervisor must not notice in time.
    kill(supervisor(&lab), Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(watchdog[0]), Signal::SIGKILL).unwrap();
    kill(supervisor(&lab), Signal::SIGKILL).unwrap();
    // A dying process loses its executable before its files: the lock goes last.
    until("the processes to die with their parent", || processes(name).is_empty() && !lab.dir().is_alive());
    assert!(lab.dir().path().exists(), "nobody was left to clean up");
    let lab = up(name, "10.10.0.0/16").unwrap();
    assert!(!lab.was_up());
    drop(lab);
    assert_eq!(snapshot(name), before);
}

fn two_labs() {
    let (one, two) = (&*named("one"), &*named("two"));
    let before = snapshot(one);
    let first = up(one, "10.10.0.0/16").unwrap();
    let second = up(two, "10.10.0.0/16").unwrap();
    for lab in [&first, &second] {
        let nodes = lab.kubectl("cls-t", &["get", "nodes", "-o", "name"]).unwrap();
        assert!(nodes.status.success(), "{nodes:?}");
        assert_eq!(String::from_utf8_lossy(&nodes.stdout), "node/cls-t-1\nnode/cls-t-2\n");
    }
    first.down().unwrap();
    assert_eq!(snapshot(one), before);
    let nodes = second.kubectl("cls-t", &["get", "nodes"]).unwrap();
    assert!(nodes.status.success(), "the other lab is not touched: {nodes:?}");
    drop(second);
    assert!(processes(two).is_empty());
}
