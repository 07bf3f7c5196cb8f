//! Whether no value has two schemas, as `oneOf` demands.

use super::keywords::{TYPES, find, member, types};
use super::{Compiler, Json, SchemaError};
use crate::scratch::Scratch;

/// Limits of the search for a value that satisfies two schemas: levels of references and properties, and
/// pairs of schemas.
const MAX_REFERENCES: usize = 8;
const MAX_COMPARED: usize = 10_000;

impl<'a> Compiler<'a> {
    /// Refuses schemas of which a value could have two.
    pub(super) fn exclusive(&self, schemas: &'a [Json]) -> Result<(), SchemaError> {
        for (index, schema) in schemas.iter().enumerate() {
            if !schemas.iter().skip(index + 1).all(|other| self.excludes(schema, other, 0)) {
                return Err(SchemaError::Value(
                    "oneOf",
                    "schemas of which no value can have two: of other types, or told apart by a required const",
                ));
            }
        }
        Ok(())
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
