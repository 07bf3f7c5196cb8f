//! `GET /v1/models`: the one model there is.

use serde::Serialize;

use super::error::ApiError;

/// The public name of the model, and what clients are told of its identity.
#[derive(Debug, Clone)]
pub struct PublicModel {
    id: String,
    fingerprint: String,
    created: u64,
}

/// A name that cannot be a model's public id.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a model id of 1 to {MAX_ID} letters, digits, '.', '_', '-', ':' or '/', got {0} bytes that are not one"
)]
pub struct InvalidModelId(usize);

/// Longest id (bytes).
const MAX_ID: usize = 128;

impl PublicModel {
    /// `id` is what clients send as `model`. `digest` is the model's digest, of which the first eight bytes appear as
    /// `system_fingerprint`: a label for people, not evidence. `created` is in seconds since 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// [`InvalidModelId`]: the id goes into JSON and into URLs as it is, so its characters are few.
    pub fn new(id: &str, digest: &[u8], created: u64) -> Result<Self, InvalidModelId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:/".contains(&b);
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(allowed) {
            return Err(InvalidModelId(id.len()));
        }
        let fingerprint = format!("fp_{}", hex::encode(digest.get(..8).unwrap_or(digest)));
        Ok(Self { id: id.to_owned(), fingerprint, created })
    }

    /// What clients send as `model`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `fp_` and the first eight bytes of the model's digest in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Refuses every id but this one's.
    pub(crate) fn check(&self, id: &str) -> Result<(), ApiError> {
        if id == self.id { Ok(()) } else { Err(ApiError::ModelNotFound { served: self.id.clone() }) }
    }

    pub(crate) fn describe(&self) -> Description<'_> {
        Description { id: &self.id, object: "model", created: self.created, owned_by: "cleanroom" }
    }

    pub(crate) fn list(&self) -> List<'_> {
        List { object: "list", data: [self.describe()] }
    }
}

#[derive(Serialize)]
pub(crate) struct Description<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

#[derive(Serialize)]
pub(crate) struct List<'a> {
    object: &'static str,
    data: [Description<'a>; 1],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_need_escaping_are_refused() {
        assert!(PublicModel::new("org/model-1.5:q8_0", &[], 0).is_ok());
        for id in ["", "a b", "a\"b", "é", "a?b", &"a".repeat(129)] {
            assert!(PublicModel::new(id, &[], 0).is_err(), "{id}");
        }
    }

    #[test]
    fn the_fingerprint_is_a_prefix_of_the_digest() {
        let model = PublicModel::new("m", &[0xab; 32], 0).unwrap();
        assert_eq!(model.fingerprint(), "fp_abababababababab");
        assert_eq!(PublicModel::new("m", &[1], 0).unwrap().fingerprint(), "fp_01");
    }
}
