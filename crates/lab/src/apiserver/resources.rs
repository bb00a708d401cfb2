//! The resources this server knows: one row for each built-in one, and the catalogue that CustomResourceDefinitions
//! add to while the server runs.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde_json::Value;

use super::error::FieldErrors;
use super::schema::SchemaSource;
use super::table::{self, Columns};
use super::{defaults, validation};

/// Fills in what the client left out.
pub type DefaultFn = fn(&mut Value);
/// Checks an object (and its change from the second one).
pub type ValidateFn = fn(&Value, Option<&Value>, &mut FieldErrors);

/// Where a resource's scale subresource finds its numbers; dotted JSON paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Desired replicas, e.g. `spec.replicas`.
    pub spec: String,
    /// Observed replicas, e.g. `status.replicas`.
    pub status: String,
    /// Label selector: an object or its text form.
    pub selector: Option<String>,
}

/// Everything the generic handlers need to know about one resource in one version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group, "" for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Kind of its objects.
    pub kind: String,
    /// Short names for kubectl.
    pub short: Vec<String>,
    /// Categories (`all`).
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether it is a request kind that is answered, not stored (reviews).
    pub create_only: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// Scale subresource.
    pub scale: Option<ScalePaths>,
    /// Further subresources: name and kind of the body.
    pub extra: Vec<(String, String)>,
    /// `<group>/<plural>` below `/registry/`; versions of one resource share it.
    pub storage: String,
    /// Shape of its objects.
    pub schema: SchemaSource,
    /// Field selectors besides metadata.name and metadata.namespace.
    pub fields: Vec<String>,
    /// Whether `metadata.generation` counts changes of the specification.
    pub generation: bool,
    /// Defaulting.
    pub default: DefaultFn,
    /// Validation.
    pub validate: ValidateFn,
    /// Table printing.
    pub columns: Columns,
}

impl Resource {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Kind of its lists.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Verbs as discovery shows them.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.create_only {
            &["create"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
    }

    /// Whether this is the core or events.k8s.io view of events.
    pub fn is_event(&self) -> bool {
        self.storage == "core/events"
    }

    /// Whether `group/plural` is this.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

/// All resources being served. Cheap to read; written when a CustomResourceDefinition changes.
#[derive(Debug)]
pub struct Catalog {
    rows: RwLock<BTreeMap<(String, String, String), Arc<Resource>>>,
}

impl Default for Catalog {
    fn default() -> Self {
        let rows = builtin().into_iter().map(|r| (key(&r), Arc::new(r))).collect();
        Catalog { rows: RwLock::new(rows) }
    }
}

fn key(r: &Resource) -> (String, String, String) {
    (r.group.clone(), r.version.clone(), r.plural.clone())
}

impl Catalog {
    /// The row for a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let rows = self.rows.read().unwrap_or_else(|e| e.into_inner());
        rows.get(&(group.to_string(), version.to_string(), plural.to_string())).cloned()
    }

    /// The row for an object's apiVersion and kind.
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.all().into_iter().find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// All rows, ordered by group, version and plural.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        self.rows.read().unwrap_or_else(|e| e.into_inner()).values().cloned().collect()
    }

    /// One row for each stored resource (versions and views folded), creatable ones only.
    pub fn stored(&self) -> Vec<Arc<Resource>> {
        let mut by_storage: BTreeMap<String, Arc<Resource>> = BTreeMap::new();
        for row in self.all().into_iter().filter(|r| !r.create_only) {
            by_storage.entry(row.storage.clone()).or_insert(row);
        }
        by_storage.into_values().collect()
    }

    /// Replaces all rows of a custom resource (`group`, `plural`) by these.
    pub fn replace_custom(&self, group: &str, plural: &str, rows: Vec<Resource>) {
        let mut map = self.rows.write().unwrap_or_else(|e| e.into_inner());
        map.retain(|(g, _, p), r| !(g == group && p == plural && r.schema.is_custom()));
        map.extend(rows.into_iter().map(|r| (key(&r), Arc::new(r))));
    }
}

fn row(group: &str, version: &str, plural: &str, kind: &str, definition: &str) -> Resource {
    let storage_group = if group.is_empty() { "core" } else { group };
    Resource {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        kind: kind.into(),
        short: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        create_only: false,
        status: false,
        scale: None,
        extra: Vec::new(),
        storage: format!("{storage_group}/{plural}"),
        schema: SchemaSource::Builtin(format!("io.k8s.api.{definition}.{kind}")),
        fields: Vec::new(),
        generation: false,
        default: |_| {},
        validate: |_, _, _| {},
        columns: table::NAME_AGE,
    }
}

