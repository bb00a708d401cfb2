//! The CustomResourceDefinitions: names, short names and printer columns as Cilium's.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The CRDs Causeway needs and installs: CiliumEndpoint, CiliumIdentity, CiliumNode.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![endpoint(), identity(), node()]
}

/// The CRD of ServiceExport, in both versions. Whoever wants the multi-cluster services API may install
/// another one; the operator creates it where there is none.
pub fn service_export_crd() -> CustomResourceDefinition {
    definition(Definition {
        group: "multicluster.x-k8s.io",
        version: "v1beta1",
        older: &["v1alpha1"],
        kind: "ServiceExport",
        plural: "serviceexports",
        singular: "serviceexport",
        short: &["svcex", "svcexport"],
        categories: &["multicluster"],
        namespaced: true,
        columns: vec![column("Age", "date", ".metadata.creationTimestamp", "", 0)],
        properties: vec![
            ("spec", object(vec![("exportedLabels", string_map()), ("exportedAnnotations", string_map())])),
            ("status", object(vec![("conditions", conditions())])),
        ],
        required: &[],
        status: true,
    })
}

/// The CRD of ServiceImport, in both versions.
pub fn service_import_crd() -> CustomResourceDefinition {
    let mut port = object(vec![
        ("name", string()),
        ("protocol", string()),
        ("appProtocol", string()),
        ("port", integer()),
    ]);
    port.required = Some(vec!["port".to_owned()]);
    let at_most_two = |items: JSONSchemaProps| JSONSchemaProps { max_items: Some(2), ..array(items) };
    let kinds = ["ClusterSetIP", "Headless"].map(|kind| JSON(kind.into())).to_vec();
    let mut spec = object(vec![
        ("ports", JSONSchemaProps { x_kubernetes_list_type: Some("atomic".to_owned()), ..array(port) }),
        ("ips", at_most_two(string())),
        ("type", JSONSchemaProps { enum_: Some(kinds), ..string() }),
        ("sessionAffinity", string()),
        ("sessionAffinityConfig", object(vec![("clientIP", object(vec![("timeoutSeconds", integer())]))])),
        ("ipFamilies", at_most_two(string())),
        ("internalTrafficPolicy", string()),
        ("trafficDistribution", string()),
    ]);
    spec.required = Some(vec!["ports".to_owned(), "type".to_owned()]);
    let mut cluster = object(vec![("cluster", string())]);
    cluster.required = Some(vec!["cluster".to_owned()]);
    let status = object(vec![("clusters", keyed("cluster", cluster)), ("conditions", conditions())]);
    definition(Definition {
        group: "multicluster.x-k8s.io",
        version: "v1beta1",
        older: &["v1alpha1"],
        kind: "ServiceImport",
        plural: "serviceimports",
        singular: "serviceimport",
        short: &["svcim", "svcimport"],
        categories: &["multicluster"],
        namespaced: true,
        columns: vec![
            column("Type", "string", ".spec.type", "The type of this ServiceImport", 0),
            column("IP", "string", ".spec.ips", "The addresses of this ServiceImport", 0),
            column("Age", "date", ".metadata.creationTimestamp", "", 0),
        ],
        properties: vec![("spec", spec), ("status", status)],
        required: &[],
        status: true,
    })
}

/// Standard conditions, one of each type.
fn conditions() -> JSONSchemaProps {
    let names = ["lastTransitionTime", "message", "reason", "status", "type"];
    let mut condition = object(names.map(|name| (name, string())).to_vec());
    condition.required = Some(names.map(str::to_owned).to_vec());
    keyed("type", condition)
}

/// A list in which each item has another value of a field.
fn keyed(by: &str, item: JSONSchemaProps) -> JSONSchemaProps {
    JSONSchemaProps {
        x_kubernetes_list_type: Some("map".to_owned()),
        x_kubernetes_list_map_keys: Some(vec![by.to_owned()]),
        ..array(item)
    }
}

