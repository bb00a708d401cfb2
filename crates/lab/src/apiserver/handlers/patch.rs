//! PATCH in its four forms.

use http::Response;
use serde_json::{Value, json};

use super::{Body, Call, body, json_response, with_warnings};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::object::{metadata, text};
use crate::apiserver::ops::{Part, Tracking, view};
use crate::apiserver::patch::{json_patch, merge_patch, strategic::strategic_merge};
use crate::apiserver::request::WriteOptions;
use crate::apiserver::{Api, apply};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Applies a JSON or merge patch to something that has no schema here (the scale subresource).
///
/// # Errors
/// 400, 415, 422.
pub fn untyped(present: &Value, patch: &[u8], content_type: &str) -> ApiResult<Value> {
    let mut v = present.clone();
    match content_type {
        JSON => json_patch(&mut v, patch)?,
        MERGE | STRATEGIC | APPLY => merge_patch(&mut v, &body::parse(patch, "application/yaml")?.0),
        other => return Err(ApiError::unsupported_media_type(other, &[JSON, MERGE, STRATEGIC].join(", "))),
    }
    Ok(v)
}

/// PATCH of an object or its status.
///
/// # Errors
/// 400, 404, 409, 415, 422.
pub fn answer(api: &Api, call: &Call, part: Part) -> ApiResult<Response<Body>> {
    let options = WriteOptions::read(&call.query, &call.user_agent)?;
    if call.content_type == APPLY {
        return server_side_apply(api, call, part, &options);
    }
    let mut warnings = Vec::new();
    let custom = call.res.schema.is_custom();
    let merge = match call.content_type.as_str() {
        JSON => Value::Null,
        MERGE => body::parse(&call.body, "application/json")?.0,
        STRATEGIC if !custom => body::parse(&call.body, "application/json")?.0,
        other => {
            let mut all = vec![JSON, MERGE, APPLY];
            if !custom {
                all.push(STRATEGIC);
            }
            return Err(ApiError::unsupported_media_type(other, &all.join(", ")));
        }
    };
    let done = api.update(&call.res, (call.namespace(), call.name()), part, &options, |current| {
        let mut v = current.clone();
        // Only a resourceVersion in the patch itself makes the patch conditional.
        metadata(&mut v).remove("resourceVersion");
        match call.content_type.as_str() {
            JSON => {
                // A test operation may look at the present resourceVersion.
                v["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
                json_patch(&mut v, &call.body)?;
                if v["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"] {
                    metadata(&mut v).remove("resourceVersion");
                }
            }
            MERGE => merge_patch(&mut v, &merge),
            _ => strategic_merge(&mut v, &merge, call.res.schema.root())?,
        }
        for field in ["name", "namespace"] {
            if v["metadata"][field] != current["metadata"][field] {
                return Err(ApiError::bad_request(format!("a patch may not change metadata.{field}")));
            }
        }
        let decoded = body::checked(&call.res, v, Vec::new(), &options)?;
        warnings = decoded.warnings;
        Ok((decoded.object, Tracking::Update))
    })?;
    Ok(with_warnings(json_response(200, &call.form().object(&call.res, view(&call.res, done))), &warnings))
}

fn server_side_apply(
    api: &Api,
    call: &Call,
    part: Part,
    options: &WriteOptions,
) -> ApiResult<Response<Body>> {
    if call.query.get("fieldManager").is_empty() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let decoded = body::object(&call.res, &call.body, "application/apply-patch+yaml", options)?;
    let mut wanted = decoded.object;
    for field in ["apiVersion", "kind"] {
        if text(&wanted, field).is_empty() {
            return Err(ApiError::bad_request(format!("an apply configuration must have {field}")));
        }
    }
    if wanted["metadata"].get("managedFields").is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let named = text(&wanted, "metadata.name");
    if !named.is_empty() && named != call.name() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    metadata(&mut wanted).insert("name".into(), call.name().into());
    if call.res.namespaced {
        metadata(&mut wanted).insert("namespace".into(), call.namespace().into());
    }
    let schema = call.res.schema.root();
    let respond = |code, v| {
        with_warnings(
            json_response(code, &call.form().object(&call.res, view(&call.res, v))),
            &decoded.warnings,
        )
    };
    for _ in 0..8 {
        let updated = api.update(&call.res, (call.namespace(), call.name()), part, options, |current| {
            let v = apply::apply(Some(current), &wanted, schema, &applier(call, options, part))
                .map_err(|c| conflict_error(call, &c))?;
            Ok((v, Tracking::Applied))
        });
        match updated {
            Ok(v) => return Ok(respond(200, v)),
            Err(e) if e.code == 404 && e.reason == "NotFound" && part == Part::Main => {}
            Err(e) => return Err(e),
        }
        if !text(&wanted, "metadata.uid").is_empty() || !text(&wanted, "metadata.resourceVersion").is_empty()
        {
            return Err(ApiError::not_found(&call.res.group, &call.res.plural, call.name()));
        }
        let fresh = apply::apply(None, &wanted, schema, &applier(call, options, part))
            .map_err(|c| conflict_error(call, &c))?;
        match api.create(&call.res, call.namespace(), fresh, options) {
            Ok(v) => return Ok(respond(201, v)),
            // Somebody created it meanwhile: apply to that.
            Err(e) if e.reason == "AlreadyExists" => continue,
            Err(e) => return Err(e),
        }
    }
    Err(ApiError::conflict(&call.res.group, &call.res.plural, call.name(), "too many concurrent changes"))
}

fn applier(call: &Call, options: &WriteOptions, part: Part) -> apply::Applier {
    apply::Applier {
        manager: options.field_manager.clone(),
        force: options.force,
        api_version: call.res.api_version(),
        subresource: part.subresource().to_string(),
    }
}

fn conflict_error(call: &Call, conflicts: &[apply::Conflict]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.with), "field": c.field}))
        .collect();
    let lines: Vec<String> =
        conflicts.iter().map(|c| format!("conflict with {}: {}", c.with, c.field)).collect();
    let message = match lines.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {one}"),
        many => {
            let plain: Vec<String> =
                conflicts.iter().map(|c| format!("- {} ({})", c.field, c.with)).collect();
            format!(
                "Apply failed with {} conflicts: conflicts with {}:\n{}",
                many.len(),
                conflicts[0].with,
                plain.join("\n")
            )
        }
    };
    let mut e = ApiError::new(409, "Conflict", message);
    e.details =
        json!({"name": call.name(), "group": call.res.group, "kind": call.res.plural, "causes": causes});
    e
}
