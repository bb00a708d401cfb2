//! The runtime against a plugin that is a shell script recording its calls.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Records `<plugin> <command> <id> <netns> <ifname> <args>` and its input; answers from files beside it.
const PLUGIN: &str = r#"#!/bin/sh
me=$(basename "$0"); dir=$(dirname "$0")
cat > "$dir/input.$me.$CNI_COMMAND"
echo "$me $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >> "$dir/calls"
if [ -e "$dir/fail.$me.$CNI_COMMAND" ]; then cat "$dir/fail.$me.$CNI_COMMAND"; exit 1; fi
[ "$CNI_COMMAND" = ADD ] && cat "$dir/result.$me"
exit 0
"#;

struct Bench {
    dir: tempfile::TempDir,
    cni: Cni,
}

impl Bench {
    fn new(conf: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for d in ["conf", "bin", "cache"] {
            std::fs::create_dir(root.join(d)).unwrap();
        }
        for name in ["main", "extra"] {
            let path = root.join("bin").join(name);
            std::fs::write(&path, PLUGIN).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let result = json!({"cniVersion": "1.1.0", "by": name,
                "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}],
                "ips": [{"address": "10.9.0.1/24", "interface": 0}, {"address": "10.1.0.5/32", "interface": 1}]});
            std::fs::write(root.join("bin").join(format!("result.{name}")), result.to_string()).unwrap();
        }
        std::fs::write(root.join("conf/10-test.conflist"), conf).unwrap();
        let cni = Cni {
            conf_dir: root.join("conf"),
            bin_dirs: vec![root.join("bin")],
            cache_dir: root.join("cache"),
            timeout: Duration::from_secs(20),
        };
        Bench { dir, cni }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("bin/calls")).unwrap_or_default();
        text.lines().map(|l| l.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    fn input(&self, plugin: &str, command: &str) -> Value {
        let path = self.dir.path().join(format!("bin/input.{plugin}.{command}"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

fn conf(version: &str) -> String {
    json!({"cniVersion": version, "name": "pods", "plugins": [
        {"type": "main", "mtu": 1400},
        {"type": "extra", "capabilities": {"portMappings": true, "bandwidth": false}}]})
    .to_string()
}

fn attachment() -> Attachment {
    Attachment {
        container_id: "abc".into(),
        netns: Some("/proc/self/ns/net".into()),
        ifname: "eth0".into(),
        args: vec![("K8S_POD_NAMESPACE".into(), "ns".into()), ("K8S_POD_NAME".into(), "web".into())],
        capabilities: [
            ("portMappings".to_string(), json!([{"hostPort": 1}])),
            ("bandwidth".into(), json!({})),
        ]
        .into(),
    }
}

#[tokio::test]
async fn add_chains_results_and_del_gives_them_back_in_reverse() {
    let b = Bench::new(&conf("1.1.0"));
    let added = b.cni.add(&attachment()).await.unwrap();
    assert_eq!(added.ips, ["10.1.0.5".parse::<IpAddr>().unwrap()]);
    let second = b.input("extra", "ADD");
    assert_eq!(second["prevResult"]["by"], "main");
    assert_eq!(second["runtimeConfig"], json!({"portMappings": [{"hostPort": 1}]}));
    assert_eq!((&second["name"], &second["cniVersion"]), (&json!("pods"), &json!("1.1.0")));
    let first = b.input("main", "ADD");
    assert_eq!(first, json!({"type": "main", "mtu": 1400, "name": "pods", "cniVersion": "1.1.0"}));
    let line = std::fs::read_to_string(b.dir.path().join("bin/calls")).unwrap();
    assert!(
        line.starts_with("main ADD abc /proc/self/ns/net eth0 K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web\n"),
        "{line}"
    );

    b.cni.check(&attachment()).await.unwrap();
    assert_eq!(b.input("main", "CHECK")["prevResult"]["by"], "extra");
    // The configuration is gone, the cached one is used.
    std::fs::remove_file(b.dir.path().join("conf/10-test.conflist")).unwrap();
    b.cni.del(&attachment()).await.unwrap();
    assert_eq!(b.input("main", "DEL")["prevResult"]["by"], "extra");
    assert_eq!(b.calls(), ["main ADD", "extra ADD", "main CHECK", "extra CHECK", "extra DEL", "main DEL"]);
    assert!(b.cni.cached().is_empty());
}

#[tokio::test]
async fn errors_are_parsed_and_a_failed_add_is_undone() {
    let b = Bench::new(&conf("1.1.0"));
    b.write(
        "bin/fail.extra.ADD",
        r#"{"cniVersion":"1.1.0","code":11,"msg":"try later","details":"agent down"}"#,
    );
    let error = b.cni.add(&attachment()).await.unwrap_err();
    let Error::Plugin { plugin, command, source } = &error else { panic!("{error}") };
    assert_eq!((plugin.as_str(), *command, source.code), ("extra", "ADD", 11));
    assert_eq!(source.to_string(), "try later: agent down (code 11)");
    assert_eq!(b.calls(), ["main ADD", "extra ADD", "extra DEL", "main DEL"]);
    b.write("bin/fail.main.STATUS", "boom");
    assert!(b.cni.status().await.unwrap_err().to_string().contains("without an error object: boom"));
    assert!(b.cni.cached().is_empty());
}

#[tokio::test]
async fn status_and_gc_only_from_1_1() {
    let b = Bench::new(&conf("1.0.0"));
    b.cni.status().await.unwrap();
    b.cni.gc(&[]).await.unwrap();
    assert!(b.calls().is_empty());
    let b = Bench::new(&conf("1.1.0"));
    b.cni.add(&attachment()).await.unwrap();
    b.cni.status().await.unwrap();
    b.cni.gc(&[("abc".into(), "eth0".into())]).await.unwrap();
    assert_eq!(
        b.input("main", "GC")["cni.dev/valid-attachments"],
        json!([{"containerID": "abc", "ifname": "eth0"}])
    );
    assert_eq!(b.cni.cached().len(), 1);
    b.cni.gc(&[]).await.unwrap();
    assert!(b.cni.cached().is_empty());
    assert!(b.calls().contains(&"main DEL".to_string()));
}

#[test]
fn the_lexically_first_valid_configuration_counts() {
    let b = Bench::new(&conf("1.1.0"));
    b.write("conf/00-bad.conflist", "{");
    b.write("conf/05-noname.conflist", r#"{"cniVersion":"1.1.0","plugins":[{"type":"x"}]}"#);
    b.write("conf/01-other.txt", &conf("0.3.1"));
    assert_eq!(b.cni.network().unwrap().name, "pods");
    b.write("conf/02-single.conf", r#"{"cniVersion":"0.4.0","name":"one","type":"main"}"#);
    let list = b.cni.network().unwrap();
    assert_eq!((list.name.as_str(), list.plugins.len(), list.at_least(0, 4)), ("one", 1, true));
    let empty = Cni { conf_dir: b.dir.path().join("none"), ..b.cni.clone() };
    assert!(empty.network().unwrap_err().to_string().contains("cni config uninitialized"));
}

#[tokio::test]
async fn a_missing_plugin_is_named() {
    let b = Bench::new(r#"{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"absent"}]}"#);
    let error = b.cni.status().await.unwrap_err().to_string();
    assert!(error.contains("failed to find plugin \"absent\""), "{error}");
}
