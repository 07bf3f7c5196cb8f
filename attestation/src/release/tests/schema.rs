//! The JSON Schemas in `docs/schema` say what the types here do: tried on the examples that stand next to them, member by member.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::*;

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn schema(name: &str) -> Value {
    serde_json::from_slice(&read(&format!("{name}.schema.json"))).unwrap()
}

type Parse = fn(&[u8]) -> Result<Vec<u8>, ReleaseError>;

/// Every kind of document: its name, how it is read, and how what was read is written.
const KINDS: [(&str, Parse); 7] = [
    ("root", |bytes| Root::from_payload(bytes).map(|root| root.to_payload())),
    ("release", |bytes| Release::from_payload(bytes).map(|release| release.to_payload())),
    ("denial", |bytes| Denial::from_payload(bytes).map(|denial| denial.to_payload())),
    ("opening", |bytes| Opening::from_payload(bytes).map(|opening| opening.to_payload())),
    ("lease", |bytes| Lease::from_payload(bytes).map(|lease| lease.to_payload())),
    ("envelope", |bytes| Envelope::parse(bytes, PayloadType::Release).map(|envelope| envelope.to_json())),
    ("lease-request", |bytes| LeaseRequest::from_json(bytes).map(|request| request.to_json())),
];

#[test]
fn examples_are_read_and_written_byte_for_byte() {
    for (name, parse) in KINDS {
        let example = read(&format!("{name}.example.json"));
        assert_eq!(
            parse(&example).map(|bytes| String::from_utf8(bytes).unwrap()),
            Ok(String::from_utf8(example).unwrap())
        );
    }
}

#[test]
fn the_examples_belong_together() {
    let root = Root::from_payload(&read("root.example.json")).unwrap();
    let release: Verified<Release> = root.open(&read("envelope.example.json")).unwrap();
    assert_eq!(release.envelope().payload(), read("release.example.json"));
    assert_eq!(release.signers().len(), 2);
    let lease = Lease::from_payload(&read("lease.example.json")).unwrap();
    assert_eq!(lease.release.sha256, release.digest());
    assert_eq!(lease.root.sha256, Sha256Digest::of(&[&read("root.example.json")]));
    assert_eq!(lease.denials[0], Sha256Digest::of(&[&read("denial.example.json")]));
    let request = LeaseRequest::from_json(&read("lease-request.example.json")).unwrap();
    assert_eq!((request.nonce, request.release_sha256), (lease.nonce, release.digest()));
    assert_eq!((request.root_version, request.root_sha256), (lease.root.version, lease.root.sha256));
    // Two keys of the example root are those of these tests, so that a changed example can be signed again.
    let world = World::new();
    let payload = read("release.example.json");
    let sealed = seal(PayloadType::Release, &payload, &[&world.offline[0], &world.offline[1]]);
    assert_eq!(String::from_utf8(sealed).unwrap(), String::from_utf8(read("envelope.example.json")).unwrap());
}

#[test]
fn schema_and_types_agree_on_every_member() {
    for (name, parse) in KINDS {
        let schema = schema(name);
        let example: Value = serde_json::from_slice(&read(&format!("{name}.example.json"))).unwrap();
        compare(&schema, &example, parse);
    }
}

fn compare(schema: &Value, example: &Value, parse: Parse) {
    let accepts = |value: &Value| parse(value.to_string().as_bytes()).is_ok();
    assert!(accepts(example), "{example}");
    let walk = Walk { schema, example, accepts: &accepts };
    let mut seen = BTreeSet::new();
    walk.compare(schema, "", &mut seen);
    assert!(!seen.is_empty());
}