impl Resource {
    fn short(mut self, names: &[&str]) -> Self {
        self.short = names.iter().map(|s| s.to_string()).collect();
        self
    }
    fn all(mut self) -> Self {
        self.categories = vec!["all".into()];
        self
    }
    fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }
    fn status(mut self) -> Self {
        self.status = true;
        self
    }
    fn scale(mut self) -> Self {
        self.scale = Some(ScalePaths {
            spec: "spec.replicas".into(),
            status: "status.replicas".into(),
            selector: Some("spec.selector".into()),
        });
        self
    }
    fn generation(mut self) -> Self {
        self.generation = true;
        self
    }
    fn fields(mut self, names: &[&str]) -> Self {
        self.fields = names.iter().map(|s| s.to_string()).collect();
        self
    }
    fn sub(mut self, name: &str, kind: &str) -> Self {
        self.extra.push((name.into(), kind.into()));
        self
    }
    fn defaults(mut self, f: DefaultFn) -> Self {
        self.default = f;
        self
    }
    fn validates(mut self, f: ValidateFn) -> Self {
        self.validate = f;
        self
    }
    fn columns(mut self, c: Columns) -> Self {
        self.columns = c;
        self
    }
    fn review(mut self) -> Self {
        self.create_only = true;
        self
    }
}

