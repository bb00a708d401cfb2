//! CiliumEndpoint and CiliumEndpointSlice → the addresses they claim (mesh-protocol 6.2).

use causeway_model::{Endpoint, IpEntry, NumericIdentity, PodRef};

use super::{EndpointGroup, ip, names};
use crate::crd::{CiliumEndpoint, CiliumEndpointSlice, EndpointEncryption, EndpointNetworking};

/// One entry per address; `None` without networking.
pub fn endpoint(object: &CiliumEndpoint) -> Option<Endpoint> {
    let (namespace, name) = names(&object.metadata);
    let status = &object.status;
    let identity = status.identity.as_ref().map_or(0, |identity| identity.id);
    claims(PodRef { namespace, name }, identity, status.networking.as_ref()?, &status.encryption)
}

/// The endpoints of a slice that have addresses; a slice without any is an empty group.
pub fn endpoint_slice(object: &CiliumEndpointSlice) -> EndpointGroup {
    let endpoints = object.endpoints.iter().filter_map(|endpoint| {
        let pod = PodRef { namespace: object.namespace.clone(), name: endpoint.name.clone() };
        claims(pod, endpoint.id, endpoint.networking.as_ref()?, &endpoint.encryption)
    });
    EndpointGroup { name: names(&object.metadata).1, endpoints: endpoints.collect() }
}

fn claims(
    pod: PodRef,
    identity: i64,
    networking: &EndpointNetworking,
    encryption: &EndpointEncryption,
) -> Option<Endpoint> {
    let identity = u32::try_from(identity).map_or(NumericIdentity::UNKNOWN, NumericIdentity);
    let addresses: Vec<IpEntry> = networking
        .addressing
        .iter()
        .flat_map(|pair| [ip(&pair.ipv4), ip(&pair.ipv6)])
        .flatten()
        .map(|address| IpEntry {
            prefix: address.into(),
            identity,
            host_ip: ip(&networking.node),
            key_index: u8::try_from(encryption.key).unwrap_or(0),
            pod: Some(pod.clone()),
        })
        .collect();
    (!addresses.is_empty()).then_some(Endpoint { pod, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_says_the_same_as_its_endpoints() {
        let networking = r#"{"addressing":[{"ipv4":"10.1.0.5","ipv6":"fd00::5"}],"node":"172.18.0.11"}"#;
        let single: CiliumEndpoint = serde_json::from_str(&format!(
            r#"{{"metadata":{{"namespace":"shop","name":"a"}},
                "status":{{"identity":{{"id":65600}},"networking":{networking},"encryption":{{"key":3}}}}}}"#
        ))
        .unwrap();
        let slice: CiliumEndpointSlice = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"ces-1"}},"namespace":"shop","endpoints":[
                {{"name":"a","id":65600,"networking":{networking},"encryption":{{"key":3}},"named-ports":null}},
                {{"name":"starting","id":0}}]}}"#
        ))
        .unwrap();
        let endpoint = endpoint(&single).unwrap();
        assert_eq!(endpoint.addresses.len(), 2);
        assert_eq!(endpoint_slice(&slice), EndpointGroup { name: "ces-1".into(), endpoints: vec![endpoint] });
        let empty: CiliumEndpointSlice = serde_json::from_str(r#"{"endpoints":null}"#).unwrap();
        assert_eq!(endpoint_slice(&empty).endpoints, []);
    }
}
