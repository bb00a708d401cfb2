//! Patches other than server-side apply: RFC 6902, RFC 7386 and Kubernetes' strategic merge.

pub mod strategic;

use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};

/// Applies an RFC 6902 JSON patch.
///
/// # Errors
/// 400 for a patch that does not parse, 422 for one that does not fit the object.
pub fn json_patch(object: &mut Value, patch: &[u8]) -> ApiResult<()> {
    let patch: json_patch::Patch = serde_json::from_slice(patch)
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    if patch.0.len() > 10_000 {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            "The allowed maximum operations in a JSON patch is 10000",
        ));
    }
    json_patch::patch(object, &patch).map_err(|e| {
        ApiError::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {e}"),
        )
    })
}

/// Applies an RFC 7386 merge patch.
pub fn merge_patch(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else { return };
    for (k, v) in patch {
        if v.is_null() {
            map.remove(k);
        } else {
            merge_patch(map.entry(k.clone()).or_insert(Value::Null), v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rfc_7386_examples() {
        for (object, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut got = object.clone();
            merge_patch(&mut got, &patch);
            assert_eq!(got, want, "{object} {patch}");
        }
    }

    #[test]
    fn json_patch_reports_what_does_not_fit() {
        let mut v = json!({"a": 1});
        json_patch(&mut v, br#"[{"op":"replace","path":"/a","value":2}]"#).unwrap();
        assert_eq!(v, json!({"a": 2}));
        assert_eq!(json_patch(&mut v, br#"[{"op":"test","path":"/a","value":3}]"#).unwrap_err().code, 422);
        assert_eq!(json_patch(&mut v, b"{").unwrap_err().code, 400);
    }
}
