//! The members of a schema: which there are, and how their values are read.

use zeroize::Zeroizing;

use super::{Json, SchemaError};
use crate::constraint::numbers::Bounds;

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

/// All types there are. An integer is a number.
pub(super) const TYPES: [&str; 6] = ["object", "array", "string", "number", "boolean", "null"];

/// The member of an object.
pub(super) fn member<'a>(json: &'a Json, name: &str) -> Option<&'a Json> {
    match json {
        Json::Object(members) => members.iter().find(|(n, _)| n.as_str() == name).map(|(_, value)| value),
        _ => None,
    }
}

/// Refuses unsupported keywords in written order, so the first one is reported. A definition is checked when
/// something refers to it.
pub(super) fn check_keywords(schema: &Json) -> Result<(), SchemaError> {
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

pub(super) fn types(value: Option<&Json>) -> Result<Vec<&str>, SchemaError> {
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

pub(super) fn is_a(value: &Json, kind: &str) -> bool {
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
pub(super) fn find<'a>(root: &'a Json, reference: &str) -> Option<&'a Json> {
    if reference == "#" {
        return Some(root);
    }
    let (list, name) = reference.strip_prefix("#/")?.split_once('/')?;
    // Names with slashes and tildes are written with these (RFC 6901, section 4).
    let name = Zeroizing::new(name.replace("~1", "/").replace("~0", "~"));
    ["$defs", "definitions"].contains(&list).then(|| member(member(root, list)?, &name))?
}

/// The members of a schema that are not yet handled.
pub(super) struct Keywords<'a>(Vec<(&'a str, &'a Json)>);

impl<'a> Keywords<'a> {
    pub(super) fn new(schema: &'a Json) -> Result<Self, SchemaError> {
        let members = match schema {
            Json::Boolean(true) => &[],
            Json::Object(members) => members.as_slice(),
            _ => return Err(SchemaError::NoSchema),
        };
        let passed = ["$defs", "definitions"];
        let members = members.iter().map(|(name, value)| (name.as_str(), value));
        Ok(Self(members.filter(|(name, _)| !ANNOTATIONS.contains(name) && !passed.contains(name)).collect()))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<&'a Json> {
        let index = self.0.iter().position(|(keyword, _)| *keyword == name)?;
        Some(self.0.remove(index).1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses the remaining members.
    pub(super) fn finish(&self) -> Result<(), SchemaError> {
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

    pub(super) fn literals(&mut self) -> Result<Option<Vec<&'a Json>>, SchemaError> {
        match (self.take("const"), self.take("enum")) {
            (None, None) => Ok(None),
            (Some(value), None) => Ok(Some(vec![value])),
            (None, Some(Json::Array(values))) => Ok(Some(values.iter().collect())),
            (None, Some(_)) => Err(SchemaError::Value("enum", "an array")),
            (Some(_), Some(_)) => Err(SchemaError::Value("const", "no enum beside it")),
        }
    }

    /// A lower and an upper bound.
    pub(super) fn counts(
        &mut self,
        least: &'static str,
        most: &'static str,
    ) -> Result<(u32, Option<u32>), SchemaError> {
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
    pub(super) fn schemas(&mut self, name: &'static str) -> Result<Option<&'a [Json]>, SchemaError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Array(schemas)) if !schemas.is_empty() => Ok(Some(schemas)),
            Some(_) => Err(SchemaError::Value(name, "an array of at least one schema")),
        }
    }

    /// The keywords of a number.
    pub(super) fn bounds(&mut self) -> Result<Bounds<'a>, SchemaError> {
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

pub(super) fn required<'a>(keywords: &mut Keywords<'a>) -> Result<Vec<&'a str>, SchemaError> {
    match keywords.take("required") {
        Some(Json::Array(names)) => {
            let names = names.iter().map(|name| name.text().ok_or(SchemaError::Value("required", "names")));
            names.collect()
        }
        Some(_) => Err(SchemaError::Value("required", "an array of names")),
        None => Ok(Vec::new()),
    }
}
