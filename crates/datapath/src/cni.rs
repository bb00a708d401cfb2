//! The Container Network Interface, version 1.1: what a runtime says to a plugin and gets back.
//! Pure; the plugin itself is `causeway cni`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The versions this plugin speaks, oldest first.
pub const VERSIONS: [&str; 4] = ["0.4.0", "1.0.0", "1.1.0", "1.1.1"];
/// The newest of the specification.
pub const VERSION: &str = "1.1.0";

/// Error codes of the specification.
pub mod code {
    /// The configuration names a version we do not speak.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The configuration cannot be decoded.
    pub const DECODE: u32 = 6;
    /// The configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// Something passes; the runtime should try again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no ADD can be served now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: existing containers may have no connectivity either.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// First code a plugin may define; CHECK found a difference.
    pub const CHECK_FAILED: u32 = 100;
}

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Verify its connection.
    Check,
    /// Remove what belongs to no listed container.
    Gc,
    /// Say whether ADD can be served.
    Status,
    /// Say which versions are spoken.
    Version,
}

/// The network configuration on standard input; unknown members are other plugins' business.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Version of the specification the runtime follows.
    #[serde(rename = "cniVersion", default = "first_version")]
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// The plugin's type.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Socket of the agent, where it is not at its default place.
    #[serde(rename = "agent-socket", default, skip_serializing_if = "Option::is_none")]
    pub agent_socket: Option<String>,
    /// GC: the attachments that are to stay.
    #[serde(rename = "cni.dev/valid-attachments", default, skip_serializing_if = "Vec::is_empty")]
    pub valid_attachments: Vec<Attachment>,
}

fn first_version() -> String {
    "0.1.0".to_owned()
}

/// One attachment of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface inside it.
    pub ifname: String,
}

/// What the environment says about the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`; empty where DEL comes after the namespace has gone.
    pub netns: String,
    /// `K8S_POD_NAMESPACE` of `CNI_ARGS`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`.
    pub pod_uid: String,
}

/// An error as a plugin prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}", if details.is_empty() { String::new() } else { format!(": {details}") })]
pub struct CniError {
    /// Version of the specification.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// See [`code`].
    pub code: u32,
    /// What failed.
    pub msg: String,
    /// Why, and what to do.
    #[serde(default)]
    pub details: String,
}

impl CniError {
    /// An error of the newest version.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { cni_version: VERSION.to_owned(), code, msg: msg.into(), details: details.into() }
    }
}

/// A successful ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddResult {
    /// The version the runtime asked for.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// The host's interface, then the container's.
    pub interfaces: Vec<Interface>,
    /// The container's addresses.
    pub ips: Vec<Ip>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Name resolution is the runtime's.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    /// Path of the namespace; absent for the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// With its prefix length.
    pub address: String,
    /// The gateway.
    pub gateway: IpAddr,
    /// Index into the interfaces.
    pub interface: usize,
}

/// A route of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination prefix.
    pub dst: String,
    /// The gateway.
    pub gw: IpAddr,
}

/// DNS of a result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {}

impl AddResult {
    /// The result for an endpoint on a node with these addresses in the pod network.
    pub fn new(version: &str, endpoint: &crate::Endpoint, gateways: &crate::IpPair, mtu: u32) -> Self {
        let mac = |m: [u8; 6]| m.map(|b| format!("{b:02x}")).join(":");
        let host =
            Interface { name: endpoint.host_ifname.clone(), mac: mac(endpoint.host_mac), mtu, sandbox: None };
        let pod = Interface {
            name: endpoint.ifname.clone(),
            mac: mac(endpoint.mac),
            mtu,
            sandbox: Some(endpoint.netns.display().to_string()),
        };
        let ways = || endpoint.ips.iter().filter_map(|ip| Some((ip, gateways.like(ip)?)));
        let ip =
            |(ip, gateway): (IpAddr, _)| Ip { address: IpNet::from(ip).to_string(), gateway, interface: 1 };
        let route =
            |(ip, gw): (IpAddr, _)| Route { dst: if ip.is_ipv6() { "::/0" } else { "0.0.0.0/0" }.into(), gw };
        Self {
            cni_version: version.to_owned(),
            interfaces: vec![host, pod],
            ips: ways().map(ip).collect(),
            routes: ways().map(route).collect(),
            dns: Dns {},
        }
    }
}

/// Reads `CNI_COMMAND`.
///
/// # Errors
/// [`code::INVALID_ENVIRONMENT`]
pub fn command(env: impl Fn(&str) -> Option<String>) -> Result<Command, CniError> {
    let word = env("CNI_COMMAND").unwrap_or_default();
    Ok(match word.as_str() {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        "GC" => Command::Gc,
        "STATUS" => Command::Status,
        "VERSION" => Command::Version,
        _ => {
            let details = format!("it is {word:?}; it must be ADD, DEL, CHECK, GC, STATUS or VERSION");
            return Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_COMMAND is invalid", details));
        }
    })
}

