//! Sets of field paths, in memory and as `fieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A tree of path elements in their `fieldsV1` spelling: `f:name`, `k:{"name":"a"}`, `v:"x"`. A node marked as a member
/// is itself owned; its children are owned fields below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Marks the node at a path as a member.
    pub fn insert(&mut self, path: &[String]) {
        match path.split_first() {
            None => self.member = true,
            Some((first, rest)) => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// The subtree below an element.
    pub fn child(&self, element: &str) -> Option<&FieldSet> {
        self.children.get(element)
    }

    /// Elements and subtrees below this node.
    pub fn children(&self) -> impl Iterator<Item = (&String, &FieldSet)> {
        self.children.iter()
    }

    /// Whether this node itself is owned.
    pub fn is_member(&self) -> bool {
        self.member
    }

    fn pruned(mut self) -> Self {
        self.children.retain(|_, c| !c.is_empty());
        self
    }

    /// Members of both.
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter_map(|(k, c)| other.children.get(k).map(|o| (k.clone(), c.intersection(o))))
            .collect();
        FieldSet { member: self.member && other.member, children }.pruned()
    }

    /// Members of this that are not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .map(|(k, c)| (k.clone(), other.children.get(k).map_or_else(|| c.clone(), |o| c.difference(o))))
            .collect();
        FieldSet { member: self.member && !other.member, children }.pruned()
    }

    /// Members of either.
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.member |= other.member;
        for (k, c) in &other.children {
            let merged = out.children.get(k).map_or_else(|| c.clone(), |mine| mine.union(c));
            out.children.insert(k.clone(), merged);
        }
        out
    }

    /// The members as texts: `.spec.ports[port=80,protocol="TCP"].name`.
    pub fn leaves(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.walk(String::new(), &mut out);
        out
    }

    fn walk(&self, path: String, out: &mut Vec<String>) {
        if self.member {
            out.push(path.clone());
        }
        for (k, c) in &self.children {
            c.walk(format!("{path}{}", show(k)), out);
        }
    }

    /// The JSON of `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (k, c) in &self.children {
            let mut inner = c.to_json();
            // "." says that the node itself is owned besides fields below it.
            if c.member && !c.children.is_empty() {
                inner["."] = Value::Object(Map::new());
            }
            map.insert(k.clone(), inner);
        }
        Value::Object(map)
    }

    /// Reads `fieldsV1`.
    pub fn from_json(v: &Value) -> Self {
        let mut out = FieldSet::default();
        for (k, inner) in v.as_object().into_iter().flatten() {
            if k == "." {
                out.member = true;
                continue;
            }
            let mut child = FieldSet::from_json(inner);
            child.member |= child.children.is_empty();
            out.children.insert(k.clone(), child);
        }
        out
    }
}

/// A path element for people.
fn show(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let keys: Value = serde_json::from_str(rest).unwrap_or_default();
            let parts: Vec<String> =
                keys.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", parts.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => element.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_round_trip_and_algebra() {
        let v = json!({"f:spec": {"f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}}});
        let s = FieldSet::from_json(&v);
        assert_eq!(s.to_json(), v);
        assert_eq!(
            s.leaves(),
            [
                ".spec.ports",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name"
            ]
        );
        let mut t = FieldSet::default();
        t.insert(&["f:spec".into(), "f:ports".into()]);
        assert_eq!(s.intersection(&t).leaves(), [".spec.ports"]);
        assert_eq!(s.difference(&t).leaves().len(), 2);
        assert_eq!(s.difference(&t).union(&t), s);
    }
}
