//! Kubernetes' protobuf bodies, which kubectl's typed commands (`create namespace`, `auth whoami`, …) send whatever the
//! server says it reads: decoded to JSON by a table of field numbers beside the schemas. Answers are always JSON.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::{REF, definitions};

static FIELDS: &str = include_str!("wire.json");
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Definition to (field number to field name, or to the numbers of an inlined message).
fn tables() -> &'static Map<String, Value> {
    static PARSED: OnceLock<Map<String, Value>> = OnceLock::new();
    PARSED.get_or_init(|| match serde_json::from_str(FIELDS) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    })
}

/// Scalars that are pointers in Kubernetes' types, so that a zero is a value. All others are written even when unset,
/// and a zero means unset.
const POINTERS: &[&str] = &[
    "replicas",
    "terminationGracePeriodSeconds",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "backoffLimit",
    "completions",
    "parallelism",
    "ttlSecondsAfterFinished",
    "revisionHistoryLimit",
    "progressDeadlineSeconds",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "runAsNonRoot",
    "allowPrivilegeEscalation",
    "privileged",
    "readOnlyRootFilesystem",
    "controller",
    "blockOwnerDeletion",
    "gracePeriodSeconds",
    "optional",
    "ready",
    "serving",
    "terminating",
    "allocateLoadBalancerNodePorts",
    "suspend",
    "immutable",
    "deletionGracePeriodSeconds",
    "mode",
    "shareProcessNamespace",
    "hostUsers",
    "tolerationSeconds",
    "orphanDependents",
    "priority",
];

/// Decodes a body that begins with `k8s\0`; `None` if it is malformed or of a type that is not known.
pub fn decode(bytes: &[u8]) -> Option<Value> {
    let mut envelope = fields(bytes.strip_prefix(b"k8s\0")?)?;
    let mut kind = fields(envelope.get(&1)?.first()?.bytes()?)?;
    let mut text =
        |n: u32| kind.remove(&n).and_then(|v| String::from_utf8(v.first()?.bytes()?.to_vec()).ok());
    let (api_version, kind) = (text(1)?, text(2)?);
    let raw = envelope.remove(&2)?;
    let mut v = message(raw.first()?.bytes()?, definition_of(&api_version, &kind)?)?;
    v["apiVersion"] = api_version.into();
    v["kind"] = kind.into();
    Some(v)
}

fn definition_of(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // Options are declared for every group.
    let fits = |v: &Value| {
        v["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| {
            all.iter().any(|g| g["kind"] == kind && g["version"] == version && g["group"] == group)
        })
    };
    definitions().iter().find(|(n, v)| fits(v) && tables().contains_key(*n)).map(|(n, _)| n.as_str())
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Wire::Bytes(b) => Some(b),
            Wire::Number(_) => None,
        }
    }
}

/// The fields of a message by number.
fn fields(mut bytes: &[u8]) -> Option<BTreeMap<u32, Vec<Wire<'_>>>> {
    let mut out: BTreeMap<u32, Vec<Wire<'_>>> = BTreeMap::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => Wire::Number(u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?)),
            2 => {
                let n = usize::try_from(varint(&mut bytes)?).ok()?;
                Wire::Bytes(take(&mut bytes, n)?)
            }
            5 => Wire::Number(u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?).into()),
            _ => return None,
        };
        out.entry(u32::try_from(tag >> 3).ok()?).or_default().push(value);
    }
    Some(out)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut out = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        out |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(out);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

/// A message of a definition.
fn message(bytes: &[u8], definition: &str) -> Option<Value> {
    let schema = definitions().get(definition)?;
    let mut out = Map::new();
    fill(bytes, tables().get(definition)?, schema, &mut out)?;
    Some(Value::Object(out))
}

