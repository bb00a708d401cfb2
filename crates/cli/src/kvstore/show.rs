//! Keys and values for people and for programs. What is shown was written by others: control
//! characters never reach the terminal.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_kvstore::pb;
use serde_json::{Value, json};

use crate::output::printable;

/// A value as what it is.
#[derive(Debug, PartialEq)]
enum Content {
    Json(Value),
    Text(String),
    Bytes(Vec<u8>),
}

fn content(value: &[u8]) -> Content {
    // A number alone is as likely a text as JSON; only objects and lists are worth taking apart.
    if matches!(value.first(), Some(b'{' | b'['))
        && let Ok(json) = serde_json::from_slice(value)
    {
        return Content::Json(json);
    }
    match std::str::from_utf8(value) {
        Ok(text) => Content::Text(text.to_owned()),
        Err(_) => Content::Bytes(value.to_vec()),
    }
}

/// A key with its revisions, and its value indented below it.
pub(super) fn text(kv: &pb::KeyValue) -> String {
    let lease = if kv.lease == 0 { "no lease".to_owned() } else { format!("lease {:x}", kv.lease) };
    let head = format!(
        "{}  revision {} (created {}, version {}), {lease}",
        printable(&kv.key),
        kv.mod_revision,
        kv.create_revision,
        kv.version
    );
    let value = value_text(&kv.value);
    if value.is_empty() { head } else { format!("{head}\n{value}") }
}

/// A value, indented; empty for an empty one.
pub(super) fn value_text(value: &[u8]) -> String {
    let text = match content(value) {
        Content::Json(json) => {
            let pretty = serde_json::to_string_pretty(&json).unwrap_or_default();
            pretty.lines().map(|line| printable(line.as_bytes())).collect::<Vec<_>>().join("\n")
        }
        Content::Text(text) => printable(text.as_bytes()),
        Content::Bytes(bytes) => format!("{} bytes: {}", bytes.len(), printable(&bytes)),
    };
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// A key-value as JSON; `value` is taken apart if it is JSON itself, and `encoding` says what it is.
pub(super) fn json(kv: &pb::KeyValue, with_value: bool) -> Value {
    let mut out = json!({
        "key": String::from_utf8_lossy(&kv.key), "create-revision": kv.create_revision,
        "mod-revision": kv.mod_revision, "version": kv.version, "lease": kv.lease,
    });
    if with_value {
        let (value, encoding) = match content(&kv.value) {
            Content::Json(json) => (json, "json"),
            Content::Text(text) => (text.into(), "text"),
            Content::Bytes(bytes) => (STANDARD.encode(bytes).into(), "base64"),
        };
        out["value"] = value;
        out["encoding"] = encoding.into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_what_they_are_and_never_control_a_terminal() {
        let kv = |value: &[u8]| pb::KeyValue {
            key: b"a\x1b[2J".to_vec().into(),
            value: value.to_vec().into(),
            create_revision: 3,
            mod_revision: 4,
            version: 2,
            lease: 0x1f,
        };
        let shown = text(&kv(br#"{"IP":"10.2.0.21","Mask":null}"#));
        assert_eq!(
            shown,
            "a\\u{1b}[2J  revision 4 (created 3, version 2), lease 1f\n  {\n    \"IP\": \"10.2.0.21\",\n    \"Mask\": null\n  }"
        );
        assert_eq!(value_text("k8s:app=x;\u{9b}2J".as_bytes()), "  k8s:app=x;\\u{9b}2J");
        assert_eq!(value_text(b"\xff\0"), "  2 bytes: \\xff\\u{0}");
        assert_eq!(value_text("{\"a\":\"\u{9b}\"}".as_bytes()), "  {\n    \"a\": \"\\u{9b}\"\n  }");
        assert_eq!((value_text(b""), value_text(b"{broken")), (String::new(), "  {broken".into()));
        assert_eq!(json(&kv(b"7"), true)["value"], "7");
        assert_eq!(json(&kv(b"\xff"), true)["encoding"], "base64");
        assert_eq!(json(&kv(b"[1]"), true)["value"][0], 1);
        assert_eq!(json(&kv(b"[1]"), false).get("value"), None);
    }
}