fn builtin() -> Vec<Resource> {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let mut rows = vec![
        row("", "v1", "namespaces", "Namespace", "core.v1")
            .cluster()
            .short(&["ns"])
            .status()
            .fields(&["status.phase"])
            .sub("finalize", "Namespace")
            .defaults(defaults::namespace)
            .columns(table::NAMESPACE),
        row("", "v1", "nodes", "Node", "core.v1")
            .cluster()
            .short(&["no"])
            .status()
            .fields(&["spec.unschedulable"])
            .defaults(defaults::node)
            .validates(validation::node)
            .columns(table::NODE),
        row("", "v1", "pods", "Pod", "core.v1")
            .short(&["po"])
            .all()
            .status()
            .fields(&[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ])
            .sub("binding", "Binding")
            .sub("eviction", "Eviction")
            .sub("log", "Pod")
            .generation()
            .defaults(defaults::pod::pod)
            .validates(validation::pod::pod)
            .columns(table::POD),
        row("", "v1", "podtemplates", "PodTemplate", "core.v1"),
        row("", "v1", "services", "Service", "core.v1")
            .short(&["svc"])
            .all()
            .status()
            .fields(&["spec.clusterIP", "spec.type"])
            .defaults(defaults::service::service)
            .validates(validation::service::service)
            .columns(table::SERVICE),
        row("", "v1", "endpoints", "Endpoints", "core.v1")
            .short(&["ep"])
            .defaults(defaults::service::endpoints)
            .columns(table::ENDPOINTS),
        row("", "v1", "configmaps", "ConfigMap", "core.v1")
            .short(&["cm"])
            .validates(validation::config_map)
            .columns(table::CONFIG_MAP),
        row("", "v1", "secrets", "Secret", "core.v1")
            .fields(&["type"])
            .defaults(defaults::secret)
            .validates(validation::secret)
            .columns(table::SECRET),
        row("", "v1", "serviceaccounts", "ServiceAccount", "core.v1")
            .short(&["sa"])
            .sub("token", "TokenRequest")
            .columns(table::SERVICE_ACCOUNT),
        row("", "v1", "events", "Event", "core.v1")
            .short(&["ev"])
            .fields(&[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ])
            .validates(validation::event)
            .columns(table::EVENT),
        row("", "v1", "bindings", "Binding", "core.v1").review(),
        row("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "core.v1").short(&["pvc"]).status(),
        row("", "v1", "persistentvolumes", "PersistentVolume", "core.v1").cluster().short(&["pv"]).status(),
        row("", "v1", "limitranges", "LimitRange", "core.v1").short(&["limits"]),
        row("", "v1", "resourcequotas", "ResourceQuota", "core.v1").short(&["quota"]).status(),
        row("", "v1", "replicationcontrollers", "ReplicationController", "core.v1")
            .short(&["rc"])
            .all()
            .status()
            .scale()
            .generation(),
        row("apps", "v1", "deployments", "Deployment", "apps.v1")
            .short(&["deploy"])
            .all()
            .status()
            .scale()
            .generation()
            .defaults(defaults::workload::deployment)
            .validates(validation::workload::deployment)
            .columns(table::DEPLOYMENT),
        row("apps", "v1", "replicasets", "ReplicaSet", "apps.v1")
            .short(&["rs"])
            .all()
            .status()
            .scale()
            .generation()
            .fields(&["status.replicas"])
            .defaults(defaults::workload::replica_set)
            .validates(validation::workload::replica_set)
            .columns(table::REPLICA_SET),
        row("apps", "v1", "daemonsets", "DaemonSet", "apps.v1")
            .short(&["ds"])
            .all()
            .status()
            .generation()
            .defaults(defaults::workload::daemon_set)
            .validates(validation::workload::daemon_set)
            .columns(table::DAEMON_SET),
        row("apps", "v1", "statefulsets", "StatefulSet", "apps.v1")
            .short(&["sts"])
            .all()
            .status()
            .scale()
            .generation()
            .defaults(defaults::workload::stateful_set)
            .validates(validation::workload::stateful_set)
            .columns(table::STATEFUL_SET),
        row("apps", "v1", "controllerrevisions", "ControllerRevision", "apps.v1")
            .columns(table::CONTROLLER_REVISION),
        row("batch", "v1", "jobs", "Job", "batch.v1")
            .all()
            .status()
            .generation()
            .fields(&["status.successful"])
            .defaults(defaults::workload::job)
            .validates(validation::workload::job)
            .columns(table::JOB),
        row("batch", "v1", "cronjobs", "CronJob", "batch.v1").short(&["cj"]).all().status().generation(),
        row("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "discovery.v1")
            .generation()
            .defaults(defaults::service::endpoint_slice)
            .validates(validation::service::endpoint_slice)
            .columns(table::ENDPOINT_SLICE),
        row("coordination.k8s.io", "v1", "leases", "Lease", "coordination.v1").columns(table::LEASE),
        row("events.k8s.io", "v1", "events", "Event", "events.v1")
            .short(&["ev"])
            .fields(&[
                "regarding.kind",
                "regarding.namespace",
                "regarding.name",
                "regarding.uid",
                "reason",
                "type",
                "reportingController",
            ])
            .columns(table::EVENT),
        row(RBAC, "v1", "roles", "Role", "rbac.v1").columns(table::NAME_CREATED),
        row(RBAC, "v1", "clusterroles", "ClusterRole", "rbac.v1").cluster().columns(table::NAME_CREATED),
        row(RBAC, "v1", "rolebindings", "RoleBinding", "rbac.v1")
            .defaults(defaults::role_binding)
            .validates(validation::role_binding)
            .columns(table::ROLE_BINDING),
        row(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", "rbac.v1")
            .cluster()
            .defaults(defaults::role_binding)
            .validates(validation::role_binding)
            .columns(table::ROLE_BINDING),
        row("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "networking.v1")
            .short(&["netpol"])
            .generation()
            .defaults(defaults::network_policy)
            .columns(table::NETWORK_POLICY),
        row("networking.k8s.io", "v1", "ingresses", "Ingress", "networking.v1")
            .short(&["ing"])
            .status()
            .generation()
            .columns(table::INGRESS),
        row("networking.k8s.io", "v1", "ingressclasses", "IngressClass", "networking.v1")
            .cluster()
            .generation(),
        row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "policy.v1")
            .short(&["pdb"])
            .status()
            .generation()
            .columns(table::POD_DISRUPTION_BUDGET),
        row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "scheduling.v1")
            .cluster()
            .short(&["pc"])
            .generation(),
        row("storage.k8s.io", "v1", "storageclasses", "StorageClass", "storage.v1").cluster().short(&["sc"]),
        row("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", "authentication.v1")
            .cluster()
            .review(),
        row("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", "authentication.v1")
            .cluster()
            .review(),
        row(
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            "authorization.v1",
        )
        .cluster()
        .review(),
        row(
            "authorization.k8s.io",
            "v1",
            "selfsubjectrulesreviews",
            "SelfSubjectRulesReview",
            "authorization.v1",
        )
        .cluster()
        .review(),
        row("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", "authorization.v1")
            .cluster()
            .review(),
        row(
            "authorization.k8s.io",
            "v1",
            "localsubjectaccessreviews",
            "LocalSubjectAccessReview",
            "authorization.v1",
        )
        .review(),
    ];
    let mut crd =
        row("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", "");
    crd.schema = SchemaSource::Builtin(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition".into(),
    );
    rows.push(
        crd.cluster()
            .short(&["crd", "crds"])
            .status()
            .generation()
            .defaults(super::crd::default)
            .validates(super::crd::validate)
            .columns(table::NAME_CREATED),
    );
    for r in &mut rows {
        if r.is("events.k8s.io", "events") {
            r.storage = "core/events".into();
        }
        if r.kind == "Endpoints" {
            r.singular = "endpoints".into();
        }
    }
    rows
}