/// Reads what the environment says of the container, as far as `command` needs it.
///
/// # Errors
/// [`code::INVALID_ENVIRONMENT`] naming the variable.
pub fn container(command: Command, env: impl Fn(&str) -> Option<String>) -> Result<Container, CniError> {
    let args: Vec<(String, String)> = env("CNI_ARGS")
        .unwrap_or_default()
        .split(';')
        .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect();
    let arg = |key: &str| args.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
    let needed = |name: &str| {
        env(name).filter(|v| !v.is_empty()).ok_or_else(|| {
            CniError::new(code::INVALID_ENVIRONMENT, format!("{name} is missing"), "the runtime must set it")
        })
    };
    let container_id = needed("CNI_CONTAINERID")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !container_id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !container_id.chars().all(plain) {
        return Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            "CNI_CONTAINERID is invalid",
            "it must be letters, digits, '_', '.' and '-', beginning with a letter or digit",
        ));
    }
    let ifname = needed("CNI_IFNAME")?;
    if ifname.len() > 15 || ifname.contains(['/', ':', ' ']) || ifname == "." || ifname == ".." {
        let details =
            format!("{ifname:?} is no interface name: at most 15 characters, none of '/', ':' and space");
        return Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_IFNAME is invalid", details));
    }
    let netns =
        if command == Command::Del { env("CNI_NETNS").unwrap_or_default() } else { needed("CNI_NETNS")? };
    Ok(Container {
        container_id,
        ifname,
        netns,
        pod_namespace: arg("K8S_POD_NAMESPACE"),
        pod_name: arg("K8S_POD_NAME"),
        pod_uid: arg("K8S_POD_UID"),
    })
}

/// Decodes the network configuration and checks its version.
///
/// # Errors
/// [`code::DECODE`], [`code::INCOMPATIBLE_VERSION`]
pub fn network_config(text: &[u8]) -> Result<NetworkConfig, CniError> {
    let config: NetworkConfig = serde_json::from_slice(text).map_err(|e| {
        CniError::new(code::DECODE, "the network configuration cannot be decoded", e.to_string())
    })?;
    if !VERSIONS.contains(&config.cni_version.as_str()) {
        let details =
            format!("cniVersion is {:?}; this plugin speaks {}", config.cni_version, VERSIONS.join(", "));
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, "the version is not supported", details));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + Copy + 'a {
        move |name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string())
    }

    const FULL: &[(&str, &str)] = &[
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "4f0c"),
        ("CNI_NETNS", "/proc/7/ns/net"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u-1"),
    ];

    #[test]
    fn reads_what_a_runtime_says() {
        assert_eq!(command(env(FULL)).unwrap(), Command::Add);
        let found = container(Command::Add, env(FULL)).unwrap();
        assert_eq!(
            (found.pod_namespace.as_str(), found.pod_name.as_str(), found.pod_uid.as_str()),
            ("shop", "web-1", "u-1")
        );
        let config = network_config(br#"{"cniVersion":"1.1.0","name":"n","type":"causeway","x":1}"#).unwrap();
        assert_eq!(config.name, "n");
    }

    #[test]
    fn a_result_has_every_family_of_the_pod() {
        let endpoint: crate::Endpoint = serde_json::from_value(serde_json::json!({
            "id": 1, "container_id": "c", "ifname": "eth0", "netns": "/proc/7/ns/net", "ip": "10.1.0.5",
            "ip6": "fd00:1::5", "pod_namespace": "shop", "pod_name": "web-1", "pod_uid": "u-1",
            "identity": 5, "host_ifname": "lxc0", "ifindex": 9, "mac": [2, 0, 0, 0, 0, 1], "host_mac": [2, 0, 0, 0, 0, 2],
        }))
        .unwrap();
        let gateways =
            ["10.1.0.1", "fd00:1::1"].map(|ip| ip.parse::<IpAddr>().unwrap()).into_iter().collect();
        let json = serde_json::to_value(AddResult::new(VERSION, &endpoint, &gateways, 1450)).unwrap();
        assert_eq!(
            json["ips"],
            serde_json::json!([
                { "address": "10.1.0.5/32", "gateway": "10.1.0.1", "interface": 1 },
                { "address": "fd00:1::5/128", "gateway": "fd00:1::1", "interface": 1 },
            ])
        );
        assert_eq!(json["routes"][1], serde_json::json!({ "dst": "::/0", "gw": "fd00:1::1" }));
    }

    #[test]
    fn names_what_is_wrong() {
        assert_eq!(command(env(&[("CNI_COMMAND", "add")])).unwrap_err().code, code::INVALID_ENVIRONMENT);
        for (name, value) in
            [("CNI_CONTAINERID", "-x"), ("CNI_IFNAME", "a/b"), ("CNI_IFNAME", "sixteencharacter")]
        {
            let mut pairs = FULL.to_vec();
            pairs.iter_mut().find(|(k, _)| *k == name).unwrap().1 = value;
            assert!(container(Command::Add, env(&pairs)).unwrap_err().msg.contains(name), "{name}={value}");
        }
        let without: Vec<_> = FULL.iter().copied().filter(|(k, _)| *k != "CNI_NETNS").collect();
        assert!(container(Command::Add, env(&without)).is_err());
        assert!(container(Command::Del, env(&without)).is_ok(), "the namespace may be gone at DEL");
        assert_eq!(network_config(b"{").unwrap_err().code, code::DECODE);
        assert_eq!(
            network_config(br#"{"cniVersion":"2.0.0"}"#).unwrap_err().code,
            code::INCOMPATIBLE_VERSION
        );
    }
}
