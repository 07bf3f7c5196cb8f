//! Compiles the part of JSON Schema that programs use for answers into a grammar.
//!
//! Supported keywords: `type`, `properties`, `required`, `additionalProperties`, `propertyNames` with strings
//! or an enumeration, `items`, `prefixItems`, `minItems`, `maxItems`, `minLength`, `maxLength`, `pattern`,
//! `format`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf`, `enum`, `const`,
//! `anyOf`, `oneOf` with exclusive members, `allOf` with one member, `$ref` to `#` and into `$defs` or
//! `definitions`, and annotations. Any other keyword is refused by name, because ignoring it could make the
//! answer invalid. Beside `pattern`, `format` is an annotation, as in the specification.
//!
//! An answer is always valid, but not every valid answer can come. An object with named properties has no
//! others, and they come in the schema's order. A number without bounds has at most 15 digits before the
//! point; a number with bounds has no exponent. A list with `prefixItems` has no further items. Texts of a
//! format have a usual length. Nothing nests deeper than [`MAX_DEPTH`](super::grammar::MAX_DEPTH).

use std::cell::Cell;
use std::collections::HashMap;

use zeroize::Zeroizing;

use super::SchemaError;
use super::grammar::{Builder, Grammar, RETURN, State, StateId};
use super::json::{Json, write_text};
use super::numbers::{self, Bounds, digits_up_to, two_digits};
use super::pattern::Pattern;
use crate::scratch::Scratch;

/// Longest schema (bytes).
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// Most items of a list with `prefixItems`.
const MAX_TUPLE: usize = 1024;
/// Limits of the search for a value that satisfies two schemas: levels of references and properties, and
/// pairs of schemas.
const MAX_REFERENCES: usize = 8;
const MAX_COMPARED: usize = 10_000;

/// Formats that are any text.
const ANY_TEXT: [&str; 6] = ["text", "password", "binary", "path", "file-path", "directory-path"];

