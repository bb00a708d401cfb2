//! CustomResourceDefinitions: what they must be, the rows they add to the catalogue, and the clean-up when one goes.

mod path;
mod schema;

use std::sync::Arc;

use serde_json::{Map, Value, json};

pub use path::{json_path, set_path};

use super::error::{ApiResult, FieldErrors};
use super::object::{
    default as fill, default_text, each, is_terminating, list, name, namespace, now, object, text,
};
use super::ops::{Part, Tracking};
use super::request::DeleteOptions;
use super::resources::{Resource, ScalePaths};
use super::schema::SchemaSource;
use super::schema::check::Findings;
use super::table::{Columns, PrinterColumn};
use super::{Api, bootstrap, discovery, storage};

/// Where definitions are stored.
pub const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Defaults of a definition.
pub fn default(v: &mut Value) {
    let spec = object(v, "spec");
    let names = spec.entry("names").or_insert_with(|| json!({}));
    let kind = text(names, "kind").to_string();
    default_text(names, "singular", &kind.to_lowercase());
    default_text(names, "listKind", &format!("{kind}List"));
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    for version in each(&mut v["spec"], "versions") {
        for column in each(version, "additionalPrinterColumns") {
            if column.get("priority") == Some(&json!(0)) {
                column.as_object_mut().map(|m| m.remove("priority"));
            }
        }
        fill(version, "served", false);
        fill(version, "storage", false);
    }
}

/// Checks a definition.
pub fn validate(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (group, plural) = (text(v, "spec.group"), text(v, "spec.names.plural"));
    for (field, value) in [
        ("spec.group", group),
        ("spec.names.plural", plural),
        ("spec.names.kind", text(v, "spec.names.kind")),
    ] {
        if value.is_empty() {
            errors.required(field, "");
        }
    }
    let wanted = format!("{plural}.{group}");
    if name(v) != wanted {
        errors.invalid("metadata.name", name(v), "must be spec.names.plural+\".\"+spec.group");
    }
    if !matches!(text(v, "spec.scope"), "Namespaced" | "Cluster") {
        errors.unsupported("spec.scope", text(v, "spec.scope"), &["Cluster", "Namespaced"]);
    }
    let versions = list(v, "spec.versions");
    if versions.iter().filter(|x| x["storage"] == true).count() != 1 {
        errors.invalid(
            "spec.versions",
            json!(versions.iter().map(|x| text(x, "name")).collect::<Vec<_>>()),
            "must have exactly one version marked as storage version",
        );
    }
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        if text(version, "name").is_empty() {
            errors.required(format!("{path}.name"), "");
        }
        match version.get("schema").and_then(|s| s.get("openAPIV3Schema")) {
            None => errors.required(format!("{path}.schema.openAPIV3Schema"), "schemas are required"),
            Some(s) if s["type"] != "object" => {
                errors.invalid(
                    format!("{path}.schema.openAPIV3Schema.type"),
                    s["type"].clone(),
                    "must be object at the root",
                );
            }
            Some(s) => schema::structural(s, &format!("{path}.schema.openAPIV3Schema"), errors),
        }
    }
    if let Some(old) = old {
        for field in ["spec.group", "spec.scope", "spec.names.plural", "spec.names.kind"] {
            super::validation::meta::immutable(old, v, field, errors);
        }
    }
}

/// Fills in the status a definition has once it is accepted, which here is at once.
pub fn establish(v: &mut Value, old: Option<&Value>) {
    let names = v["spec"]["names"].clone();
    let storing: Vec<Value> =
        list(v, "spec.versions").iter().filter(|x| x["storage"] == true).map(|x| x["name"].clone()).collect();
    let mut stored: Vec<Value> = old.map(|o| list(o, "status.storedVersions").to_vec()).unwrap_or_default();
    for s in storing {
        if !stored.contains(&s) {
            stored.push(s);
        }
    }
    let status = object(v, "status");
    status.insert("acceptedNames".into(), names);
    status.insert("storedVersions".into(), stored.into());
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if conditions.as_array().is_none_or(Vec::is_empty) {
        let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()});
        *conditions = json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]);
    }
    let terminating = is_terminating(v);
    let meta = super::object::metadata(v);
    let finalizers = meta.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !terminating
        && !list.iter().any(|f| f == CLEANUP)
    {
        list.push(CLEANUP.into());
    }
}

/// Notes that a definition is going.
pub fn mark_terminating(v: &mut Value) {
    let mut conditions: Vec<Value> = list(v, "status.conditions").to_vec();
    if conditions.iter().any(|c| c["type"] == "Terminating") {
        return;
    }
    conditions.push(json!({
        "type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        "lastTransitionTime": now(),
    }));
    v["status"]["conditions"] = conditions.into();
}

/// Deletes a terminating definition's objects and, when none is left, lets it go.
///
/// # Errors
/// If the store fails.
pub fn cleanup(api: &Api, v: &Value) -> ApiResult<()> {
    let (group, plural) = (text(v, "spec.group"), text(v, "spec.names.plural"));
    let own = format!("{group}/{plural}");
    if let Some(res) = api.catalog.stored().into_iter().find(|r| r.storage == own) {
        for item in api.storage.list(&storage::prefix(&own, ""), None, 0, 0)?.items {
            if !is_terminating(&item.value) {
                match api.delete(&res, namespace(&item.value), name(&item.value), &DeleteOptions::default()) {
                    Err(e) if e.code != 404 => return Err(e),
                    _ => {}
                }
            }
        }
    }
    if !api.storage.list(&storage::prefix(&own, ""), None, 1, 0)?.items.is_empty() {
        return Ok(());
    }
    let Some(definitions) = api.catalog.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    else {
        return Ok(());
    };
    let writer = bootstrap::own_writes("kube-apiserver");
    api.update(&definitions, ("", name(v)), Part::Internal, &writer, |current| {
        let mut v = current.clone();
        let rest: Vec<Value> =
            list(&v, "metadata.finalizers").iter().filter(|f| *f != CLEANUP).cloned().collect();
        super::object::metadata(&mut v).insert("finalizers".into(), rest.into());
        Ok((v, Tracking::Applied))
    })
    .map(|_| ())
}