/// The CRD of CiliumEndpointSlice. Cilium's operator installs it when it writes them; Causeway only
/// reads the objects.
pub fn endpoint_slice_crd() -> CustomResourceDefinition {
    let endpoint = object(vec![
        ("name", string()),
        ("id", integer()),
        ("networking", networking()),
        ("encryption", object(vec![("key", integer())])),
        ("named-ports", array(named_port())),
    ]);
    definition(Definition {
        group: "cilium.io",
        version: "v2alpha1",
        older: &[],
        kind: "CiliumEndpointSlice",
        plural: "ciliumendpointslices",
        singular: "ciliumendpointslice",
        short: &["ces"],
        categories: &["cilium"],
        namespaced: false,
        columns: vec![column("Age", "date", ".metadata.creationTimestamp", "", 0)],
        properties: vec![("namespace", string()), ("endpoints", array(endpoint))],
        required: &["endpoints"],
        status: false,
    })
}

fn networking() -> JSONSchemaProps {
    let pair = object(vec![("ipv4", string()), ("ipv6", string())]);
    object(vec![("addressing", array(pair)), ("node", string())])
}

fn named_port() -> JSONSchemaProps {
    object(vec![("name", string()), ("port", integer()), ("protocol", string())])
}

fn endpoint() -> CustomResourceDefinition {
    let identity = object(vec![("id", integer()), ("labels", array(string()))]);
    let identifiers = ["container-id", "cni-attachment-id", "k8s-namespace", "k8s-pod-name", "pod-name"];
    let status = object(vec![
        ("id", integer()),
        ("external-identifiers", object(identifiers.map(|name| (name, string())).to_vec())),
        ("identity", identity),
        ("networking", networking()),
        ("encryption", object(vec![("key", integer())])),
        ("state", string()),
        ("named-ports", array(named_port())),
    ]);
    definition(Definition {
        group: "cilium.io",
        version: "v2",
        older: &[],
        kind: "CiliumEndpoint",
        plural: "ciliumendpoints",
        singular: "ciliumendpoint",
        short: &["cep", "ciliumep"],
        categories: &["cilium"],
        namespaced: true,
        columns: vec![
            column("Security Identity", "integer", ".status.identity.id", "Security Identity", 0),
            column(
                "Ingress Enforcement",
                "string",
                ".status.policy.ingress.state",
                "Ingress enforcement in the endpoint",
                1,
            ),
            column(
                "Egress Enforcement",
                "string",
                ".status.policy.egress.state",
                "Egress enforcement in the endpoint",
                1,
            ),
            column("Endpoint State", "string", ".status.state", "Endpoint current state", 0),
            column("IPv4", "string", ".status.networking.addressing[0].ipv4", "Endpoint IPv4 address", 0),
            column("IPv6", "string", ".status.networking.addressing[0].ipv6", "Endpoint IPv6 address", 0),
        ],
        properties: vec![("status", status)],
        required: &[],
        // The status is written with the object, as Cilium's agents do: no subresource.
        status: false,
    })
}

fn identity() -> CustomResourceDefinition {
    definition(Definition {
        group: "cilium.io",
        version: "v2",
        older: &[],
        kind: "CiliumIdentity",
        plural: "ciliumidentities",
        singular: "ciliumidentity",
        short: &["ciliumid"],
        categories: &["cilium"],
        namespaced: false,
        columns: vec![
            column(
                "Namespace",
                "string",
                r".metadata.labels.io\.kubernetes\.pod\.namespace",
                "The namespace of the entity",
                0,
            ),
            column("Age", "date", ".metadata.creationTimestamp", "The age of the identity", 0),
        ],
        properties: vec![("security-labels", string_map())],
        required: &["security-labels"],
        status: false,
    })
}

