//! JSON Schema to a grammar: the part of it that programs send to have their answers shaped.
//!
//! What is understood: `type`, `properties`, `required`, `additionalProperties`, `items`, `minItems`, `maxItems`, `minLength`,
//! `maxLength`, `minimum`, `maximum`, `exclusiveMinimum` and `exclusiveMaximum` of integers, `format` for dates, times and UUIDs,
//! `enum`, `const`, `anyOf`, `$ref` to `#` and into `$defs` or `definitions`, and annotations. Any other keyword is refused by name:
//! one that was ignored could make the answer invalid.
//!
//! Of what a schema allows, an answer may be a part: an object that names its properties gets no others, properties come in the
//! schema's order, numbers have at most 15 digits before the point and nothing nests deeper than [`MAX_DEPTH`](super::grammar::MAX_DEPTH).

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::SchemaError;
use super::grammar::{Builder, Grammar, RETURN, State, StateId};
use super::json::{Json, write_text};
use crate::scratch::Scratch;

/// Longest schema (bytes).
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// Most digits of an integer: what every reader of JSON keeps exactly.
const DIGITS: usize = 15;
/// The largest number of so many digits.
const LARGEST: i64 = 999_999_999_999_999;
/// Digits of a fraction.
const FRACTION: usize = 17;

