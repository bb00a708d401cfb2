//! Sessions with the stock etcdctl of Debian.

use super::conformance;

conformance!(a_session, a_transaction, a_watch);

mod cases {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    use super::super::common::{PATIENCE, Target, require};

    fn etcdctl(t: &Target, args: &[&str]) -> Command {
        require("etcdctl");
        // setpriv lets it end with the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcdctl"]);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", t.address)).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(mut command: Command) -> Child {
        command.spawn().expect("setpriv is missing: apt-get install -y util-linux")
    }

    /// Runs it to its end with `input`; what it printed.
    async fn ctl_with(t: &Target, args: &[&str], input: &'static str) -> String {
        let mut child = start(etcdctl(t, args));
        let output = tokio::task::spawn_blocking(move || {
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn ctl(t: &Target, args: &str) -> String {
        ctl_with(t, &args.split(' ').collect::<Vec<_>>(), "").await
    }

    pub(super) async fn a_session(t: Target) {
        assert_eq!(ctl(&t, "put a 1").await, "OK\n");
        assert_eq!(ctl(&t, "put ab 2").await, "OK\n");
        assert_eq!(ctl(&t, "put --prev-kv a 3").await, "OK\na\n1\n");
        assert_eq!(ctl(&t, "get --prefix a").await, "a\n3\nab\n2\n");
        assert_eq!(ctl(&t, "get --prefix a --order=DESCEND --keys-only --limit=1").await, "ab\n\n");
        assert_eq!(ctl(&t, "get --rev=2 a").await, "a\n1\n");
        let lease = ctl(&t, "lease grant 100").await.split_whitespace().nth(1).unwrap().to_owned();
        assert_eq!(ctl(&t, &format!("put --lease={lease} l 1")).await, "OK\n");
        let kept = ctl(&t, &format!("lease keep-alive --once {lease}")).await;
        assert!(kept.contains("keepalived with TTL(100)"), "{kept}");
        assert!(ctl(&t, &format!("lease timetolive {lease} --keys")).await.contains("attached keys([l])"));
        assert!(ctl(&t, "lease list").await.contains(&lease));
        assert!(ctl(&t, &format!("lease revoke {lease}")).await.contains("revoked"));
        assert_eq!(ctl(&t, "get l").await, "");
        assert_eq!(ctl(&t, "del --prefix a").await, "2\n");
        assert!(ctl(&t, "endpoint status").await.contains(&t.address));
        assert!(ctl(&t, "member list").await.contains("started"));
        assert_eq!(ctl(&t, "alarm list").await, "");
        assert_eq!(ctl(&t, "compaction 3").await, "compacted revision 3\n");
    }

    pub(super) async fn a_transaction(t: Target) {
        ctl(&t, "put k old").await;
        let script = "value(\"k\") = \"old\"\n\nput k new\nget k\n\nget k\n\n";
        assert_eq!(ctl_with(&t, &["txn"], script).await, "SUCCESS\n\nOK\n\nk\nnew\n");
        assert_eq!(ctl_with(&t, &["txn"], script).await, "FAILURE\n\nk\nnew\n");
    }

    pub(super) async fn a_watch(t: Target) {
        ctl(&t, "put w/1 before").await;
        // From a revision in the past: nothing depends on when the watch is in place.
        let mut child = start(etcdctl(&t, &["watch", "--prefix", "--rev=2", "w/"]));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader =
            tokio::task::spawn_blocking(move || lines.map_while(Result::ok).take(8).collect::<Vec<_>>());
        ctl(&t, "put w/2 after").await;
        ctl(&t, "del w/1").await;
        let seen = tokio::time::timeout(PATIENCE, reader).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let seen = seen.expect("the watch shows too little").unwrap();
        assert_eq!(seen, ["PUT", "w/1", "before", "PUT", "w/2", "after", "DELETE", "w/1"]);
    }
}