/// Formats as patterns. Each describes a part of what the format allows, of a usual length.
const FORMATS: [(&str, &str); 10] = [
    ("email", EMAIL),
    ("idn-email", EMAIL),
    ("hostname", r"^([A-Za-z0-9]{1,32}(-[A-Za-z0-9]{1,16})?\.){1,3}[A-Za-z]{2,12}$"),
    ("ipv4", IPV4),
    ("ipvanyaddress", IPV4),
    ("ipv6", r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$"),
    (
        "uri",
        r"^https?://([A-Za-z0-9]{1,32}(-[A-Za-z0-9]{1,16})?\.){1,3}[A-Za-z]{2,12}(:[1-9]\d{0,3})?(/[A-Za-z0-9._~-]{1,64}){0,6}/?(\?[A-Za-z0-9._~=&-]{1,128})?$",
    ),
    ("duration", r"^P(\d{1,4}D|(\d{1,4}D)?T(\d{1,4}H(\d{1,4}M(\d{1,4}S)?)?|\d{1,4}M(\d{1,4}S)?|\d{1,4}S))$"),
    ("base64", r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    ("base64url", r"^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2}(==)?|[A-Za-z0-9_-]{3}=?)?$"),
];
const EMAIL: &str = r"^[A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,16}){0,2}@([A-Za-z0-9]{1,32}(-[A-Za-z0-9]{1,16})?\.){1,3}[A-Za-z]{2,12}$";
const IPV4: &str = r"^((25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)$";

/// Keywords that do not affect validity.
const ANNOTATIONS: [&str; 11] = [
    "$comment",
    "$id",
    "$schema",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
];

/// Known keywords without support. A refusal may name them.
const UNSUPPORTED: [&str; 22] = [
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$vocabulary",
    "additionalItems",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "maxProperties",
    "minContains",
    "minProperties",
    "not",
    "patternProperties",
    "then",
    "uniqueItems",
];

/// Any JSON object.
pub(super) fn any_object() -> Result<Grammar, SchemaError> {
    let Compiler { builder, any_object, .. } = Compiler::new(&Json::Null)?;
    builder.finish(any_object)
}

/// The JSON that `schema` describes.
pub(super) fn compile(schema: &str) -> Result<Grammar, SchemaError> {
    if schema.len() > MAX_BYTES {
        return Err(SchemaError::TooLong { bytes: schema.len(), limit: MAX_BYTES });
    }
    let root: Json = serde_json::from_str(schema).map_err(|_| SchemaError::Json)?;
    check_keywords(&root)?;
    let mut compiler = Compiler::new(&root)?;
    let rule = compiler.compile_root(&root)?;
    compiler.builder.finish(rule)
}

pub(super) struct Compiler<'a> {
    pub(super) builder: Builder,
    root: &'a Json,
    /// The rules of the referenced schemas.
    rules: HashMap<&'a str, StateId>,
    /// Those without a body yet.
    waiting: Vec<(StateId, &'a Json)>,
    /// Pairs of schemas that were compared.
    compared: Cell<usize>,
    any: StateId,
    any_object: StateId,
    any_array: StateId,
    string: StateId,
    integer: StateId,
    number: StateId,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(root: &'a Json) -> Result<Self, SchemaError> {
        let mut builder = Builder::new();
        let content = builder.characters(0, None, RETURN)?;
        let string = builder.byte(b'"', content)?;
        let integer = numbers::integer(&mut builder, RETURN)?;
        let number = numbers::number(&mut builder, RETURN)?;
        let any = builder.reserve()?;
        let any_object = map(&mut builder, any, string, RETURN)?;
        let any_array = array(&mut builder, any, 0, None, RETURN)?;
        let words = [b"true".as_slice(), b"false", b"null"];
        let mut words: Vec<_> = words.iter().map(|word| Scratch::from(*word)).collect();
        let word = builder.literals(&mut words, RETURN)?;
        builder.set(any, State::Split([any_object, any_array, string, number, word].into()));
        let (rules, waiting, compared) = (HashMap::new(), Vec::new(), Cell::new(0));
        Ok(Self {
            builder,
            root,
            rules,
            waiting,
            compared,
            any,
            any_object,
            any_array,
            string,
            integer,
            number,
        })
    }

    /// The rule of a whole schema.
    pub(super) fn compile_root(&mut self, root: &'a Json) -> Result<StateId, SchemaError> {
        self.root = root;
        self.rules.clear();
        let whole = self.rule("#")?;
        while let Some((rule, schema)) = self.waiting.pop() {
            let body = self.value(schema, RETURN)?;
            self.builder.set(rule, State::Split([body].into()));
        }
        Ok(whole)
    }

    /// The rule of any JSON object.
    pub(super) fn any_object(&self) -> StateId {
        self.any_object
    }

    /// The rule of a place in the schema, which is compiled once.
    fn rule(&mut self, reference: &'a str) -> Result<StateId, SchemaError> {
        if let Some(rule) = self.rules.get(reference) {
            return Ok(*rule);
        }
        let schema = find(self.root, reference).ok_or(SchemaError::Reference)?;
        let rule = self.builder.reserve()?;
        self.rules.insert(reference, rule);
        self.waiting.push((rule, schema));
        Ok(rule)
    }

    /// A value of this schema, and then `next`.
    fn value(&mut self, schema: &'a Json, next: StateId) -> Result<StateId, SchemaError> {
        let mut keywords = Keywords::new(schema)?;
        if let Some(reference) = keywords.take("$ref") {
            let reference = reference.text().ok_or(SchemaError::Value("$ref", "a string"))?;
            keywords.finish()?;
            let rule = self.rule(reference)?;
            return self.builder.call(rule, next);
        }
        if let Some(alternatives) = keywords.schemas("allOf")? {
            let [only] = alternatives else {
                return Err(SchemaError::Value("allOf", "one schema: several are not put together here"));
            };
            keywords.finish()?;
            return self.value(only, next);
        }
        let one_of = keywords.schemas("oneOf")?;
        if let Some(alternatives) = one_of {
            for (index, schema) in alternatives.iter().enumerate() {
                if !alternatives.iter().skip(index + 1).all(|other| self.excludes(schema, other, 0)) {
                    return Err(SchemaError::Value(
                        "oneOf",
                        "schemas of which no value can have two: of other types, or told apart by a required const",
                    ));
                }
            }
        }
        if let Some(alternatives) = one_of.or(keywords.schemas("anyOf")?) {
            keywords.finish()?;
            let states: Result<Vec<_>, _> =
                alternatives.iter().map(|schema| self.value(schema, next)).collect();
            return self.builder.split(states?);
        }
        let types = types(keywords.take("type"))?;
        if let Some(values) = keywords.literals()? {
            keywords.finish()?;
            let fitting = values.into_iter().filter(|value| types.iter().any(|kind| is_a(value, kind)));
            let mut texts: Vec<Scratch<u8>> = fitting
                .map(|value| {
                    let mut text = Scratch::new();
                    value.write(&mut text);
                    text
                })
                .collect();
            if texts.is_empty() {
                return Err(SchemaError::Value("enum", "at least one value of the type"));
            }
            return self.builder.literals(&mut texts, next);
        }
        if types.len() == TYPES.len() && keywords.is_empty() {
            return self.builder.call(self.any, next);
        }
        let states: Result<Vec<_>, _> =
            types.iter().map(|kind| self.typed(kind, &mut keywords, next)).collect();
        keywords.finish()?;
        self.builder.split(states?)
    }

    fn typed(
        &mut self,
        kind: &str,
        keywords: &mut Keywords<'a>,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        match kind {
            "object" => self.object(keywords, next),
            "array" => {
                let (least, most) = keywords.counts("minItems", "maxItems")?;
                if let Some(prefix) = keywords.schemas("prefixItems")? {
                    let others = keywords.take("items");
                    return self.tuple(prefix, others, least, most, next);
                }
                let item = match keywords.take("items") {
                    Some(items) => {
                        let rule = self.builder.reserve()?;
                        self.waiting.push((rule, items));
                        rule
                    }
                    None if least == 0 && most.is_none() => {
                        return self.builder.call(self.any_array, next);
                    }
                    None => self.any,
                };
                array(&mut self.builder, item, least, most, next)
            }
            "string" => self.string(keywords, next),
            "integer" => keywords.bounds()?.integer(&mut self.builder, self.integer, next),
            "number" => keywords.bounds()?.number(&mut self.builder, self.number, next),
            "boolean" => {
                let mut words = [b"true".as_slice(), b"false"].map(Scratch::from);
                self.builder.literals(&mut words, next)
            }
            _ => self.builder.literal(b"null", next),
        }
    }

    fn string(&mut self, keywords: &mut Keywords<'a>, next: StateId) -> Result<StateId, SchemaError> {
        let (least, most) = keywords.counts("minLength", "maxLength")?;
        let free = (least, most) == (0, None);
        let (pattern, format) = (keywords.take("pattern"), keywords.take("format"));
        let format =
            format.map(|format| format.text().ok_or(SchemaError::Value("format", "a string"))).transpose()?;
        let of_format = || FORMATS.iter().find(|(name, _)| format == Some(name)).map(|(_, pattern)| *pattern);
        let pattern = match pattern {
            Some(pattern) => Some(pattern.text().ok_or(SchemaError::Value("pattern", "a string"))?),
            None => of_format(),
        };
        if let Some(pattern) = pattern {
            let pattern = Pattern::parse(pattern)?;
            let (shortest, longest) = pattern.lengths();
            if shortest < least || most.is_some_and(|most| longest.is_none_or(|longest| longest > most)) {
                return Err(SchemaError::Value(
                    "minLength",
                    "as maxLength a length that the pattern or format beside it keeps to",
                ));
            }
            let quote = self.builder.byte(b'"', next)?;
            let text = pattern.states(&mut self.builder, quote)?;
            return self.builder.byte(b'"', text);
        }
        // `text` is the word for no format, as Anthropic's client sends it.
        if let Some(format) = format.filter(|format| !ANY_TEXT.contains(format)) {
            if !free {
                return Err(SchemaError::Value("format", "no minLength and no maxLength beside it"));
            }
            let quote = self.builder.byte(b'"', next)?;
            let text = match Some(format) {
                Some("date") => date(&mut self.builder, quote)?,
                Some("time") => time(&mut self.builder, quote)?,
                Some("date-time") => {
                    let time = time(&mut self.builder, quote)?;
                    let separator = self.builder.byte(b'T', time)?;
                    date(&mut self.builder, separator)?
                }
                Some("uuid") => uuid(&mut self.builder, quote)?,
                _ => {
                    return Err(SchemaError::Value(
                        "format",
                        "date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6, uri, base64 or base64url",
                    ));
                }
            };
            return self.builder.byte(b'"', text);
        }
        if free {
            return self.builder.call(self.string, next);
        }
        let content = self.builder.characters(least, most, next)?;
        self.builder.byte(b'"', content)
    }

    fn object(&mut self, keywords: &mut Keywords<'a>, next: StateId) -> Result<StateId, SchemaError> {
        let properties = match keywords.take("properties") {
            Some(Json::Object(properties)) => properties.as_slice(),
            Some(_) => return Err(SchemaError::Value("properties", "an object of schemas")),
            None => &[],
        };
        let required = required(keywords)?;
        let others = match keywords.take("additionalProperties") {
            Some(Json::Boolean(false)) => None,
            Some(Json::Boolean(true)) | None => Some(None),
            Some(schema) => Some(Some(schema)),
        };
        let names = keywords.take("propertyNames").map(|names| self.names(names)).transpose()?;
        if names.is_some_and(|rule| rule != self.string) && !properties.is_empty() {
            return Err(SchemaError::Misplaced("propertyNames"));
        }
        let names = names.unwrap_or(self.string);
        let undefined: Vec<&str> = required
            .iter()
            .copied()
            .filter(|name| !properties.iter().any(|(property, _)| property.as_str() == *name))
            .collect();
        if properties.is_empty() && undefined.is_empty() {
            return self.unnamed(others, names, next);
        }
        if !undefined.is_empty() {
            return Err(SchemaError::Value("required", "names that properties defines"));
        }
        self.named(properties, &required, next)
    }

    /// An object whose members have no names in the schema. `others` is what their values are: `None` when there
    /// are none, `Some(None)` when they are anything.
    fn unnamed(
        &mut self,
        others: Option<Option<&'a Json>>,
        names: StateId,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        match others {
            Some(Some(schema)) => {
                let rule = self.builder.reserve()?;
                self.waiting.push((rule, schema));
                map(&mut self.builder, rule, names, next)
            }
            Some(None) if names == self.string => self.builder.call(self.any_object, next),
            Some(None) => map(&mut self.builder, self.any, names, next),
            None => self.builder.literal(b"{}", next),
        }
    }

    /// An object with these members, in their order. The ones in `required` are always there.
    fn named(
        &mut self,
        properties: &'a [(Zeroizing<String>, Json)],
        required: &[&str],
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        // From the last property to the first, because each rule needs the one that follows.
        let end = self.builder.byte(b'}', next)?;
        let ending = self.builder.white_space(end)?;
        let (mut after, mut first, mut choice, mut rest_is_optional) = (ending, end, None, true);
        for (name, schema) in properties.iter().rev() {
            let optional = !required.contains(&name.as_str());
            let value = self.value(schema, after)?;
            let space = self.builder.white_space(value)?;
            let colon = self.builder.byte(b':', space)?;
            let mut key = Scratch::new();
            write_text(name, &mut key);
            let key = self.builder.literal(&key, colon)?;
            let or_later = |later: Option<StateId>| {
                [key].into_iter().chain(later.filter(|_| optional)).collect::<Vec<_>>()
            };
            let this = self.builder.split(or_later(choice))?;
            first = self.builder.split(or_later(Some(first)))?;
            rest_is_optional &= optional;
            let space = self.builder.white_space(this)?;
            let comma = self.builder.byte(b',', space)?;
            after = if rest_is_optional { self.builder.split(vec![ending, comma])? } else { comma };
            choice = Some(this);
        }
        let space = self.builder.white_space(first)?;
        self.builder.byte(b'{', space)
    }

    /// The rule of names that `propertyNames` allows: any, or one of a list.
    fn names(&mut self, schema: &'a Json) -> Result<StateId, SchemaError> {
        const EXPECTED: SchemaError = SchemaError::Value("propertyNames", "strings, or an enum of strings");
        let mut keywords = Keywords::new(schema)?;
        if types(keywords.take("type"))?.iter().all(|kind| *kind != "string") {
            return Err(EXPECTED);
        }
        let listed = keywords.literals()?;
        keywords.finish()?;
        let Some(listed) = listed else { return Ok(self.string) };
        let text = |name: &Json| {
            let mut text = Scratch::new();
            write_text(name.text().ok_or(EXPECTED)?, &mut text);
            Ok(text)
        };
        let mut texts = listed.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        self.builder.literals(&mut texts, RETURN)
    }

    /// A list of these values, in this order. The schema permits further items; they come only where
    /// `minItems` asks for them.
    fn tuple(
        &mut self,
        prefix: &'a [Json],
        others: Option<&'a Json>,
        least: u32,
        most: Option<u32>,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        let (least, most) = (least as usize, most.map_or(usize::MAX, |most| most as usize));
        let mut items: Vec<Option<&'a Json>> = prefix.iter().take(most).map(Some).collect();
        while items.len() < least {
            match others {
                Some(Json::Boolean(false)) => {
                    return Err(SchemaError::Value("minItems", "no more items than there can be"));
                }
                others => items.push(others),
            }
            if items.len() > MAX_TUPLE {
                return Err(SchemaError::TooLarge);
            }
        }
        let end = self.builder.byte(b']', next)?;
        if items.is_empty() {
            return self.builder.byte(b'[', end);
        }
        let mut after = self.builder.white_space(end)?;
        for (index, item) in items.iter().enumerate().rev() {
            let value = match item {
                Some(schema) => self.value(schema, after)?,
                None => self.builder.call(self.any, after)?,
            };
            let space = self.builder.white_space(value)?;
            after = if index == 0 { space } else { self.builder.byte(b',', space)? };
        }
        self.builder.byte(b'[', after)
    }

    /// Whether the two schemas plainly exclude each other.
    fn excludes(&self, a: &'a Json, b: &'a Json, references: usize) -> bool {
        let resolved = |schema: &'a Json| match member(schema, "$ref").and_then(Json::text) {
            Some(reference) => find(self.root, reference),
            None => Some(schema),
        };
        let (Some(a), Some(b)) = (resolved(a), resolved(b)) else { return false };
        self.compared.set(self.compared.get() + 1);
        if references >= MAX_REFERENCES || self.compared.get() > MAX_COMPARED {
            return false;
        }
        if [a, b].iter().any(|schema| member(schema, "$ref").is_some()) {
            return self.excludes(a, b, references + 1);
        }
        let literals = |schema: &'a Json| -> Option<Vec<Scratch<u8>>> {
            let values = match (member(schema, "const"), member(schema, "enum")) {
                (Some(value), _) => std::slice::from_ref(value),
                (None, Some(Json::Array(values))) => values.as_slice(),
                _ => return None,
            };
            let write = |value: &Json| {
                let mut text = Scratch::new();
                value.write(&mut text);
                text
            };
            Some(values.iter().map(write).collect())
        };
        if let (Some(a), Some(b)) = (literals(a), literals(b)) {
            return a.iter().all(|a| b.iter().all(|b| **a != **b));
        }
        let kinds = |schema: &'a Json| types(member(schema, "type")).unwrap_or_else(|_| TYPES.to_vec());
        let general = |kind: &str| if kind == "integer" { "number" } else { kind }.to_owned();
        if kinds(a).into_iter().all(|a| kinds(b).into_iter().all(|b| general(a) != general(b))) {
            return true;
        }
        let are_objects = [a, b].iter().all(|schema| kinds(schema) == ["object"]);
        let required = |schema: &'a Json, name: &str| match member(schema, "required") {
            Some(Json::Array(names)) => names.iter().any(|known| known.text() == Some(name)),
            _ => false,
        };
        let property = |schema: &'a Json, name: &str| member(member(schema, "properties")?, name);
        let Some(Json::Object(properties)) = member(a, "properties") else { return false };
        are_objects
            && properties.iter().any(|(name, of_a)| {
                required(a, name)
                    && required(b, name)
                    && property(b, name).is_some_and(|of_b| self.excludes(of_a, of_b, references + 1))
            })
    }
}