/// Reads all definitions into the catalogue.
///
/// # Errors
/// If the store fails.
pub fn reload(api: &Api) -> ApiResult<()> {
    let _one_at_a_time = api.serial.lock().unwrap_or_else(|e| e.into_inner());
    let page = api.storage.list(&storage::prefix(STORAGE, ""), None, 0, 0)?;
    let mut gone: Vec<(String, String)> = api
        .catalog
        .all()
        .into_iter()
        .filter(|r| r.schema.is_custom())
        .map(|r| (r.group.clone(), r.plural.clone()))
        .collect();
    for item in &page.items {
        let of =
            (text(&item.value, "spec.group").to_string(), text(&item.value, "spec.names.plural").to_string());
        api.catalog.replace_custom(&of.0, &of.1, rows(&item.value));
        gone.retain(|g| *g != of);
    }
    for (group, plural) in gone {
        api.catalog.replace_custom(&group, &plural, Vec::new());
    }
    Ok(())
}

fn rows(v: &Value) -> Vec<Resource> {
    let strings =
        |p: &str| -> Vec<String> { list(v, p).iter().filter_map(Value::as_str).map(String::from).collect() };
    let (group, plural) = (text(v, "spec.group").to_string(), text(v, "spec.names.plural").to_string());
    let mut versions: Vec<&Value> = list(v, "spec.versions").iter().filter(|x| x["served"] == true).collect();
    versions.sort_by_key(|x| discovery::version_rank(text(x, "name")));
    versions
        .into_iter()
        .map(|version| {
            let subresources = &version["subresources"];
            let scale = subresources.get("scale").map(|s| ScalePaths {
                spec: text(s, "specReplicasPath").trim_start_matches('.').into(),
                status: text(s, "statusReplicasPath").trim_start_matches('.').into(),
                selector: s["labelSelectorPath"].as_str().map(|p| p.trim_start_matches('.').to_string()),
            });
            let fields = list(version, "selectableFields")
                .iter()
                .map(|f| text(f, "jsonPath").trim_start_matches('.').to_string())
                .collect();
            Resource {
                group: group.clone(),
                version: text(version, "name").into(),
                plural: plural.clone(),
                singular: text(v, "spec.names.singular").into(),
                kind: text(v, "spec.names.kind").into(),
                short: strings("spec.names.shortNames"),
                categories: strings("spec.names.categories"),
                namespaced: text(v, "spec.scope") == "Namespaced",
                create_only: false,
                status: subresources.get("status").is_some(),
                scale,
                extra: Vec::new(),
                storage: format!("{group}/{plural}"),
                schema: SchemaSource::Custom(Arc::new(root_schema(version))),
                fields,
                generation: true,
                default: |_| {},
                validate: |_, _, _| {},
                columns: Columns::Custom(columns(version)),
            }
        })
        .collect()
}

fn columns(version: &Value) -> Vec<PrinterColumn> {
    list(version, "additionalPrinterColumns")
        .iter()
        .map(|c| PrinterColumn {
            name: text(c, "name").into(),
            kind: text(c, "type").into(),
            format: text(c, "format").into(),
            priority: c["priority"].as_i64().unwrap_or(0),
            path: text(c, "jsonPath").into(),
            description: text(c, "description").into(),
        })
        .collect()
}

/// The version's schema, with what every object has.
fn root_schema(version: &Value) -> Value {
    let mut schema = version["schema"]["openAPIV3Schema"].clone();
    let properties = object(&mut schema, "properties");
    let own: Map<String, Value> = [
        ("apiVersion", json!({"type": "string"})),
        ("kind", json!({"type": "string"})),
        ("metadata", json!({"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"})),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v))
    .collect();
    properties.extend(own);
    schema["type"] = "object".into();
    schema
}

/// Defaults of a custom object; nothing for built-in kinds.
pub fn default_custom(res: &Resource, v: &mut Value) {
    if let SchemaSource::Custom(s) = &res.schema {
        schema::fill_defaults(v, s);
    }
}

/// Drops what the schema of a custom object does not know.
pub fn prune_custom(res: &Resource, v: &mut Value, found: &mut Findings) {
    if let SchemaSource::Custom(s) = &res.schema {
        schema::prune(v, s, "", true, found);
        if let Some(meta) = v.get_mut("metadata") {
            let shape = super::schema::Schema::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
            super::schema::check::conform(meta, shape, "metadata", found);
        }
    }
}

/// Checks a custom object against its schema; nothing for built-in kinds.
pub fn validate_custom(res: &Resource, v: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
    if let SchemaSource::Custom(s) = &res.schema {
        for (key, child) in v.as_object().into_iter().flatten() {
            if !matches!(key.as_str(), "metadata" | "apiVersion" | "kind")
                && let Some(shape) = s["properties"].get(key)
            {
                schema::check(child, shape, key, errors);
            }
        }
        for required in list(s, "required").iter().filter_map(Value::as_str) {
            if v.get(required).is_none() {
                errors.required(required, "");
            }
        }
    }
}
