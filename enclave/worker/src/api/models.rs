//! `GET /v1/models`: the one model there is.

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::engine::Engine;
use cleanroom_backend::Abilities;
use serde::Serialize;
use serde_json::json;

use super::error::ApiError;

/// The model, as clients are told of it.
pub(crate) struct PublicModel {
    id: ModelId,
    fingerprint: String,
    created: u64,
    /// The engine that runs it, if it is not the project's own.
    pub(crate) engine: Option<Engine>,
}

impl PublicModel {
    /// `created` is in seconds since 1970-01-01T00:00:00Z.
    pub(crate) fn new(id: ModelId, digest: &Sha256Digest, created: u64) -> Self {
        let (first, _) = digest.as_bytes().split_at(8);
        Self { id, fingerprint: format!("fp_{}", hex::encode(first)), created, engine: None }
    }

    /// What clients send as `model`. It consists of characters that need no escaping in JSON.
    pub(crate) fn id(&self) -> &str {
        self.id.as_str()
    }

    /// `system_fingerprint`: the first eight bytes of the model's digest. A label for people, not evidence.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Refuses every id but this one's.
    pub(crate) fn check(&self, id: &str) -> Result<(), ApiError> {
        if id == self.id() { Ok(()) } else { Err(ApiError::ModelNotFound { served: self.id.clone() }) }
    }

    pub(crate) fn describe(&self, abilities: &Abilities) -> Description<'_> {
        let capabilities = Capabilities::of(abilities);
        Description {
            id: self.id(),
            object: "model",
            created: self.created,
            owned_by: "cleanroom",
            capabilities,
            engine: self.engine(),
        }
    }

    fn engine(&self) -> Option<PublicEngine<'_>> {
        let Engine { kind, name, version, .. } = self.engine.as_ref()?;
        Some(PublicEngine { kind, name, version })
    }

    pub(crate) fn list(&self, abilities: &Abilities) -> List<'_> {
        List { object: "list", data: [self.describe(abilities)] }
    }
}

impl PublicModel {
    /// The model as Anthropic's clients are told of it.
    pub(crate) fn describe_to_anthropic(&self, abilities: &Abilities) -> serde_json::Value {
        let created = std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.created);
        let mut model = json!({
            "type": "model",
            "id": self.id(),
            "display_name": self.id(),
            "cleanroom_capabilities": Capabilities::of(abilities),
            "created_at": humantime::format_rfc3339_seconds(created).to_string(),
        });
        if let (Some(engine), Some(members)) = (self.engine(), model.as_object_mut()) {
            members.insert("cleanroom_engine".to_owned(), json!(engine));
        }
        model
    }

    /// The only page of the list.
    pub(crate) fn list_to_anthropic(&self, abilities: &Abilities) -> serde_json::Value {
        json!({
            "data": [self.describe_to_anthropic(abilities)],
            "has_more": false,
            "first_id": self.id(),
            "last_id": self.id(),
        })
    }
}

#[derive(Serialize)]
pub(crate) struct Description<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    #[serde(rename = "cleanroom_capabilities")]
    capabilities: Capabilities,
    #[serde(rename = "cleanroom_engine", skip_serializing_if = "Option::is_none")]
    engine: Option<PublicEngine<'a>>,
}

/// The engine that runs the model, as the measured configuration names it. The model's identity commits to it.
#[derive(Serialize)]
pub(crate) struct PublicEngine<'a> {
    kind: &'a str,
    name: &'a str,
    version: &'a str,
}

/// What the model can be asked for. A member of our own, which clients ignore that do not know it.
#[derive(Serialize)]
pub(crate) struct Capabilities {
    chat: bool,
    /// Why there is no chat, if the model's file has a template for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_refused: Option<String>,
    tools: bool,
    reasoning: bool,
    embeddings: bool,
}

impl Capabilities {
    fn of(
        Abilities { chat, tools, reasoning, has_switch: _, has_effort: _, embedding_width }: &Abilities,
    ) -> Self {
        Self {
            chat: *chat == Ok(true),
            chat_refused: chat.clone().err(),
            tools: *tools,
            reasoning: *reasoning,
            embeddings: embedding_width.is_some(),
        }
    }
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
    fn the_fingerprint_is_a_prefix_of_the_digest() {
        let model = PublicModel::new(ModelId::new("m").unwrap(), &Sha256Digest::from_bytes([0xab; 32]), 0);
        assert_eq!(model.fingerprint(), "fp_abababababababab");
    }
}
