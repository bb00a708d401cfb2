//! What a machine looks like, to compare before and after.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// Everything of the host a lab could leave something in. What other tests do in the meantime is in namespaces and names
/// of their own, so only the host's own tables are read, and of shared lists only what bears the lab's name.
pub(crate) fn snapshot(lab: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for args in [["-o", "link"], ["-o", "route"], ["-o", "addr"], ["-o", "rule"]] {
        let output = Command::new("ip").args(args).output().expect("iproute2");
        let text = String::from_utf8_lossy(&output.stdout).to_string();
        // Lifetimes of leases count down.
        let stable = text.lines().map(|l| l.split("valid_lft").next().unwrap_or(l));
        all.extend(stable.map(|l| format!("{}: {l}", args[1])));
    }
    for setting in ["ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
        let value = std::fs::read_to_string(format!("/proc/sys/net/{setting}")).expect("a setting");
        all.insert(format!("{setting}: {value}"));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    all.extend(mounts.lines().filter(|l| l.contains("causeway")).map(|l| format!("mount: {l}")));
    let root = causeway_lab::runtime::Cgroup::mount_point().expect("mounts").expect("cgroup v2");
    let groups = std::fs::read_dir(root).expect("cgroups").flatten();
    let named = format!("causeway-{lab}");
    all.extend(
        groups.filter(|e| e.file_name().to_string_lossy() == named).map(|e| format!("{:?}", e.path())),
    );
    all.extend(processes(lab));
    if std::path::Path::new("/run/causeway/labs").join(lab).exists() {
        all.insert("state directory".into());
    }
    all
}

/// Processes started from the lab's executable.
pub(crate) fn processes(lab: &str) -> BTreeSet<String> {
    let path = format!("/labs/{lab}/bin/causeway");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(executable) = std::fs::read_link(entry.path().join("exe")) else { continue };
        if executable.to_string_lossy().contains(&path) {
            found.insert(format!("process {}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
