//! Objects: named properties, and names of one form.

use zeroize::Zeroizing;

use super::keywords::{Keywords, required, types};
use super::{Compiler, Json, SchemaError, State, StateId};
use crate::constraint::grammar::{Builder, RETURN};
use crate::constraint::json::write_text;
use crate::scratch::Scratch;

impl<'a> Compiler<'a> {
    pub(super) fn object(
        &mut self,
        keywords: &mut Keywords<'a>,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
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
}

/// An object of any names with values of one rule.
pub(super) fn map(
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
