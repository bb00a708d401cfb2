//! This node's CiliumNode.

use causeway_model::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};

use super::FIELD_MANAGER;
use crate::Error;
use crate::crd::{AddressPair, CiliumNode, CiliumNodeAddress, CiliumNodeSpec, EncryptionSpec, IpamSpec};

/// Writes the CiliumNode of one node.
#[derive(Clone)]
pub struct CiliumNodeWriter {
    api: Api<CiliumNode>,
}

impl CiliumNodeWriter {
    /// A writer through this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    /// Creates the object or makes it equal to `node`. `owner_uid` is the uid of the Kubernetes Node of
    /// the same name: the object goes when that goes.
    ///
    /// # Errors
    /// [`Error::Api`] naming the node.
    pub async fn upsert(&self, node: &Node, owner_uid: Option<&str>) -> Result<CiliumNode, Error> {
        let object = object(node, owner_uid);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.api
            .patch(&node.name, &params, &Patch::Apply(&object))
            .await
            .map_err(Error::api(format!("write CiliumNode {}", node.name)))
    }
}

/// The object of a node; the inverse of [`crate::convert::node`].
fn object(node: &Node, owner_uid: Option<&str>) -> CiliumNode {
    let pair = |v4: Option<std::net::IpAddr>, v6: Option<std::net::IpAddr>| AddressPair {
        ipv4: v4.map(|ip| ip.to_string()).unwrap_or_default(),
        ipv6: v6.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    let owner = owner_uid.map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name.clone(),
        uid: uid.to_owned(),
        ..Default::default()
    });
    CiliumNode {
        api_version: CiliumNode::api_version(&()).into_owned(),
        kind: CiliumNode::KIND.to_owned(),
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            labels: (!node.labels.is_empty()).then(|| node.labels.clone()),
            annotations: (!node.annotations.is_empty()).then(|| node.annotations.clone()),
            owner_references: owner.map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: CiliumNodeSpec {
            addresses: node
                .addresses
                .iter()
                .map(|a| CiliumNodeAddress { ip: a.ip.to_string(), kind: a.kind.as_str().to_owned() })
                .collect(),
            bootid: node.boot_id.clone(),
            encryption: EncryptionSpec { key: node.encryption_key.into() },
            health: pair(node.health_v4, node.health_v6),
            ingress: pair(node.ingress_v4, node.ingress_v6),
            ipam: IpamSpec {
                pod_cidrs: node.pod_cidrs.iter().map(|cidr| cidr.to_string()).collect(),
                pools: None,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::{AddressType, ClusterId, ClusterInfo, ClusterName, MaxClusters, NodeAddress};

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let info = ClusterInfo {
            name: ClusterName::new("cls-a").unwrap(),
            id: ClusterId::new(1, MaxClusters::C255).unwrap(),
            max_clusters: MaxClusters::C255,
        };
        let node = Node {
            addresses: vec![
                NodeAddress { kind: AddressType::InternalIP, ip: "172.18.0.11".parse().unwrap() },
                NodeAddress { kind: AddressType::CiliumInternalIP, ip: "10.1.0.1".parse().unwrap() },
            ],
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/120".parse().unwrap()],
            health_v4: Some("10.1.0.3".parse().unwrap()),
            encryption_key: 3,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            boot_id: "boot".into(),
            ..Node::new("n1", info.name.clone(), info.id)
        };
        let json = serde_json::to_value(object(&node, Some("uid-1"))).unwrap();
        assert_eq!(json["apiVersion"], "cilium.io/v2");
        assert_eq!(json["metadata"]["ownerReferences"][0]["kind"], "Node");
        assert_eq!(json["spec"]["ipam"]["podCIDRs"][0], "10.1.0.0/24");
        let back: CiliumNode = serde_json::from_value(json).unwrap();
        assert_eq!(crate::convert::node(&back, &info), node);
    }
}