/// The example of a denial shows one target.
#[test]
fn schema_and_types_agree_on_every_target_of_a_denial() {
    let schema = schema("denial");
    let parse: Parse = |bytes| Denial::from_payload(bytes).map(|denial| denial.to_payload());
    let mut example: Value = serde_json::from_slice(&read("denial.example.json")).unwrap();
    let targets =
        [Target::Model(id("m")), Target::Partner(id("p")), Target::Attribute(attribute("jurisdiction=eu"))];
    assert_eq!(schema["$defs"]["target"]["oneOf"].as_array().unwrap().len(), targets.len());
    for target in targets {
        example["halt"] = serde_json::to_value(target).unwrap();
        compare(&schema, &example, parse);
    }
}

struct Walk<'a> {
    schema: &'a Value,
    example: &'a Value,
    accepts: &'a dyn Fn(&Value) -> bool,
}

impl Walk<'_> {
    /// Compares what `schema` says about the value at `pointer` with what the types do when that value changes.
    fn compare(&self, schema: &Value, pointer: &str, seen: &mut BTreeSet<String>) {
        let value = self.example.pointer(pointer).unwrap();
        let schema = self.resolve(schema, value);
        match value {
            Value::Object(members) => {
                assert_eq!(schema["additionalProperties"], Value::Bool(false), "{pointer}");
                self.refused(pointer, "an unknown member", |value| value["unheard-of"] = 1.into());
                self.refused_text(pointer, members.keys().next().unwrap());
                let properties: BTreeSet<&String> =
                    schema["properties"].as_object().unwrap().keys().collect();
                assert_eq!(
                    members.keys().collect::<BTreeSet<_>>(),
                    properties,
                    "the example at {pointer:?} shows every member"
                );
                let required: Vec<&str> =
                    schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                for member in members.keys() {
                    let mut without = self.example.clone();
                    without.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(member);
                    let needed = required.contains(&member.as_str());
                    assert_eq!(!(self.accepts)(&without), needed, "{pointer}/{member} is required");
                    seen.insert(format!("{pointer}/{member}"));
                    self.compare(&schema["properties"][member], &format!("{pointer}/{member}"), seen);
                }
            }
            Value::Array(items) => {
                assert!(schema["maxItems"].is_u64(), "{pointer} has a limit");
                if schema["minItems"] == 1 {
                    self.refused(pointer, "no element", |value| *value = Value::Array(Vec::new()));
                }
                for index in 0..items.len() {
                    self.compare(&schema["items"], &format!("{pointer}/{index}"), seen);
                }
            }
            Value::Number(_) if schema.get("const").is_some() => {
                self.refused(pointer, "another constant", |value| *value = 2.into());
            }
            Value::Number(_) => {
                let most = schema["maximum"].as_u64().unwrap();
                self.refused(pointer, "more than the maximum", |value| *value = (most + 1).into());
                let below = i64::try_from(schema["minimum"].as_u64().unwrap()).unwrap() - 1;
                self.refused(pointer, "less than the minimum", |value| *value = below.into());
                self.refused(pointer, "a fraction", |value| *value = 1.5.into());
            }
            _ => {
                assert!(
                    ["pattern", "enum", "contentEncoding", "maxLength"]
                        .iter()
                        .any(|rule| schema.get(rule).is_some()),
                    "{pointer} has a rule"
                );
                if schema.get("maxLength").is_none() {
                    self.refused(pointer, "a character outside", |value| *value = "\u{fc}".into());
                }
                if schema.get("pattern").is_some() {
                    self.refused(pointer, "an empty text", |value| *value = "".into());
                    self.refused(pointer, "a long text", |value| *value = "a".repeat(200).into());
                }
                self.refused(pointer, "a number", |value| *value = 7.into());
                self.refused(pointer, "null", |value| *value = Value::Null);
            }
        }
    }

    /// Follows references and picks the alternative that fits `value`.
    fn resolve<'s>(&'s self, schema: &'s Value, value: &Value) -> &'s Value {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return self.resolve(self.schema.pointer(reference.trim_start_matches('#')).unwrap(), value);
        }
        let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) else { return schema };
        let fits = |alternative: &&Value| {
            let required = alternative["required"].as_array().unwrap();
            required.iter().all(|member| value.get(member.as_str().unwrap()).is_some())
        };
        alternatives.iter().find(fits).unwrap()
    }

    fn refused(&self, pointer: &str, what: &str, change: impl FnOnce(&mut Value)) {
        let mut changed = self.example.clone();
        change(changed.pointer_mut(pointer).unwrap());
        assert!(!(self.accepts)(&changed), "{what} at {pointer:?} is accepted");
    }

    /// The member `name` twice in the object at `pointer`, which no JSON value can express.
    fn refused_text(&self, pointer: &str, name: &str) {
        const MARK: &str = "\"mark-of-the-test\":0";
        let mut marked = self.example.clone();
        let object = marked.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        object.insert("mark-of-the-test".to_owned(), 0.into());
        let again = format!("{}:{}", Value::from(name), object[name]);
        let text = marked.to_string();
        assert!(text.contains(MARK));
        let value: Result<Value, _> = serde_json::from_str(&text.replace(MARK, &again));
        assert!(value.is_ok(), "a reader that keeps the last of two would take it");
        let parse = KINDS
            .iter()
            .find(|(kind, _)| self.schema["$id"] == format!("cleanroom:schema:{kind}"))
            .unwrap()
            .1;
        assert_eq!(code(parse(text.replace(MARK, &again).as_bytes())), "form", "{name} twice at {pointer:?}");
    }
}