/// The member of an object.
fn member<'a>(json: &'a Json, name: &str) -> Option<&'a Json> {
    match json {
        Json::Object(members) => members.iter().find(|(n, _)| n.as_str() == name).map(|(_, value)| value),
        _ => None,
    }
}

/// Refuses unsupported keywords in written order, so the first one is reported. A definition is checked when
/// something refers to it.
fn check_keywords(schema: &Json) -> Result<(), SchemaError> {
    let Json::Object(members) = schema else { return Ok(()) };
    for (name, value) in members {
        if let Some(known) = UNSUPPORTED.iter().find(|known| **known == name.as_str()) {
            return Err(SchemaError::Keyword(known));
        }
        match (name.as_str(), value) {
            ("properties", Json::Object(properties)) => {
                properties.iter().try_for_each(|(_, schema)| check_keywords(schema))?;
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Json::Array(schemas)) => {
                schemas.iter().try_for_each(check_keywords)?;
            }
            ("items" | "additionalProperties" | "propertyNames", schema) => check_keywords(schema)?,
            _ => {}
        }
    }
    Ok(())
}

/// All types there are. An integer is a number.
const TYPES: [&str; 6] = ["object", "array", "string", "number", "boolean", "null"];

fn types(value: Option<&Json>) -> Result<Vec<&str>, SchemaError> {
    let expected = SchemaError::Value("type", "a type's name, or several without repetition");
    let names: Vec<&str> = match value {
        None => return Ok(TYPES.to_vec()),
        Some(Json::Text(name)) => vec![name.as_str()],
        Some(Json::Array(names)) => names.iter().map(Json::text).collect::<Option<_>>().ok_or(expected)?,
        Some(_) => return Err(expected),
    };
    let known = names.iter().all(|name| TYPES.contains(name) || *name == "integer");
    let repeated = names.iter().enumerate().any(|(index, name)| names.iter().take(index).any(|n| n == name));
    if !known || repeated || names.is_empty() {
        return Err(expected);
    }
    let whole = names.contains(&"number");
    Ok(names.into_iter().filter(|name| *name != "integer" || !whole).collect())
}

