//! Decoding as Kubernetes' typed decoders do it: wrong JSON types are refused, unknown fields dropped and reported,
//! duplicate keys reported. What strict field validation then does with the reports is the caller's matter.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Schema;

/// Parses JSON, reporting keys that occur twice in one object (the last one wins).
///
/// # Errors
/// The parser's, for malformed JSON.
pub fn parse_reporting_duplicates(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Node { path: String::new(), duplicates: &mut duplicates }.deserialize(&mut de)?;
    de.end()?;
    Ok((value, duplicates))
}

struct Node<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, out.len());
            match seq.next_element_seed(Node { path, duplicates: &mut *self.duplicates })? {
                Some(v) => out.push(v),
                None => return Ok(Value::Array(out)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = join(&self.path, &key);
            let value =
                map.next_value_seed(Node { path: path.clone(), duplicates: &mut *self.duplicates })?;
            if out.insert(key, value).is_some() {
                self.duplicates.push(path);
            }
        }
        Ok(Value::Object(out))
    }
}

/// What [`conform`] found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Paths of fields the schema does not know; they have been removed.
    pub unknown: BTreeSet<String>,
    /// `path: message` of values of the wrong type; the object cannot be decoded.
    pub mistyped: Vec<String>,
}

/// Makes a built-in type's object conform to its schema in place: unknown fields and nulls are dropped.
pub fn conform(value: &mut Value, schema: Schema<'_>, path: &str, found: &mut Findings) {
    if schema.raw().is_none() {
        return;
    }
    if schema.is_union_scalar() {
        if value.is_object() || value.is_array() || value.is_boolean() {
            found.mistyped.push(mistyped(path, value, "int or string"));
        }
        return;
    }
    match schema.type_name() {
        Some("object") => conform_object(value, schema, path, found),
        Some("array") => match value {
            Value::Array(list) => {
                let items = schema.items();
                for (i, entry) in list.iter_mut().enumerate() {
                    conform(entry, items, &format!("{path}[{i}]"), found);
                }
            }
            other => found.mistyped.push(mistyped(path, other, "array")),
        },
        Some("string") if !value.is_string() => found.mistyped.push(mistyped(path, value, "string")),
        Some("integer") if !value.is_i64() && !value.is_u64() => {
            // 3.0 is an integer to Kubernetes' decoders.
            match value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15) {
                Some(f) => *value = Value::from(f as i64),
                None => found.mistyped.push(mistyped(path, value, "integer")),
            }
        }
        Some("integer") if is_int32(schema) && value.as_i64().is_none_or(|v| i32::try_from(v).is_err()) => {
            found.mistyped.push(mistyped(path, value, "int32"));
        }
        Some("number") if !value.is_number() => found.mistyped.push(mistyped(path, value, "number")),
        Some("boolean") if !value.is_boolean() => found.mistyped.push(mistyped(path, value, "bool")),
        _ => {}
    }
}

fn is_int32(schema: Schema<'_>) -> bool {
    schema.raw().and_then(|r| r.get("format")).and_then(Value::as_str) == Some("int32")
}

fn conform_object(value: &mut Value, schema: Schema<'_>, path: &str, found: &mut Findings) {
    let Value::Object(map) = value else {
        found.mistyped.push(mistyped(path, value, "object"));
        return;
    };
    let free = schema.preserves_unknown();
    map.retain(|key, child| {
        let child_path = join(path, key);
        match schema.property(key).or_else(|| schema.additional()) {
            None if free => true,
            None => {
                found.unknown.insert(child_path);
                false
            }
            Some(_) if child.is_null() => false,
            Some(child_schema) => {
                conform(child, child_schema, &child_path, found);
                true
            }
        }
    });
}

fn mistyped(path: &str, value: &Value, want: &str) -> String {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("{path}: cannot use a JSON {got} as {want}")
}

/// `a` and `b` to `a.b`.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_duplicates_unknown_and_mistyped() {
        let (mut v, dup) =
            parse_reporting_duplicates(br#"{"spec":{"replicas":1,"replicas":2,"bogus":1,"paused":"x"}}"#)
                .unwrap();
        assert_eq!(dup, ["spec.replicas"]);
        let mut f = Findings::default();
        conform(&mut v, Schema::named("io.k8s.api.apps.v1.Deployment"), "", &mut f);
        assert_eq!(f.unknown.into_iter().collect::<Vec<_>>(), ["spec.bogus"]);
        assert_eq!(f.mistyped, ["spec.paused: cannot use a JSON string as bool"]);
        assert_eq!(v, json!({"spec": {"replicas": 2, "paused": "x"}}));
    }
}
