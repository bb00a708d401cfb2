//! get and list.

use base64::Engine;
use http::Response;
use serde_json::{Value, json};

use super::{Body, Call, json_response};
use crate::apiserver::Api;
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::ops::view;
use crate::apiserver::resources::Resource;
use crate::apiserver::selector::{FieldSelector, LabelSelector};
use crate::apiserver::storage;

/// Label and field selectors of a request.
#[derive(Debug, Default)]
pub struct Selectors {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selectors {
    /// Reads them; a name in the path counts as a field selector.
    ///
    /// # Errors
    /// 400 for selectors that do not parse or name unsupported fields.
    pub fn of(call: &Call) -> ApiResult<Self> {
        let mut fields = call.query.get("fieldSelector").to_string();
        if let Some(name) = &call.target.name {
            fields = format!("{fields},metadata.name={name}");
        }
        Ok(Selectors {
            labels: LabelSelector::parse(call.query.get("labelSelector"))?,
            fields: FieldSelector::parse(&fields, Some(&call.res.fields))?,
        })
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }

    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// GET of one object.
///
/// # Errors
/// 404.
pub fn get(api: &Api, call: &Call) -> ApiResult<Response<Body>> {
    let stored = api.get(&call.res, call.namespace(), call.name())?;
    Ok(json_response(200, &call.form().object(&call.res, view(&call.res, stored.value))))
}

/// The objects of a resource that are selected, as of now, with the revision.
///
/// # Errors
/// If the store fails.
pub fn selected(
    api: &Api,
    res: &Resource,
    namespace: &str,
    selectors: &Selectors,
) -> ApiResult<(Vec<Value>, i64)> {
    let page = api.storage.list(&storage::prefix(&res.storage, namespace), None, 0, 0)?;
    let items = page.items.into_iter().map(|s| view(res, s.value)).filter(|v| selectors.matches(v)).collect();
    Ok((items, page.revision))
}

/// GET of a list, whole or in parts.
///
/// # Errors
/// 400 for bad parameters, 410 for an expired continue token.
pub fn list(api: &Api, call: &Call) -> ApiResult<Response<Body>> {
    let selectors = Selectors::of(call)?;
    let limit = call.query.number("limit")?.unwrap_or(0).max(0);
    let prefix = storage::prefix(&call.res.storage, call.namespace());
    let (mut revision, mut start) = match call.query.get("continue") {
        "" => (exact_revision(call)?, None),
        token => {
            let (revision, key) = read_token(token, &prefix)?;
            (revision, Some(key))
        }
    };
    let mut items = Vec::new();
    // With selectors a page may have to look at more keys than it returns.
    let (token, remaining) = loop {
        let want = if limit > 0 { limit - items.len() as i64 } else { 0 };
        let page = api.storage.list(&prefix, start.as_deref(), want, revision)?;
        revision = page.revision;
        let last = page.items.last().map(|s| s.key.clone());
        items.extend(
            page.items.into_iter().map(|s| view(&call.res, s.value)).filter(|v| selectors.matches(v)),
        );
        match last.filter(|_| page.remaining > 0) {
            None => break (None, 0),
            Some(last) => {
                let next = format!("{last}\0");
                if limit > 0 && items.len() as i64 >= limit {
                    break (Some(make_token(revision, &next, &prefix)), page.remaining);
                }
                start = Some(next);
            }
        }
    };
    let mut meta = json!({"resourceVersion": revision.to_string()});
    if let Some(token) = token {
        meta["continue"] = token.into();
        if selectors.is_empty() {
            meta["remainingItemCount"] = remaining.into();
        }
    }
    Ok(json_response(200, &call.form().list(&call.res, items, meta)))
}

fn exact_revision(call: &Call) -> ApiResult<i64> {
    let asked = call.query.number("resourceVersion")?.unwrap_or(0);
    match call.query.get("resourceVersionMatch") {
        "Exact" if asked > 0 => Ok(asked),
        "" | "Exact" | "NotOlderThan" => Ok(0),
        other => Err(ApiError::bad_request(format!("resourceVersionMatch: Unsupported value: {other:?}"))),
    }
}

fn make_token(revision: i64, key: &str, prefix: &str) -> String {
    let start = key.strip_prefix(prefix).unwrap_or(key);
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str, prefix: &str) -> ApiResult<(i64, String)> {
    let bad = || ApiError::bad_request("continue key is not valid");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
    let v: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    match (v["rv"].as_i64(), v["start"].as_str()) {
        (Some(revision), Some(start)) if revision > 0 => Ok((revision, format!("{prefix}{start}"))),
        _ => Err(bad()),
    }
}