/// Keywords without effect on what is valid.
const ANNOTATIONS: [&str; 10] = [
    "$comment",
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

/// Keywords that are known and not understood, so that a refusal may name them.
const UNSUPPORTED: [&str; 29] = [
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$id",
    "$vocabulary",
    "additionalItems",
    "allOf",
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
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "propertyNames",
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
    let mut compiler = Compiler::new(&root)?;
    let rule = compiler.rule("#")?;
    while let Some((rule, schema)) = compiler.waiting.pop() {
        let body = compiler.value(schema, RETURN)?;
        compiler.builder.set(rule, State::Split([body].into()));
    }
    compiler.builder.finish(rule)
}

struct Compiler<'a> {
    builder: Builder,
    root: &'a Json,
    /// The rules of the places that were referred to.
    rules: HashMap<&'a str, StateId>,
    /// Those without a body yet.
    waiting: Vec<(StateId, &'a Json)>,
    any: StateId,
    any_object: StateId,
    any_array: StateId,
    string: StateId,
    integer: StateId,
    number: StateId,
}

impl<'a> Compiler<'a> {
    fn new(root: &'a Json) -> Result<Self, SchemaError> {
        let mut builder = Builder::new();
        let content = builder.characters(0, None, RETURN)?;
        let string = builder.byte(b'"', content)?;
        let integer = integer(&mut builder, RETURN)?;
        let number = number(&mut builder, RETURN)?;
        let any = builder.reserve()?;
        let any_object = map(&mut builder, any, string, RETURN)?;
        let any_array = array(&mut builder, any, 0, None, RETURN)?;
        let words = [b"true".as_slice(), b"false", b"null"];
        let mut words: Vec<_> = words.iter().map(|word| Scratch::from(*word)).collect();
        let word = builder.literals(&mut words, RETURN)?;
        builder.set(any, State::Split([any_object, any_array, string, number, word].into()));
        let (rules, waiting) = (HashMap::new(), Vec::new());
        Ok(Self { builder, root, rules, waiting, any, any_object, any_array, string, integer, number })
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
        if let Some(alternatives) = keywords.take("anyOf") {
            let Json::Array(alternatives) = alternatives else {
                return Err(SchemaError::Value("anyOf", "an array of schemas"));
            };
            if alternatives.is_empty() {
                return Err(SchemaError::Value("anyOf", "at least one schema"));
            }
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
            "integer" => match keywords.bounds()? {
                None => self.builder.call(self.integer, next),
                Some((least, most)) => integers(&mut self.builder, least, most, next),
            },
            "number" => self.builder.call(self.number, next),
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
        if let Some(format) = keywords.take("format") {
            if !free {
                return Err(SchemaError::Value("format", "no minLength and no maxLength beside it"));
            }
            let quote = self.builder.byte(b'"', next)?;
            let text = match format.text() {
                // The word for no format, as Anthropic's client sends it.
                Some("text") => return self.builder.call(self.string, next),
                Some("date") => date(&mut self.builder, quote)?,
                Some("time") => time(&mut self.builder, quote)?,
                Some("date-time") => {
                    let time = time(&mut self.builder, quote)?;
                    let separator = self.builder.byte(b'T', time)?;
                    date(&mut self.builder, separator)?
                }
                Some("uuid") => uuid(&mut self.builder, quote)?,
                _ => return Err(SchemaError::Value("format", "date, time, date-time or uuid")),
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
        let mut required = Vec::new();
        match keywords.take("required") {
            Some(Json::Array(names)) => {
                for name in names {
                    required.push(name.text().ok_or(SchemaError::Value("required", "names"))?);
                }
            }
            Some(_) => return Err(SchemaError::Value("required", "an array of names")),
            None => {}
        }
        let others = match keywords.take("additionalProperties") {
            Some(Json::Boolean(false)) => None,
            Some(Json::Boolean(true)) | None => Some(None),
            Some(schema) => Some(Some(schema)),
        };
        let undefined: Vec<&str> = required
            .iter()
            .copied()
            .filter(|name| !properties.iter().any(|(property, _)| property.as_str() == *name))
            .collect();
        if properties.is_empty() && undefined.is_empty() {
            return match others {
                Some(Some(schema)) => {
                    let rule = self.builder.reserve()?;
                    self.waiting.push((rule, schema));
                    map(&mut self.builder, rule, self.string, next)
                }
                Some(None) => self.builder.call(self.any_object, next),
                None => self.builder.literal(b"{}", next),
            };
        }
        if !undefined.is_empty() {
            return Err(SchemaError::Value("required", "names that properties defines"));
        }
        // From the last property to the first: what may come after it, and what it is itself.
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

/// The place that a reference names: `#`, or one under `$defs` or `definitions`.
fn find<'a>(root: &'a Json, reference: &str) -> Option<&'a Json> {
    let member = |json: &'a Json, name: &str| match json {
        Json::Object(members) => members.iter().find(|(n, _)| n.as_str() == name).map(|(_, value)| value),
        _ => None,
    };
    if reference == "#" {
        return Some(root);
    }
    let (list, name) = reference.strip_prefix("#/")?.split_once('/')?;
    // Names with slashes and tildes are written with these (RFC 6901, section 4).
    let name = Zeroizing::new(name.replace("~1", "/").replace("~0", "~"));
    ["$defs", "definitions"].contains(&list).then(|| member(member(root, list)?, &name))?
}

/// The members of a schema that nobody has taken yet.
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
        Some(self.0.swap_remove(index).1)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses what was not taken.
    fn finish(&self) -> Result<(), SchemaError> {
        /// Understood, and left over all the same: beside a type that they say nothing of, or beside `$ref`, `anyOf` and `enum`.
        const KNOWN: [&str; 15] = [
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

    /// The least and the most of something.
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

    /// The bounds of an integer, both inclusive, if there are any.
    fn bounds(&mut self) -> Result<Option<(i64, i64)>, SchemaError> {
        let mut bound = |name: &'static str, beyond: i64| match self.take(name) {
            None => Ok(None),
            Some(Json::Number(number)) => {
                let bound = number.as_i64().filter(|bound| (-LARGEST..=LARGEST).contains(bound));
                bound.map(|bound| Some(bound + beyond)).ok_or(SchemaError::Value(name, BOUND))
            }
            Some(_) => Err(SchemaError::Value(name, BOUND)),
        };
        let least = bound("minimum", 0)?.max(bound("exclusiveMinimum", 1)?);
        let most = match (bound("maximum", 0)?, bound("exclusiveMaximum", -1)?) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if least.is_none() && most.is_none() {
            return Ok(None);
        }
        let (least, most) = (least.unwrap_or(-LARGEST), most.unwrap_or(LARGEST));
        if least > most {
            return Err(SchemaError::Value("minimum", "no more than the maximum"));
        }
        Ok(Some((least, most)))
    }
}

const BOUND: &str = "a whole number of at most 15 digits";

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

/// Up to `most` digits.
fn digits(builder: &mut Builder, most: usize, next: StateId) -> Result<StateId, SchemaError> {
    let mut state = next;
    for _ in 0..most {
        let digit = builder.ranges(&[(b'0', b'9', state)])?;
        state = builder.split(vec![next, digit])?;
    }
    Ok(state)
}

fn integer(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let more = digits(builder, DIGITS - 1, next)?;
    let magnitude = [(b'0', b'0', next), (b'1', b'9', more)];
    let positive = builder.ranges(&magnitude)?;
    builder.ranges(&[magnitude[0], magnitude[1], (b'-', b'-', positive)])
}

/// A number whose magnitude every reader can hold.
fn number(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let last = builder.ranges(&[(b'0', b'9', next)])?;
    let last = builder.split(vec![next, last])?;
    let power = builder.ranges(&[(b'0', b'9', last)])?;
    let power = builder.ranges(&[(b'+', b'+', power), (b'-', b'-', power), (b'0', b'9', last)])?;
    let exponent = builder.ranges(&[(b'E', b'E', power), (b'e', b'e', power)])?;
    let end = builder.split(vec![next, exponent])?;
    let fraction = digits(builder, FRACTION - 1, end)?;
    let fraction = builder.ranges(&[(b'0', b'9', fraction)])?;
    let point = builder.byte(b'.', fraction)?;
    let end = builder.split(vec![end, point])?;
    integer(builder, end)
}

/// An integer from `least` to `most`.
fn integers(builder: &mut Builder, least: i64, most: i64, next: StateId) -> Result<StateId, SchemaError> {
    let mut states = Vec::new();
    if least < 0 {
        let magnitude = magnitudes(builder, (-most).max(1), -least, next)?;
        states.push(builder.byte(b'-', magnitude)?);
    }
    if most >= 0 {
        states.push(magnitudes(builder, least.max(0), most, next)?);
    }
    builder.split(states)
}

/// A number without a sign from `least` to `most`: for each number of digits a part.
fn magnitudes(builder: &mut Builder, least: i64, most: i64, next: StateId) -> Result<StateId, SchemaError> {
    let mut states = Vec::new();
    let mut start = 0;
    for length in 1..=DIGITS as u32 {
        let end = 10_i64.pow(length) - 1;
        let (low, high) = (least.max(start), most.min(end));
        if low <= high {
            let (low, high) = (low.to_string(), high.to_string());
            states.push(between(builder, low.as_bytes(), high.as_bytes(), [true, true], next)?);
        }
        start = end + 1;
    }
    builder.split(states)
}

/// As many digits as the bounds have; a bound that an earlier digit settled is loose.
fn between(
    builder: &mut Builder,
    low: &[u8],
    high: &[u8],
    [low_tight, high_tight]: [bool; 2],
    next: StateId,
) -> Result<StateId, SchemaError> {
    let (Some((&low_digit, low)), Some((&high_digit, high))) = (low.split_first(), high.split_first()) else {
        return Ok(next);
    };
    let first = if low_tight { low_digit } else { b'0' };
    let last = if high_tight { high_digit } else { b'9' };
    if first == last {
        let rest = between(builder, low, high, [low_tight, high_tight], next)?;
        return builder.byte(first, rest);
    }
    let (mut from, mut to, mut ranges) = (first, last, Vec::new());
    if low_tight {
        ranges.push((first, first, between(builder, low, high, [true, false], next)?));
        from += 1;
    }
    if high_tight {
        ranges.push((last, last, between(builder, low, high, [false, true], next)?));
        to -= 1;
    }
    if from <= to {
        ranges.push((from, to, between(builder, low, high, [false, false], next)?));
    }
    builder.ranges(&ranges)
}

/// Two digits from `low` to `high`.
fn two_digits(builder: &mut Builder, low: u8, high: u8, next: StateId) -> Result<StateId, SchemaError> {
    let text = |number: u8| [b'0' + number / 10, b'0' + number % 10];
    between(builder, &text(low), &text(high), [true, true], next)
}

/// A day that there is in every year (RFC 3339, section 5.6).
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
    let fraction = digits(builder, 5, offset)?;
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