fn is_a(value: &Json, kind: &str) -> bool {
    match value {
        Json::Null => kind == "null",
        Json::Boolean(_) => kind == "boolean",
        Json::Number(number) => kind == "number" || (kind == "integer" && !number.is_f64()),
        Json::Text(_) => kind == "string",
        Json::Array(_) => kind == "array",
        Json::Object(_) => kind == "object",
    }
}

/// The target of a reference: `#`, or an entry of `$defs` or `definitions`.
fn find<'a>(root: &'a Json, reference: &str) -> Option<&'a Json> {
    if reference == "#" {
        return Some(root);
    }
    let (list, name) = reference.strip_prefix("#/")?.split_once('/')?;
    // Names with slashes and tildes are written with these (RFC 6901, section 4).
    let name = Zeroizing::new(name.replace("~1", "/").replace("~0", "~"));
    ["$defs", "definitions"].contains(&list).then(|| member(member(root, list)?, &name))?
}

/// The members of a schema that are not yet handled.
struct Keywords<'a>(Vec<(&'a str, &'a Json)>);

impl<'a> Keywords<'a> {
    fn new(schema: &'a Json) -> Result<Self, SchemaError> {
        let members = match schema {
            Json::Boolean(true) => &[],
            Json::Object(members) => members.as_slice(),
            _ => return Err(SchemaError::NoSchema),
        };
        let passed = ["$defs", "definitions"];
        let members = members.iter().map(|(name, value)| (name.as_str(), value));
        Ok(Self(members.filter(|(name, _)| !ANNOTATIONS.contains(name) && !passed.contains(name)).collect()))
    }

