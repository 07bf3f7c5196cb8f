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

mod exclusion;
mod keywords;
mod lists;
mod objects;
mod strings;

use std::cell::Cell;
use std::collections::HashMap;

use self::keywords::{Keywords, TYPES, check_keywords, find, is_a, types};
use self::lists::list;
use self::objects::map;
use super::SchemaError;
use super::grammar::{Builder, Grammar, RETURN, State, StateId};
use super::json::Json;
use super::numbers;
use crate::scratch::Scratch;

/// Longest schema (bytes).
pub(super) const MAX_BYTES: usize = 64 * 1024;

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
        let any_array = list(&mut builder, any, 0, None, RETURN)?;
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
            self.exclusive(alternatives)?;
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
                list(&mut self.builder, item, least, most, next)
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
}
