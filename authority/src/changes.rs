//! The changes from one document to another. Names match the entries of a list, not positions.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// One value that was added, removed or replaced.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    pub(crate) at: String,
    pub(crate) old: Option<Value>,
    pub(crate) new: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(formatter, "~ {}: {old} -> {new}", self.at),
            (Some(old), None) => write!(formatter, "- {}: {old}", self.at),
            (None, Some(new)) => write!(formatter, "+ {}: {new}", self.at),
            (None, None) => write!(formatter, "  {}", self.at),
        }
    }
}

/// The changes, in the order of their place.
pub(crate) fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten(old, String::new(), &mut before);
    flatten(new, String::new(), &mut after);
    let mut places: Vec<&String> = before.keys().chain(after.keys()).collect();
    places.sort();
    places.dedup();
    let change = |at: &String| {
        let (old, new) =
            (before.get(at).map(|value| (*value).clone()), after.get(at).map(|value| (*value).clone()));
        (old != new).then(|| Change { at: at.clone(), old, new })
    };
    places.into_iter().filter_map(change).collect()
}

fn flatten<'a>(value: &'a Value, at: String, into: &mut BTreeMap<String, &'a Value>) {
    let dot = if at.is_empty() { "" } else { "." };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten(member, format!("{at}{dot}{name}"), into);
            }
        }
        Value::Array(items) => {
            for item in items {
                flatten(item, format!("{at}[{}]", name_of(item)), into);
            }
        }
        _ => {
            into.insert(at, value);
        }
    }
}

/// What people call an entry of a list.
fn name_of(item: &Value) -> String {
    let named = ["id", "name", "key"].iter().find_map(|member| item.get(member)?.as_str());
    match (named, item.get("host"), item) {
        (Some(name), ..) => name.to_owned(),
        (None, Some(host), _) => format!("{}:{}", host.as_str().unwrap_or_default(), item["port"]),
        (None, None, Value::String(text)) => text.clone(),
        _ => item.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_told_apart_by_name_not_by_place() {
        let model = |id: &str, state: &str| json!({ "id": id, "state": state });
        let old = json!({ "version": 1, "models": [model("a", "active"), model("b", "active")],
            "egress": [{ "host": "h", "port": 1 }], "list": ["x"] });
        let new = json!({ "version": 2, "models": [model("b", "revoked"), model("a", "active")],
            "egress": [{ "host": "h", "port": 2 }], "list": ["x", "y"] });
        let lines: Vec<String> = changes(&old, &new).iter().map(ToString::to_string).collect();
        let expected = [
            "- egress[h:1].host: \"h\"",
            "- egress[h:1].port: 1",
            "+ egress[h:2].host: \"h\"",
            "+ egress[h:2].port: 2",
            "+ list[y]: \"y\"",
            "~ models[b].state: \"active\" -> \"revoked\"",
            "~ version: 1 -> 2",
        ];
        assert_eq!(lines, expected);
        assert!(changes(&old, &old).is_empty());
    }
}