    fn take(&mut self, name: &str) -> Option<&'a Json> {
        let index = self.0.iter().position(|(keyword, _)| *keyword == name)?;
        Some(self.0.remove(index).1)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses the remaining members.
    fn finish(&self) -> Result<(), SchemaError> {
        /// Supported, but without effect here: beside a type to which they do not apply, or beside `$ref`,
        /// `anyOf` or `enum`.
        const KNOWN: [&str; 21] = [
            "type",
            "enum",
            "const",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "minItems",
            "maxItems",
            "minLength",
            "maxLength",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
            "pattern",
            "prefixItems",
            "propertyNames",
            "oneOf",
            "allOf",
        ];
        let Some((name, _)) = self.0.first() else { return Ok(()) };
        let known = KNOWN.iter().chain(["format", "anyOf"].iter()).find(|known| *known == name);
        if let Some(known) = known {
            return Err(SchemaError::Misplaced(known));
        }
        let unsupported = UNSUPPORTED.iter().find(|known| *known == name).copied();
        Err(SchemaError::Keyword(unsupported.unwrap_or("(not a keyword of JSON Schema)")))
    }

    fn literals(&mut self) -> Result<Option<Vec<&'a Json>>, SchemaError> {
        match (self.take("const"), self.take("enum")) {
            (None, None) => Ok(None),
            (Some(value), None) => Ok(Some(vec![value])),
            (None, Some(Json::Array(values))) => Ok(Some(values.iter().collect())),
            (None, Some(_)) => Err(SchemaError::Value("enum", "an array")),
            (Some(_), Some(_)) => Err(SchemaError::Value("const", "no enum beside it")),
        }
    }

    /// A lower and an upper bound.
    fn counts(&mut self, least: &'static str, most: &'static str) -> Result<(u32, Option<u32>), SchemaError> {
        let mut count = |name: &'static str| match self.take(name) {
            None => Ok(None),
            Some(Json::Number(number)) => {
                let count = number.as_u64().and_then(|count| u32::try_from(count).ok());
                count.map(Some).ok_or(SchemaError::Value(name, "a whole number"))
            }
            Some(_) => Err(SchemaError::Value(name, "a whole number")),
        };
        let (low, high) = (count(least)?.unwrap_or(0), count(most)?);
        if high.is_some_and(|high| high < low) {
            return Err(SchemaError::Value(most, "no less than the minimum"));
        }
        Ok((low, high))
    }

    /// A list of schemas.
    fn schemas(&mut self, name: &'static str) -> Result<Option<&'a [Json]>, SchemaError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Array(schemas)) if !schemas.is_empty() => Ok(Some(schemas)),
            Some(_) => Err(SchemaError::Value(name, "an array of at least one schema")),
        }
    }

    /// The keywords of a number.
    fn bounds(&mut self) -> Result<Bounds<'a>, SchemaError> {
        let mut number = |name: &'static str| match self.take(name) {
            None => Ok(None),
            Some(Json::Number(number)) => Ok(Some(number)),
            Some(_) => Err(SchemaError::Value(name, "a number")),
        };
        Ok(Bounds {
            minimum: number("minimum")?,
            exclusive_minimum: number("exclusiveMinimum")?,
            maximum: number("maximum")?,
            exclusive_maximum: number("exclusiveMaximum")?,
            multiple_of: number("multipleOf")?,
        })
    }
}