#[test]
fn limits_in_the_schemas_are_those_of_the_code() {
    let at = |name: &str, pointer: &str| {
        schema(name).pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{name}{pointer}"))
    };
    let items = |name, list: &str| at(name, &format!("/properties/{list}/maxItems")) as usize;
    assert_eq!(items("root", "keys"), KEYS_LIMIT);
    for role in Role::ALL {
        let keys = format!("/properties/roles/properties/{role}/properties/keys/maxItems");
        assert_eq!(at("root", &keys) as usize, ROLE_KEYS_LIMIT);
    }
    for (list, limit) in [
        ("supersedes_denials", SUPERSEDED_LIMIT),
        ("images", IMAGES_LIMIT),
        ("nitrotpm_images", IMAGES_LIMIT),
        ("deployments", DEPLOYMENTS_LIMIT),
        ("models", MODELS_LIMIT),
        ("models/items/properties/weights/properties/brokers/properties/of", BROKERS_LIMIT),
        ("models/items/properties/safeguards/properties/limits", SAFEGUARD_LIMITS_LIMIT),
        ("partners", PARTNERS_LIMIT),
        ("partners/items/properties/keys", PARTNER_KEYS_LIMIT),
        ("partners/items/properties/models", PARTNER_MODELS_LIMIT),
        ("partners/items/properties/attributes", PARTNER_ATTRIBUTES_LIMIT),
        ("egress", EGRESS_LIMIT),
        ("witnesses", WITNESSES_LIMIT),
    ] {
        assert_eq!(items("release", list), limit, "{list}");
    }
    assert_eq!(items("lease", "denials"), LEASE_DENIALS_LIMIT);
    assert_eq!(items("envelope", "signatures"), SIGNATURES_LIMIT);
    assert_eq!(at("release", "/properties/lease/properties/seconds/maximum"), LEASE_SECONDS_LIMIT);
    assert_eq!(at("root", "/$defs/version/maximum"), VERSION_LIMIT);
    let pattern = schema("release")["$defs"]["label"]["pattern"].as_str().unwrap().to_owned();
    assert!(pattern.contains(&format!("{{1,{TEXT_LIMIT}}}")), "{pattern}");
    for name in ["release", "denial"] {
        let pattern = schema(name)["$defs"]["attribute-text"]["pattern"].as_str().unwrap().to_owned();
        assert!(pattern.ends_with(&format!("{{0,{}}}$", ATTRIBUTE_TEXT_LIMIT - 1)), "{pattern}");
    }
}
