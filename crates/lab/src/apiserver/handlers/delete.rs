//! delete and deletecollection.

use http::Response;
use serde_json::json;

use super::read::{Selectors, selected};
use super::{Body, Call, json_response, success};
use crate::apiserver::Api;
use crate::apiserver::error::ApiResult;
use crate::apiserver::object::{name, namespace};
use crate::apiserver::ops::Deleted;
use crate::apiserver::request::DeleteOptions;

/// DELETE of an object: `Status: Success` when it is gone, the object when it still has to go.
///
/// # Errors
/// 404, 409.
pub fn one(api: &Api, call: &Call) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::read(&call.body, &call.query)?;
    match api.delete(&call.res, call.namespace(), call.name(), &options)? {
        Deleted::Gone(object) => Ok(json_response(200, &success(&call.res, &object))),
        Deleted::Marked(object) => Ok(json_response(200, &call.form().object(&call.res, object))),
    }
}

/// DELETE of a collection: the list of what was deleted.
///
/// # Errors
/// 400 for bad selectors; objects that vanish meanwhile do not matter.
pub fn collection(api: &Api, call: &Call) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::read(&call.body, &call.query)?;
    let (items, revision) = selected(api, &call.res, call.namespace(), &Selectors::of(call)?)?;
    let mut deleted = Vec::new();
    for item in items {
        match api.delete(&call.res, namespace(&item), name(&item), &options) {
            Ok(_) => deleted.push(item),
            Err(e) if e.code == 404 => {}
            Err(e) => return Err(e),
        }
    }
    let meta = json!({"resourceVersion": revision.to_string()});
    Ok(json_response(200, &call.form().list(&call.res, deleted, meta)))
}
