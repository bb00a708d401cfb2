//! Small readers and writers on objects held as JSON.

use serde_json::{Map, Value};

/// The value at a dotted path of plain keys.
pub fn at<'a>(v: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(v, |v, key| v.get(key))
}

/// The string at a dotted path, or "".
pub fn text<'a>(v: &'a Value, path: &str) -> &'a str {
    at(v, path).and_then(Value::as_str).unwrap_or("")
}

/// The integer at a dotted path.
pub fn int(v: &Value, path: &str) -> Option<i64> {
    at(v, path).and_then(Value::as_i64)
}

/// The list at a dotted path, or an empty one.
pub fn list<'a>(v: &'a Value, path: &str) -> &'a [Value] {
    at(v, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `metadata.name`.
pub fn name(v: &Value) -> &str {
    text(v, "metadata.name")
}

/// `metadata.namespace`.
pub fn namespace(v: &Value) -> &str {
    text(v, "metadata.namespace")
}

/// `metadata.uid`.
pub fn uid(v: &Value) -> &str {
    text(v, "metadata.uid")
}

/// Whether deletion was asked for.
pub fn is_terminating(v: &Value) -> bool {
    at(v, "metadata.deletionTimestamp").is_some()
}

/// The object at `key`, created (or replaced, if it is no object) when absent.
pub fn object<'a>(v: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    let Value::Object(map) = v else { unreachable!("made an object above") };
    let slot = map.entry(key.to_string()).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(inner) => inner,
        _ => unreachable!("made an object above"),
    }
}

/// `metadata`, created when absent.
pub fn metadata(v: &mut Value) -> &mut Map<String, Value> {
    object(v, "metadata")
}

/// Sets a key unless it is there with a value other than null.
pub fn default(v: &mut Value, key: &str, value: impl Into<Value>) {
    if let Value::Object(map) = v
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_string(), value.into());
    }
}

/// Sets a key unless it is there with a value other than null or "".
pub fn default_text(v: &mut Value, key: &str, value: &str) {
    let unset = v.get(key).and_then(Value::as_str).unwrap_or("").is_empty();
    if let Value::Object(map) = v
        && unset
    {
        map.insert(key.to_string(), value.into());
    }
}

/// Mutable list at `key`, empty when absent.
pub fn each<'a>(v: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    v.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Now, as Kubernetes writes times: RFC 3339 in seconds.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random UUID (version 4).
pub fn new_uid() -> String {
    let mut b: [u8; 16] = rand::random();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &h[0..8], &h[8..12], &h[12..16], &h[16..20], &h[20..32])
}

/// Five characters for `generateName`, from the alphabet Kubernetes uses (no vowels, no look-alikes).
pub fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(ALPHABET[rand::random::<u32>() as usize % ALPHABET.len()])).collect()
}
