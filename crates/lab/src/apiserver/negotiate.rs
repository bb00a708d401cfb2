//! What form of an answer the client wants: JSON always, but whole objects, tables or metadata only.

use serde_json::{Value, json};

use super::resources::Resource;
use super::table::{self, IncludeObject};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// A `meta.k8s.io/v1` Table.
    Table(IncludeObject),
    /// `PartialObjectMetadata`.
    Metadata,
}

impl Form {
    /// Reads the Accept header; `includeObject` is the query parameter. The first acceptable range counts; protobuf
    /// is passed over, so clients that offer JSON too get JSON.
    pub fn of(accept: &str, include_object: &str) -> Form {
        let include = match include_object {
            "Object" => IncludeObject::Object,
            "None" => IncludeObject::None,
            _ => IncludeObject::Metadata,
        };
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            if !matches!(parts.next(), Some("application/json" | "*/*" | "application/*")) {
                continue;
            }
            let kind = parts.find_map(|p| p.strip_prefix("as="));
            return match kind {
                Some("Table") => Form::Table(include),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::Metadata,
                Some(_) => continue,
                None => Form::Object,
            };
        }
        Form::Object
    }

    /// One object.
    pub fn object(self, res: &Resource, object: Value) -> Value {
        match self {
            Form::Object => object,
            Form::Metadata => table::partial(&object),
            Form::Table(include) => {
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table::table(&res.columns, &[object], meta, include, true)
            }
        }
    }

    /// A list.
    pub fn list(self, res: &Resource, items: Vec<Value>, meta: Value) -> Value {
        match self {
            Form::Object => {
                json!({"kind": res.list_kind(), "apiVersion": res.api_version(), "metadata": meta, "items": items})
            }
            Form::Metadata => {
                let items: Vec<Value> = items.iter().map(table::partial).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items})
            }
            Form::Table(include) => table::table(&res.columns, &items, meta, include, true),
        }
    }

    /// The object of a watch event; columns come with the first event only.
    pub fn event(self, res: &Resource, object: Value, first: bool) -> Value {
        match self {
            Form::Table(include) => {
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table::table(&res.columns, &[object], meta, include, first)
            }
            other => other.object(res, object),
        }
    }

    /// The object of a bookmark.
    pub fn bookmark(self, res: &Resource, revision: i64, initial_end: bool) -> Value {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self {
            Form::Object => json!({"kind": res.kind, "apiVersion": res.api_version(), "metadata": meta}),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
            }
            Form::Table(_) => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": [], "rows": []})
            }
        }
    }
}