fn node() -> CustomResourceDefinition {
    let address = object(vec![("ip", string()), ("type", string())]);
    let pair = || object(vec![("ipv4", string()), ("ipv6", string())]);
    let pool = object(vec![("pool", string()), ("cidrs", array(string()))]);
    let spec = object(vec![
        ("addresses", array(address)),
        ("bootid", string()),
        ("encryption", object(vec![("key", integer())])),
        ("health", pair()),
        ("ingress", pair()),
        (
            "ipam",
            object(vec![("podCIDRs", array(string())), ("pools", object(vec![("allocated", array(pool))]))]),
        ),
    ]);
    let address_column = |name, kind: &str, text| {
        column(name, "string", &format!(r#".spec.addresses[?(@.type=="{kind}")].ip"#), text, 0)
    };
    definition(Definition {
        group: "cilium.io",
        version: "v2",
        older: &[],
        kind: "CiliumNode",
        plural: "ciliumnodes",
        singular: "ciliumnode",
        short: &["cn", "ciliumn"],
        categories: &["cilium"],
        namespaced: false,
        columns: vec![
            address_column("CiliumInternalIP", "CiliumInternalIP", "Cilium internal IP for this node"),
            address_column("InternalIP", "InternalIP", "IP of the node"),
            column(
                "Age",
                "date",
                ".metadata.creationTimestamp",
                "Time duration since creation of Ciliumnode",
                0,
            ),
        ],
        properties: vec![("spec", spec), ("status", open())],
        required: &["spec"],
        status: true,
    })
}

struct Definition {
    group: &'static str,
    /// The version in which objects are stored.
    version: &'static str,
    /// Others that are served; objects are the same in all.
    older: &'static [&'static str],
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    columns: Vec<CustomResourceColumnDefinition>,
    properties: Vec<(&'static str, JSONSchemaProps)>,
    required: &'static [&'static str],
    status: bool,
}

fn definition(d: Definition) -> CustomResourceDefinition {
    let words = |words: &[&str]| (!words.is_empty()).then(|| words.iter().map(|w| w.to_string()).collect());
    let mut schema = object(d.properties);
    schema.required = words(d.required);
    let version = |name: &str, storage| CustomResourceDefinitionVersion {
        name: name.to_owned(),
        served: true,
        storage,
        additional_printer_columns: Some(d.columns.clone()),
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema.clone()) }),
        subresources: d.status.then(|| CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))),
            scale: None,
        }),
        ..Default::default()
    };
    CustomResourceDefinition {
        metadata: ObjectMeta { name: Some(format!("{}.{}", d.plural, d.group)), ..Default::default() },
        spec: CustomResourceDefinitionSpec {
            group: d.group.to_owned(),
            names: CustomResourceDefinitionNames {
                categories: words(d.categories),
                kind: d.kind.to_owned(),
                list_kind: Some(format!("{}List", d.kind)),
                plural: d.plural.to_owned(),
                short_names: words(d.short),
                singular: Some(d.singular.to_owned()),
            },
            scope: if d.namespaced { "Namespaced" } else { "Cluster" }.to_owned(),
            versions: [d.version]
                .iter()
                .chain(d.older)
                .map(|name| version(name, *name == d.version))
                .collect(),
            ..Default::default()
        },
        status: None,
    }
}

fn column(name: &str, kind: &str, path: &str, text: &str, priority: i32) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: kind.to_owned(),
        json_path: path.to_owned(),
        description: (!text.is_empty()).then(|| text.to_owned()),
        priority: (priority != 0).then_some(priority),
        format: None,
    }
}

fn of(kind: &str) -> JSONSchemaProps {
    JSONSchemaProps { type_: Some(kind.to_owned()), ..Default::default() }
}

fn string() -> JSONSchemaProps {
    of("string")
}

fn integer() -> JSONSchemaProps {
    of("integer")
}

/// An object whose listed fields are checked and whose others are kept: Cilium's own writers may
/// share the objects.
fn object(properties: Vec<(&str, JSONSchemaProps)>) -> JSONSchemaProps {
    let mut schema = open();
    schema.properties = Some(properties.into_iter().map(|(name, p)| (name.to_owned(), p)).collect());
    schema
}

fn open() -> JSONSchemaProps {
    JSONSchemaProps { x_kubernetes_preserve_unknown_fields: Some(true), ..of("object") }
}

fn array(items: JSONSchemaProps) -> JSONSchemaProps {
    JSONSchemaProps { items: Some(JSONSchemaPropsOrArray::Schema(Box::new(items))), ..of("array") }
}

fn string_map() -> JSONSchemaProps {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrBool;
    JSONSchemaProps {
        additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(string()))),
        ..of("object")
    }
}