/// An array of `least` to `most` items.
fn array(
    builder: &mut Builder,
    item: StateId,
    least: u32,
    most: Option<u32>,
    next: StateId,
) -> Result<StateId, SchemaError> {
    let end = builder.byte(b']', next)?;
    let close = builder.white_space(end)?;
    // After an item, from the last to the first.
    let mut after = match most {
        Some(_) => close,
        None => {
            let after = builder.reserve()?;
            let again = builder.call(item, after)?;
            let space = builder.white_space(again)?;
            let comma = builder.byte(b',', space)?;
            builder.set(after, State::Split([close, comma].into()));
            after
        }
    };
    for count in (1..most.unwrap_or(least.max(1))).rev() {
        let again = builder.call(item, after)?;
        let space = builder.white_space(again)?;
        let comma = builder.byte(b',', space)?;
        after = if count >= least { builder.split(vec![close, comma])? } else { comma };
    }
    let mut starts = Vec::new();
    if most != Some(0) {
        starts.push(builder.call(item, after)?);
    }
    if least == 0 {
        starts.push(end);
    }
    let start = builder.split(starts)?;
    let space = builder.white_space(start)?;
    builder.byte(b'[', space)
}

/// An object of any names with values of one rule.
fn required<'a>(keywords: &mut Keywords<'a>) -> Result<Vec<&'a str>, SchemaError> {
    match keywords.take("required") {
        Some(Json::Array(names)) => {
            let names = names.iter().map(|name| name.text().ok_or(SchemaError::Value("required", "names")));
            names.collect()
        }
        Some(_) => Err(SchemaError::Value("required", "an array of names")),
        None => Ok(Vec::new()),
    }
}

