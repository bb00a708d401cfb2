//! Schemas of objects, read directly from OpenAPI: those of the built-in types (from Kubernetes 1.33's published
//! definitions, without the prose; Apache-2.0, The Kubernetes Authors) and those of CustomResourceDefinitions.
//!
//! Everything that has to know the shape of an object asks here: strict decoding, strategic merge, server-side apply,
//! OpenAPI documents.

pub mod check;
pub mod wire;

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

static BUILTIN: &str = include_str!("builtin.json");
const REF: &str = "#/components/schemas/";

/// All built-in definitions by name (`io.k8s.api.core.v1.Pod`).
pub fn definitions() -> &'static Map<String, Value> {
    static PARSED: OnceLock<Map<String, Value>> = OnceLock::new();
    PARSED.get_or_init(|| match serde_json::from_str(BUILTIN) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    })
}

/// Where a resource's schema comes from.
#[derive(Debug, Clone)]
pub enum SchemaSource {
    /// A built-in definition, by name.
    Builtin(String),
    /// A CRD version's `openAPIV3Schema`, completed with the object metadata's schema.
    Custom(Arc<Value>),
}

impl SchemaSource {
    /// The schema of the whole object.
    pub fn root(&self) -> Schema<'_> {
        match self {
            Self::Builtin(name) => Schema::named(name),
            Self::Custom(value) => Schema(Some(value)),
        }
    }

    /// Whether this is a CRD's.
    pub fn is_custom(&self) -> bool {
        matches!(self, Self::Custom(_))
    }
}

/// How a list merges in server-side apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects identified by these keys.
    Map(Vec<String>),
}

/// A view of one schema node; `None` inside means "anything".
#[derive(Debug, Clone, Copy)]
pub struct Schema<'a>(Option<&'a Value>);

impl<'a> Schema<'a> {
    /// A schema that allows anything.
    pub const ANY: Schema<'static> = Schema(None);

    /// A view of a raw OpenAPI schema.
    pub fn of(value: &'a Value) -> Self {
        Schema(Some(value)).resolved()
    }

    /// A built-in definition by name.
    pub fn named(name: &str) -> Schema<'static> {
        Schema(definitions().get(name))
    }

    fn resolved(self) -> Self {
        let Some(target) = self.0.and_then(|v| v.get("$ref")).and_then(Value::as_str) else { return self };
        Schema(definitions().get(target.trim_start_matches(REF)))
    }

    fn attr(self, key: &str) -> Option<&'a Value> {
        self.0.and_then(|v| v.get(key))
    }

    /// The raw node.
    pub fn raw(self) -> Option<&'a Value> {
        self.0
    }

    /// `type`, if one is given.
    pub fn type_name(self) -> Option<&'a str> {
        self.attr("type").and_then(Value::as_str)
    }

    /// Whether integers and strings are both allowed (`IntOrString`, quantities).
    pub fn is_union_scalar(self) -> bool {
        self.attr("oneOf").is_some() && self.type_name().is_none() || self.flag("x-kubernetes-int-or-string")
    }

    /// A boolean extension.
    pub fn flag(self, key: &str) -> bool {
        self.attr(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The declared properties.
    pub fn properties(self) -> Option<&'a Map<String, Value>> {
        self.attr("properties").and_then(Value::as_object)
    }

    /// The schema of a declared property, extensions of the referring node included where they matter.
    pub fn property(self, name: &str) -> Option<Schema<'a>> {
        self.properties().and_then(|p| p.get(name)).map(|v| Schema(Some(v)).resolved())
    }

    /// The schema of a map's values.
    pub fn additional(self) -> Option<Schema<'a>> {
        self.attr("additionalProperties").filter(|v| v.is_object()).map(|v| Schema(Some(v)).resolved())
    }

    /// The schema for a key of an object: declared, else map value, else anything.
    pub fn child(self, name: &str) -> Schema<'a> {
        self.property(name).or_else(|| self.additional()).unwrap_or(Schema(None))
    }

    /// The schema of a list's entries.
    pub fn items(self) -> Schema<'a> {
        self.attr("items").map_or(Schema(None), |v| Schema(Some(v)).resolved())
    }

    /// Whether unknown fields are kept: free-form objects and `x-kubernetes-preserve-unknown-fields`.
    pub fn preserves_unknown(self) -> bool {
        self.flag("x-kubernetes-preserve-unknown-fields")
            || (self.properties().is_none() && self.attr("additionalProperties").is_none())
    }

    /// Required property names.
    pub fn required(self) -> impl Iterator<Item = &'a str> {
        self.attr("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether the object is applied as one value.
    pub fn is_atomic_map(self) -> bool {
        self.attr("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic")
    }

    /// How this list merges in server-side apply; without a declaration it is atomic.
    pub fn list_type(self) -> ListType {
        match self.attr("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map(
                self.attr("x-kubernetes-list-map-keys")
                    .and_then(Value::as_array)
                    .map(|keys| keys.iter().filter_map(Value::as_str).map(String::from).collect())
                    .unwrap_or_default(),
            ),
            _ => ListType::Atomic,
        }
    }

    /// Whether strategic merge patch merges this node (`patchStrategy: merge`).
    pub fn patch_merges(self) -> bool {
        self.patch_strategy().split(',').any(|s| s == "merge")
    }

    /// Whether strategic merge patch honours `$retainKeys` by default.
    pub fn patch_strategy(self) -> &'a str {
        self.attr("x-kubernetes-patch-strategy").and_then(Value::as_str).unwrap_or("")
    }

    /// The key by which strategic merge patch matches list entries.
    pub fn patch_merge_key(self) -> Option<&'a str> {
        self.attr("x-kubernetes-patch-merge-key").and_then(Value::as_str)
    }

    /// Default of a CRD's property.
    pub fn default_value(self) -> Option<&'a Value> {
        self.attr("default")
    }

    /// Default of a list-map key, as Kubernetes declares it (`protocol: TCP`).
    pub fn key_default(self, key: &str) -> Option<Value> {
        self.property(key)
            .and_then(Schema::default_value)
            .cloned()
            .or_else(|| (key == "protocol").then(|| Value::from("TCP")))
    }
}
