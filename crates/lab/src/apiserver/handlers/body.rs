//! Request bodies: JSON or YAML in, checked against the schema as strictly as the client asks.

use serde_json::Value;

use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::request::{FieldValidation, WriteOptions};
use crate::apiserver::resources::Resource;
use crate::apiserver::schema::check::{Findings, conform, parse_reporting_duplicates};
use crate::apiserver::schema::wire;
use crate::apiserver::{crd, object};

/// An object from a body, and warnings for the client.
#[derive(Debug)]
pub struct Decoded {
    /// The object; unknown fields are gone.
    pub object: Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Parses a body by its content type.
///
/// # Errors
/// 400 for what does not parse, 415 for a media type that is not understood.
pub fn parse(bytes: &[u8], content_type: &str) -> ApiResult<(Value, Vec<String>)> {
    match content_type {
        "" | "application/json" | "*/*" => parse_reporting_duplicates(bytes)
            .map_err(|e| ApiError::bad_request(format!("couldn't parse the body as JSON: {e}"))),
        "application/yaml" | "application/apply-patch+yaml" => {
            if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
                return parse(bytes, "application/json");
            }
            let text =
                std::str::from_utf8(bytes).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
            let value = serde_saphyr::from_str::<Value>(text)
                .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
            Ok((value, Vec::new()))
        }
        "application/vnd.kubernetes.protobuf" => {
            wire::decode(bytes).map(|v| (v, Vec::new())).ok_or_else(|| {
                ApiError::bad_request(
                    "couldn't decode the protobuf body: malformed, or of a type that is only read as JSON",
                )
            })
        }
        other => Err(ApiError::unsupported_media_type(
            other,
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// Reads an object of this resource from a body.
///
/// # Errors
/// 400 for a body that is no such object, in strict mode also for unknown and duplicate fields.
pub fn object(
    res: &Resource,
    bytes: &[u8],
    content_type: &str,
    options: &WriteOptions,
) -> ApiResult<Decoded> {
    let (value, duplicates) = parse(bytes, content_type)?;
    checked(res, value, duplicates, options)
}

/// Checks an object's kind and shape.
///
/// # Errors
/// As [`object`].
pub fn checked(
    res: &Resource,
    mut value: Value,
    duplicates: Vec<String>,
    options: &WriteOptions,
) -> ApiResult<Decoded> {
    if !value.is_object() {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    }
    let (api_version, kind) = (object::text(&value, "apiVersion"), object::text(&value, "kind"));
    let ours =
        (api_version.is_empty() || api_version == res.api_version()) && (kind.is_empty() || kind == res.kind);
    if !ours {
        return Err(ApiError::bad_request(format!(
            "the API version and kind in the data ({api_version}, Kind={kind}) do not match the expected ones ({}, Kind={})",
            res.api_version(),
            res.kind
        )));
    }
    let mut found = Findings::default();
    if res.schema.is_custom() {
        crd::prune_custom(res, &mut value, &mut found);
    } else {
        conform(&mut value, res.schema.root(), "", &mut found);
    }
    if !found.mistyped.is_empty() {
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            res.kind,
            res.version,
            res.kind,
            found.mistyped.join(", ")
        )));
    }
    let mut reports: Vec<String> = found.unknown.iter().map(|p| format!("unknown field \"{p}\"")).collect();
    reports.extend(duplicates.iter().map(|p| format!("duplicate field \"{p}\"")));
    match options.field_validation {
        FieldValidation::Strict if !reports.is_empty() => Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            res.kind,
            res.version,
            res.kind,
            reports.join(", ")
        ))),
        FieldValidation::Ignore => Ok(Decoded { object: value, warnings: Vec::new() }),
        _ => Ok(Decoded { object: value, warnings: reports }),
    }
}
