//! Requests that are answered, not stored: token and access reviews, and bindings by POST to `bindings`.

use http::Response;
use serde_json::{Value, json};

use super::{Body, Call, body, json_response, subresource};
use crate::apiserver::Api;
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::object::text;
use crate::apiserver::request::WriteOptions;

/// POST of a review.
///
/// # Errors
/// 400, 405.
pub fn answer(api: &Api, call: &Call) -> ApiResult<Response<Body>> {
    if call.method != http::Method::POST || call.target.name.is_some() {
        return Err(ApiError::method_not_allowed());
    }
    let options = WriteOptions::read(&call.query, &call.user_agent)?;
    let mut v = body::object(&call.res, &call.body, &call.content_type, &options)?.object;
    v["apiVersion"] = call.res.api_version().into();
    v["kind"] = call.res.kind.as_str().into();
    if v.get("metadata").is_none() {
        v["metadata"] = json!({});
    }
    v["status"] = match call.res.kind.as_str() {
        "TokenReview" => token(api, &v),
        "SelfSubjectReview" => json!({"userInfo": call.user.info()}),
        // Every authenticated user of a lab may do everything.
        "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            json!({"allowed": true, "reason": "every authenticated user of a lab cluster is authorised"})
        }
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": false,
        }),
        "Binding" => {
            let pod = text(&v, "metadata.name").to_string();
            return subresource::bind(api, call.namespace(), &pod, &v, &options);
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(json_response(201, &v))
}

fn token(api: &Api, review: &Value) -> Value {
    match api.authenticate_token(text(review, "spec.token")) {
        Some(user) => {
            let audiences = match &review["spec"]["audiences"] {
                Value::Null => json!([crate::apiserver::tokens::ISSUER]),
                given => given.clone(),
            };
            json!({"authenticated": true, "user": user.info(), "audiences": audiences})
        }
        None => json!({"authenticated": false, "user": {}, "error": "[invalid bearer token]"}),
    }
}