fn map(
    builder: &mut Builder,
    value: StateId,
    string: StateId,
    next: StateId,
) -> Result<StateId, SchemaError> {
    let end = builder.byte(b'}', next)?;
    let close = builder.white_space(end)?;
    let after = builder.reserve()?;
    let value = builder.call(value, after)?;
    let space = builder.white_space(value)?;
    let colon = builder.byte(b':', space)?;
    let member = builder.call(string, colon)?;
    let space = builder.white_space(member)?;
    let comma = builder.byte(b',', space)?;
    builder.set(after, State::Split([close, comma].into()));
    let start = builder.split(vec![member, end])?;
    let space = builder.white_space(start)?;
    builder.byte(b'{', space)
}

/// A day that exists in every year (RFC 3339, section 5.6).
fn date(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let mut day = |last| -> Result<StateId, SchemaError> {
        let day = two_digits(builder, 1, last, next)?;
        builder.byte(b'-', day)
    };
    let (short, usual, long) = (day(28)?, day(30)?, day(31)?);
    let digit = |number: u8| b'0' + number;
    let early: Vec<_> = (1..=9)
        .map(|month| {
            let days = match month {
                2 => short,
                4 | 6 | 9 => usual,
                _ => long,
            };
            (digit(month), digit(month), days)
        })
        .collect();
    let early = builder.ranges(&early)?;
    let late = builder.ranges(&[(b'0', b'0', long), (b'1', b'1', usual), (b'2', b'2', long)])?;
    let month = builder.ranges(&[(b'0', b'0', early), (b'1', b'1', late)])?;
    let month = builder.byte(b'-', month)?;
    let mut year = month;
    for _ in 0..3 {
        year = builder.ranges(&[(b'0', b'9', year)])?;
    }
    builder.ranges(&[(b'1', b'9', year)])
}

