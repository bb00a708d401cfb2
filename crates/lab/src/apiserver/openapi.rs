//! OpenAPI documents, as far as clients use them: schemas with the merge extensions, and for each resource the paths
//! with a PATCH that takes `fieldValidation`, by which kubectl sees that the server validates.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value, json};
use sha2::Digest;

use super::Api;
use super::error::{ApiError, ApiResult};
use super::handlers::{Body, bytes_response, json_response};
use super::resources::Resource;
use super::schema::{SchemaSource, definitions};

/// Answers `/openapi/v2`, `/openapi/v3` and `/openapi/v3/<group version>`.
///
/// # Errors
/// 404 elsewhere, 406 for clients that take nothing but protobuf.
pub fn answer(api: &Api, path: &str, accept: &str) -> ApiResult<Response<Body>> {
    match path.trim_end_matches('/') {
        "/openapi/v2" => {
            if !accept.is_empty() && !accept.contains("json") && !accept.contains("*/*") {
                return Err(ApiError::new(406, "NotAcceptable", "only JSON is served: application/json"));
            }
            Ok(json_response(200, &v2(api)))
        }
        "/openapi/v3" => {
            let paths: Map<String, Value> = group_versions(api)
                .into_iter()
                .map(|(p, rows)| {
                    let hash = sha2::Sha256::digest(document(&rows).to_string());
                    let hash: String = hash.iter().map(|b| format!("{b:02X}")).collect();
                    let url = format!("/openapi/v3/{p}?hash={hash}");
                    (p, json!({"serverRelativeURL": url}))
                })
                .collect();
            Ok(json_response(200, &json!({"paths": paths})))
        }
        p => {
            let wanted = p.strip_prefix("/openapi/v3/").ok_or_else(ApiError::no_such_path)?;
            let rows = group_versions(api).remove(wanted).ok_or_else(ApiError::no_such_path)?;
            Ok(bytes_response(200, "application/json", Bytes::from(document(&rows).to_string())))
        }
    }
}

fn base(r: &Resource) -> String {
    if r.group.is_empty() { format!("api/{}", r.version) } else { format!("apis/{}/{}", r.group, r.version) }
}

fn group_versions(api: &Api) -> BTreeMap<String, Vec<std::sync::Arc<Resource>>> {
    let mut out: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for r in api.catalog.all() {
        out.entry(base(&r)).or_default().push(r);
    }
    out
}

fn definition_name(r: &Resource) -> String {
    match &r.schema {
        SchemaSource::Builtin(name) => name.clone(),
        SchemaSource::Custom(_) => {
            let reversed: Vec<&str> = r.group.split('.').rev().collect();
            format!("{}.{}.{}", reversed.join("."), r.version, r.kind)
        }
    }
}

fn document(rows: &[std::sync::Arc<Resource>]) -> Value {
    let (mut schemas, mut paths) = (Map::new(), Map::new());
    for r in rows {
        let name = definition_name(r);
        match &r.schema {
            SchemaSource::Builtin(n) => collect(n, &mut schemas),
            SchemaSource::Custom(v) => {
                let mut schema = (**v).clone();
                schema["x-kubernetes-group-version-kind"] =
                    json!([{"group": r.group, "version": r.version, "kind": r.kind}]);
                schemas.insert(name.clone(), schema);
                collect("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &mut schemas);
            }
        }
        paths.extend(paths_of(r, &json!({"$ref": format!("#/components/schemas/{name}")})));
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0+causeway"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

fn collect(name: &str, into: &mut Map<String, Value>) {
    if into.contains_key(name) {
        return;
    }
    let Some(v) = definitions().get(name) else { return };
    into.insert(name.to_string(), v.clone());
    let mut refs = BTreeSet::new();
    find_refs(v, &mut refs);
    for r in refs {
        collect(&r, into);
    }
}

fn find_refs(v: &Value, out: &mut BTreeSet<String>) {
    match v {
        Value::Object(m) => {
            for (k, x) in m {
                match x.as_str().filter(|_| k == "$ref") {
                    Some(r) => {
                        out.insert(r.rsplit('/').next().unwrap_or("").to_string());
                    }
                    None => find_refs(x, out),
                }
            }
        }
        Value::Array(a) => a.iter().for_each(|x| find_refs(x, out)),
        _ => {}
    }
}

fn paths_of(r: &Resource, schema: &Value) -> Map<String, Value> {
    let gvk = json!({"group": r.group, "version": r.version, "kind": r.kind});
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "force", "pretty"]
        .iter()
        .map(|n| json!({"name": n, "in": "query", "schema": {"type": if *n == "force" { "boolean" } else { "string" }, "uniqueItems": true}}))
        .collect();
    let content = json!({"application/json": {"schema": schema}});
    let op = |action: &str, body: bool| {
        let mut op = json!({
            "responses": {"200": {"description": "OK", "content": content}},
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk, "parameters": parameters,
        });
        if body {
            op["requestBody"] = json!({"content": content});
        }
        op
    };
    let prefix = if r.namespaced { "namespaces/{namespace}/" } else { "" };
    let collection = format!("/{}/{prefix}{}", base(r), r.plural);
    let mut out = Map::new();
    let path_parameters: Vec<Value> = ["namespace", "name"]
        .iter()
        .filter(|n| r.namespaced || **n == "name")
        .map(|n| json!({"name": n, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    if r.create_only {
        out.insert(collection, json!({"post": op("post", true)}));
        return out;
    }
    out.insert(collection.clone(), json!({"get": op("list", false), "post": op("post", true)}));
    out.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": op("get", false), "put": op("put", true), "patch": op("patch", true), "delete": op("delete", false),
            "parameters": path_parameters,
        }),
    );
    out
}

/// The same in the older format, JSON only.
fn v2(api: &Api) -> Value {
    let text = |v: Value| -> Value {
        let text = v.to_string().replace("#/components/schemas/", "#/definitions/");
        serde_json::from_str(&text).unwrap_or_default()
    };
    let (mut schemas, mut paths) = (Map::new(), Map::new());
    for rows in group_versions(api).values() {
        let doc = text(document(rows));
        for (from, into) in [(&doc["components"]["schemas"], &mut schemas), (&doc["paths"], &mut paths)] {
            into.extend(from.as_object().cloned().unwrap_or_default());
        }
    }
    json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0+causeway"},
        "paths": paths, "definitions": schemas,
    })
}
