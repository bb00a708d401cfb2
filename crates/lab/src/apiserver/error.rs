//! What a request is refused with: Kubernetes' `Status` object, its reasons and its causes.

use serde_json::{Value, json};

/// A refused request. Renders as a `v1` `Status` with the HTTP code in [`ApiError::code`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code, also `status.code`.
    pub code: u16,
    /// Machine-readable reason, one of Kubernetes' `StatusReason` values.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// `status.details` (group, kind, name, causes, …) or null.
    pub details: Value,
}

/// Result of anything that answers a request.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: Value::Null }
    }

    /// 400: the request itself is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no credential, or one that is not accepted.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 for something the server never allows.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let resource = qualified(plural, group);
        let mut e = Self::new(403, "Forbidden", format!("{resource} \"{name}\" is forbidden: {why}"));
        e.details = json!({"name": name, "group": group, "kind": plural});
        e
    }

    /// 404 for an object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let mut e = Self::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(plural, group)));
        e.details = json!({"name": name, "group": group, "kind": plural});
        e
    }

    /// 404 for a path that names no resource.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405: the resource does not support the verb.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 409: an object of this name exists.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let mut e = Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", qualified(plural, group)),
        );
        e.details = json!({"name": name, "group": group, "kind": plural});
        e
    }

    /// 409: the object is not in the state the request requires.
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let resource = qualified(plural, group);
        let mut e = Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"),
        );
        e.details = json!({"name": name, "group": group, "kind": plural});
        e
    }

    /// 410: the requested revision or continue token is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 415: the body's media type is not one this path reads.
    pub fn unsupported_media_type(got: &str, supported: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format ({got}) - accepted media types include: {supported}"
            ),
        )
    }

    /// 422: the object is refused, with one cause for each field.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let rendered: Vec<String> = errors.iter().map(FieldError::render).collect();
        let text = match rendered.len() {
            1 => rendered[0].clone(),
            _ => format!("[{}]", rendered.join(", ")),
        };
        let target = if group.is_empty() { kind.to_string() } else { format!("{kind}.{group}") };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.kind.reason(), "message": e.body(), "field": e.path}))
            .collect();
        let mut e = Self::new(422, "Invalid", format!("{target} \"{name}\" is invalid: {text}"));
        e.details = json!({"name": name, "group": group, "kind": kind, "causes": causes});
        e
    }

    /// 500: this server's own failure.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// The `Status` object a client gets.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// What is wrong with one field; Kubernetes' `field.ErrorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// Absent though required.
    Required,
    /// Present with a value that is not acceptable.
    Invalid,
    /// Not one of a fixed set.
    NotSupported,
    /// Not unique in its list.
    Duplicate,
    /// May not be set, or not be changed, in this situation.
    Forbidden,
    /// Longer than allowed.
    TooLong,
    /// More entries than allowed.
    TooMany,
    /// Of another JSON type than the schema says.
    TypeInvalid,
    /// Refers to something that does not exist.
    NotFound,
}

impl FieldErrorKind {
    fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// `spec.ports[0].port` and the like.
    pub path: String,
    /// What sort of fault.
    pub kind: FieldErrorKind,
    /// The offending value, shown where the kind shows values.
    pub value: Option<Value>,
    /// What would be right.
    pub detail: String,
}

impl FieldError {
    fn body(&self) -> String {
        let shown = match (self.kind, &self.value) {
            (FieldErrorKind::Required | FieldErrorKind::Forbidden, _) | (_, None) => String::new(),
            (FieldErrorKind::TooLong | FieldErrorKind::TooMany, _) => String::new(),
            (_, Some(Value::Object(_) | Value::Array(_))) => {
                format!(": {}", self.value.as_ref().map(Value::to_string).unwrap_or_default())
            }
            (_, Some(v)) => format!(": {v}"),
        };
        let detail = if self.detail.is_empty() { String::new() } else { format!(": {}", self.detail) };
        format!("{}{shown}{detail}", self.kind.text())
    }

    fn render(&self) -> String {
        format!("{}: {}", self.path, self.body())
    }
}

/// Collects field errors with paths built as the walk goes.
#[derive(Debug, Default)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    /// Adds one error.
    pub fn push(
        &mut self,
        path: &str,
        kind: FieldErrorKind,
        value: Option<&Value>,
        detail: impl Into<String>,
    ) {
        self.0.push(FieldError { path: path.into(), kind, value: value.cloned(), detail: detail.into() });
    }

    /// Adds `Required value`.
    pub fn required(&mut self, path: impl AsRef<str>, detail: &str) {
        self.push(path.as_ref(), FieldErrorKind::Required, None, detail);
    }

    /// Adds `Invalid value`.
    pub fn invalid(&mut self, path: impl AsRef<str>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path.as_ref(), FieldErrorKind::Invalid, Some(&value.into()), detail);
    }

    /// Adds `Unsupported value` with the list of supported ones.
    pub fn unsupported(&mut self, path: impl AsRef<str>, value: impl Into<Value>, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        self.push(
            path.as_ref(),
            FieldErrorKind::NotSupported,
            Some(&value.into()),
            format!("supported values: {}", list.join(", ")),
        );
    }

    /// Adds `Duplicate value`.
    pub fn duplicate(&mut self, path: impl AsRef<str>, value: impl Into<Value>) {
        self.push(path.as_ref(), FieldErrorKind::Duplicate, Some(&value.into()), "");
    }

    /// Adds `Forbidden`.
    pub fn forbidden(&mut self, path: impl AsRef<str>, detail: &str) {
        self.push(path.as_ref(), FieldErrorKind::Forbidden, None, detail);
    }
}

fn qualified(plural: &str, group: &str) -> String {
    if group.is_empty() { plural.to_string() } else { format!("{plural}.{group}") }
}