fn fill(bytes: &[u8], table: &Value, schema: &Value, out: &mut Map<String, Value>) -> Option<()> {
    for (number, values) in fields(bytes)? {
        match table.get(number.to_string()) {
            Some(Value::String(name)) => {
                if let Some(v) = field(&values, &schema["properties"][name], name)? {
                    out.insert(name.clone(), v);
                }
            }
            // The fields of an inlined message stand beside the others in JSON.
            Some(inlined @ Value::Object(_)) => {
                for v in values {
                    fill(v.bytes()?, inlined, schema, out)?;
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// The outer option is for malformed input, the inner for a field that is not set.
#[allow(clippy::option_option)]
fn field(values: &[Wire<'_>], schema: &Value, name: &str) -> Option<Option<Value>> {
    match schema["type"].as_str() {
        Some("array") => {
            let items = &schema["items"];
            let all: Vec<Value> = values
                .iter()
                .map(|v| one(v, items))
                .collect::<Option<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect();
            Some(Some(all.into()))
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            let mut map = Map::new();
            for entry in values {
                let parts = fields(entry.bytes()?)?;
                let key = parts.get(&1).and_then(|v| v.first()?.bytes()).unwrap_or(b"");
                let value = match parts.get(&2).and_then(|v| v.first()) {
                    Some(v) => one(v, &schema["additionalProperties"])?,
                    None => Some("".into()),
                };
                map.insert(String::from_utf8(key.to_vec()).ok()?, value.unwrap_or("".into()));
            }
            Some(Some(Value::Object(map)))
        }
        _ => {
            let Some(v) = one(values.last()?, schema)? else { return Some(None) };
            let unset = match &v {
                Value::String(s) => s.is_empty(),
                Value::Bool(b) => !b,
                Value::Number(n) => n.as_i64() == Some(0),
                _ => false,
            };
            // A union of number and string has been set if it is there at all.
            let keep = !unset || POINTERS.contains(&name) || schema.get("$ref").is_some();
            Some(keep.then_some(v))
        }
    }
}

#[allow(clippy::option_option)]
fn one(v: &Wire<'_>, schema: &Value) -> Option<Option<Value>> {
    if let Some(reference) = schema["$ref"].as_str() {
        return special(v.bytes()?, reference.trim_start_matches(REF));
    }
    Some(Some(match (schema["type"].as_str(), v) {
        (Some("boolean"), Wire::Number(n)) => (*n != 0).into(),
        (Some("number"), Wire::Number(n)) => f64::from_bits(*n).into(),
        // Negative numbers are sign-extended to 64 bits.
        (_, Wire::Number(n)) => (*n as i64).into(),
        (Some("string"), Wire::Bytes(b)) if schema["format"] == "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(b).into()
        }
        (_, Wire::Bytes(b)) => String::from_utf8(b.to_vec()).ok()?.into(),
    }))
}

/// Messages whose JSON is no object of their fields.
#[allow(clippy::option_option)]
fn special(bytes: &[u8], definition: &str) -> Option<Option<Value>> {
    let number = |n: u32| -> Option<i64> {
        Some(match fields(bytes)?.get(&n).and_then(|v| v.first()) {
            Some(Wire::Number(n)) => *n as i64,
            _ => 0,
        })
    };
    let text = |n: u32| -> Option<String> {
        let all = fields(bytes)?;
        let raw = all.get(&n).and_then(|v| v.first()?.bytes()).unwrap_or(b"");
        String::from_utf8(raw.to_vec()).ok()
    };
    match definition.rsplit('.').next()? {
        "IntOrString" => Some(Some(if number(1)? == 1 { text(3)?.into() } else { number(2)?.into() })),
        "Quantity" => Some(Some(text(1)?.into())),
        "Time" | "MicroTime" if definition.starts_with(META) => {
            if bytes.is_empty() {
                return Some(None);
            }
            let time = jiff::Timestamp::new(number(1)?, i32::try_from(number(2)?).ok()?).ok()?;
            let format = if definition.ends_with("Micro") || definition.ends_with("MicroTime") {
                "%Y-%m-%dT%H:%M:%S%.6fZ"
            } else {
                "%Y-%m-%dT%H:%M:%SZ"
            };
            Some(Some(time.strftime(format).to_string().into()))
        }
        "FieldsV1" | "RawExtension" => Some(serde_json::from_str(&text(1)?).ok()),
        _ => match tables().contains_key(definition) {
            true => Some(Some(message(bytes, definition)?)),
            false => Some(Some(json!({}))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let mut meta = Vec::new();
        for (tag, text) in [(0x0a, api_version), (0x12, kind)] {
            meta.extend([tag, text.len() as u8]);
            meta.extend(text.as_bytes());
        }
        let mut out = b"k8s\0\x0a".to_vec();
        out.push(meta.len() as u8);
        out.extend(meta);
        out.extend([0x12, raw.len() as u8]);
        out.extend(raw);
        out
    }

    #[test]
    fn decodes_a_config_map() {
        // metadata{name: "a"}, data{"x": "y"}
        let raw = [0x0a, 3, 0x0a, 1, b'a', 0x12, 6, 0x0a, 1, b'x', 0x12, 1, b'y'];
        let v = decode(&wrap("v1", "ConfigMap", &raw)).unwrap();
        assert_eq!(
            v,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}})
        );
        assert!(decode(b"k8s\0\xff").is_none());
        assert!(decode(b"{}").is_none());
    }

    #[test]
    fn zero_is_a_value_for_pointers_only() {
        // spec{replicas: 0, minReadySeconds: 0}
        let v = decode(&wrap("apps/v1", "Deployment", &[0x12, 4, 0x08, 0, 0x28, 0])).unwrap();
        assert_eq!(v["spec"], json!({"replicas": 0}));
    }
}
