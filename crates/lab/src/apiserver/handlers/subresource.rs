//! status, scale, binding, eviction, token, finalize and log.

use std::sync::Arc;

use http::{Method, Response};
use serde_json::{Value, json};

use super::{Body, Call, body, json_response, log, patch, read, write};
use crate::apiserver::error::{ApiError, ApiResult, FieldErrors};
use crate::apiserver::object::{at, int, list, text, uid};
use crate::apiserver::ops::{Part, Tracking};
use crate::apiserver::request::{DeleteOptions, Query, WriteOptions};
use crate::apiserver::resources::ScalePaths;
use crate::apiserver::selector::LabelSelector;
use crate::apiserver::{Api, crd};

/// A request for a subresource.
///
/// # Errors
/// 404 for subresources there are not, 405 for wrong methods, and those of the subresource.
pub async fn answer(api: Arc<Api>, call: Call, sub: &str) -> ApiResult<Response<Body>> {
    let method = call.method.clone();
    match sub {
        "status" if call.res.status => match method {
            Method::GET => read::get(&api, &call),
            Method::PUT => write::update(&api, &call, Part::Status),
            Method::PATCH => patch::answer(&api, &call, Part::Status),
            _ => Err(ApiError::method_not_allowed()),
        },
        "scale" => match call.res.scale.clone() {
            Some(paths) => scale(&api, &call, &paths),
            None => Err(ApiError::no_such_path()),
        },
        _ if !call.res.extra.iter().any(|(n, _)| n == sub) => Err(ApiError::no_such_path()),
        "log" if method == Method::GET => log::answer(api, call).await,
        "finalize" if method == Method::PUT => finalize(&api, &call),
        "binding" | "eviction" | "token" if method == Method::POST => {
            let (v, _) = body::parse(&call.body, &call.content_type)?;
            let options = WriteOptions::read(&call.query, &call.user_agent)?;
            match sub {
                "binding" => bind(&api, call.namespace(), call.name(), &v, &options),
                "eviction" => evict(&api, &call, &v),
                _ => token(&api, &call, &v),
            }
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Assigns a pod to a node, once.
///
/// # Errors
/// 400 without a target, 409 if the pod has a node or is going.
pub fn bind(
    api: &Api,
    namespace: &str,
    name: &str,
    binding: &Value,
    o: &WriteOptions,
) -> ApiResult<Response<Body>> {
    let node = text(binding, "target.name").to_string();
    if node.is_empty() {
        let mut errors = FieldErrors::default();
        errors.required("target.name", "");
        return Err(ApiError::invalid("", "Binding", name, errors.0));
    }
    let res = api.catalog.find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
    api.update(&res, (namespace, name), Part::Internal, o, |pod| {
        let held = text(pod, "spec.nodeName");
        if !held.is_empty() {
            let why = format!("pod {name} is already assigned to node \"{held}\"");
            return Err(ApiError::conflict("", "pods/binding", name, &why));
        }
        if at(pod, "metadata.deletionTimestamp").is_some() {
            let why = format!("pod {name} is being deleted, cannot be assigned to a host");
            return Err(ApiError::conflict("", "pods/binding", name, &why));
        }
        let mut pod = pod.clone();
        pod["spec"]["nodeName"] = node.as_str().into();
        let mut conditions: Vec<Value> = list(&pod, "status.conditions").to_vec();
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": crate::apiserver::object::now(),
        }));
        pod["status"]["conditions"] = conditions.into();
        Ok((pod, Tracking::Applied))
    })?;
    Ok(json_response(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Deletes a pod unless a disruption budget forbids it.
fn evict(api: &Api, call: &Call, eviction: &Value) -> ApiResult<Response<Body>> {
    let pod = api.get(&call.res, call.namespace(), call.name())?.value;
    let budgets =
        api.catalog.find("policy", "v1", "poddisruptionbudgets").ok_or_else(ApiError::no_such_path)?;
    let prefix = crate::apiserver::storage::prefix(&budgets.storage, call.namespace());
    for b in api.storage.list(&prefix, None, 0, 0)?.items {
        let empty = json!({});
        let selector = LabelSelector::from_object(at(&b.value, "spec.selector").unwrap_or(&empty));
        if selector.matches(&pod) && int(&b.value, "status.disruptionsAllowed").unwrap_or(0) < 1 {
            return Err(ApiError::new(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
            ));
        }
    }
    let body = eviction.get("deleteOptions").cloned().unwrap_or(json!({}));
    let options = DeleteOptions::read(body.to_string().as_bytes(), &Query::default())?;
    api.delete(&call.res, call.namespace(), call.name(), &options)?;
    Ok(json_response(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Issues a token for a service account (TokenRequest).
fn token(api: &Api, call: &Call, request: &Value) -> ApiResult<Response<Body>> {
    let account = api.get(&call.res, call.namespace(), call.name())?.value;
    let seconds = int(request, "spec.expirationSeconds").unwrap_or(3600);
    if seconds < 600 {
        let mut errors = FieldErrors::default();
        errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
        return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", call.name(), errors.0));
    }
    let mut bound = request["spec"]["boundObjectRef"].clone();
    if bound["kind"] == "Pod" {
        let pods = api.catalog.find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
        let pod = api.get(&pods, call.namespace(), text(&bound, "name"))?.value;
        bound["uid"] = uid(&pod).into();
    }
    let (token, expires) = api.issue_token(&account, &request["spec"]["audiences"], seconds, &bound);
    let expires = jiff::Timestamp::from_second(expires).map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let mut v = request.clone();
    v["apiVersion"] = "authentication.k8s.io/v1".into();
    v["kind"] = "TokenRequest".into();
    v["metadata"] = json!({"name": call.name(), "namespace": call.namespace(), "creationTimestamp": crate::apiserver::object::now()});
    v["spec"]["expirationSeconds"] = seconds.into();
    v["status"] = json!({"token": token, "expirationTimestamp": expires.unwrap_or_default()});
    Ok(json_response(201, &v))
}

/// Replaces a namespace's finalizers.
fn finalize(api: &Api, call: &Call) -> ApiResult<Response<Body>> {
    let (v, _) = body::parse(&call.body, &call.content_type)?;
    let options = WriteOptions::read(&call.query, &call.user_agent)?;
    let finalizers = list(&v, "spec.finalizers").to_vec();
    let done = api.update(&call.res, ("", call.name()), Part::Internal, &options, |current| {
        let mut ns = current.clone();
        ns["spec"]["finalizers"] = finalizers.clone().into();
        Ok((ns, Tracking::Applied))
    })?;
    Ok(json_response(200, &done))
}

/// The scale subresource: a view of replicas and selector, and the writing of replicas through it.
fn scale(api: &Api, call: &Call, paths: &ScalePaths) -> ApiResult<Response<Body>> {
    if call.method == Method::GET {
        let v = api.get(&call.res, call.namespace(), call.name())?.value;
        return Ok(json_response(200, &scale_of(&v, paths)));
    }
    let options = WriteOptions::read(&call.query, &call.user_agent)?;
    let updated =
        api.update(&call.res, (call.namespace(), call.name()), Part::Scale, &options, |current| {
            let present = scale_of(current, paths);
            let wanted = match call.method {
                Method::PUT => body::parse(&call.body, &call.content_type)?.0,
                Method::PATCH => patch::untyped(&present, &call.body, &call.content_type)?,
                _ => return Err(ApiError::method_not_allowed()),
            };
            let replicas = int(&wanted, "spec.replicas").unwrap_or(0);
            if replicas < 0 {
                let mut errors = FieldErrors::default();
                errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
                return Err(ApiError::invalid("autoscaling", "Scale", call.name(), errors.0));
            }
            let mut v = current.clone();
            let asked = text(&wanted, "metadata.resourceVersion");
            v["metadata"]["resourceVersion"] =
                if call.method == Method::PUT { asked.into() } else { "".into() };
            crd::set_path(&mut v, &paths.spec, replicas.into());
            Ok((v, Tracking::Update))
        })?;
    Ok(json_response(200, &scale_of(&updated, paths)))
}

fn scale_of(v: &Value, paths: &ScalePaths) -> Value {
    let selector = match paths.selector.as_deref().and_then(|p| at(v, p)) {
        Some(Value::String(s)) => s.clone(),
        Some(o @ Value::Object(m)) if m.contains_key("matchLabels") || m.contains_key("matchExpressions") => {
            crate::apiserver::table::selector_string(o)
        }
        Some(Value::Object(m)) => {
            m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    };
    let meta = &v["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"], "creationTimestamp": meta["creationTimestamp"],
        },
        "spec": {"replicas": int(v, &paths.spec).unwrap_or(0)},
        "status": {"replicas": int(v, &paths.status).unwrap_or(0), "selector": selector},
    })
}