/// A time with its offset (RFC 3339, section 5.6), without leap seconds.
fn time(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let minutes = two_digits(builder, 0, 59, next)?;
    let colon = builder.byte(b':', minutes)?;
    let hours = two_digits(builder, 0, 23, colon)?;
    let offset = builder.ranges(&[(b'+', b'+', hours), (b'-', b'-', hours), (b'Z', b'Z', next)])?;
    let fraction = digits_up_to(builder, 5, offset)?;
    let fraction = builder.ranges(&[(b'0', b'9', fraction)])?;
    let point = builder.byte(b'.', fraction)?;
    let end = builder.split(vec![offset, point])?;
    let seconds = two_digits(builder, 0, 59, end)?;
    let colon = builder.byte(b':', seconds)?;
    let minutes = two_digits(builder, 0, 59, colon)?;
    let colon = builder.byte(b':', minutes)?;
    two_digits(builder, 0, 23, colon)
}

fn uuid(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let mut state = next;
    for (index, length) in [12, 4, 4, 4, 8].into_iter().enumerate() {
        if index > 0 {
            state = builder.byte(b'-', state)?;
        }
        for _ in 0..length {
            state = builder.ranges(&[(b'0', b'9', state), (b'a', b'f', state)])?;
        }
    }
    Ok(state)
}
