//! create and update.

use http::Response;

use super::{Body, Call, body, json_response, with_warnings};
use crate::apiserver::Api;
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::object::text;
use crate::apiserver::ops::{Part, Tracking};
use crate::apiserver::request::WriteOptions;

/// POST to a collection.
///
/// # Errors
/// 400, 404, 409, 422.
pub fn create(api: &Api, call: &Call) -> ApiResult<Response<Body>> {
    let options = WriteOptions::read(&call.query, &call.user_agent)?;
    let decoded = body::object(&call.res, &call.body, &call.content_type, &options)?;
    let own = text(&decoded.object, "metadata.namespace");
    let namespace = match (call.res.namespaced, call.namespace()) {
        (false, _) => "",
        // POST to the collection of all namespaces is not a thing in Kubernetes.
        (true, "") => return Err(ApiError::bad_request("an empty namespace may not be set during creation")),
        (true, ns) if own.is_empty() || own == ns => ns,
        (true, ns) => {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({own}, {ns})"
            )));
        }
    };
    let created = api.create(&call.res, namespace, decoded.object, &options)?;
    let shown = crate::apiserver::ops::view(&call.res, created);
    Ok(with_warnings(json_response(201, &call.form().object(&call.res, shown)), &decoded.warnings))
}

/// PUT of an object.
///
/// # Errors
/// 400, 404, 409, 422.
pub fn update(api: &Api, call: &Call, part: Part) -> ApiResult<Response<Body>> {
    let options = WriteOptions::read(&call.query, &call.user_agent)?;
    let decoded = body::object(&call.res, &call.body, &call.content_type, &options)?;
    let name = text(&decoded.object, "metadata.name");
    if name != call.name() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    let own = text(&decoded.object, "metadata.namespace");
    if !own.is_empty() && own != call.namespace() {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({own}, {})",
            call.namespace()
        )));
    }
    let updated = api.update(&call.res, (call.namespace(), call.name()), part, &options, |_| {
        Ok((decoded.object.clone(), Tracking::Update))
    })?;
    let shown = crate::apiserver::ops::view(&call.res, updated);
    Ok(with_warnings(json_response(200, &call.form().object(&call.res, shown)), &decoded.warnings))
}
