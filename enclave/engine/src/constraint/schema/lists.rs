//! Lists: items of one schema, or one schema for each.

use super::{Compiler, Json, SchemaError, State, StateId};
use crate::constraint::grammar::Builder;

/// Most items of a list with `prefixItems`.
const MAX_TUPLE: usize = 1024;

impl<'a> Compiler<'a> {
    /// A list of these values, in this order. The schema permits further items; they come only where
    /// `minItems` asks for them.
    pub(super) fn tuple(
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
}

/// A list of `least` to `most` items.
pub(super) fn list(
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
