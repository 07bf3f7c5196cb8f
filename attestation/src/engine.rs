//! An engine of its own process, and the identity of a model that it serves.
//!
//! The project's own engine needs no name: it is the image. Another engine is a program in the image with arguments that can change
//! what it answers. So its dialect, name, version, arguments and environment are part of the model's identity, as the weights
//! are:
//!
//! ```text
//! identity = SHA-256(LP("cleanroom/engine/1") LP(kind) LP(name) LP(version)
//!                    LP(number of arguments, u32 big endian) LP(argument) …
//!                    LP(number of variables, u32 big endian) LP(name) LP(value) …
//!                    LP(digest of the weights))
//! ```
//!
//! `LP(x)` is the length of x as a `u32` in big endian, and x. Releases, policies, transcripts, receipts and PCR 16 hold this identity
//! where they hold that of the weights without such an engine.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::channel::length_prefixed;
use crate::digest::Sha256Digest;

/// The part of an enclave's configuration that says which engine serves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Engine {
    /// The dialect that it speaks: `vllm`, `llama-server` or `openai`.
    pub kind: String,
    /// Its name, for people.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// The program and its arguments. `{model}` stands for the path of the weights, `{socket}` for that of its socket.
    pub argv: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

impl Engine {
    /// The engine that a configuration names; `None` if it names none.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn of_config(text: &str) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        struct Config {
            engine: Option<Engine>,
        }
        toml::from_str::<Config>(text).map(|config| config.engine).map_err(|error| error.message().to_owned())
    }

    /// The identity of the model with these weights behind this engine.
    #[must_use]
    pub fn identity(&self, weights: &Sha256Digest) -> Sha256Digest {
        // Destructured, so that a new field cannot be forgotten here.
        let Self { kind, name, version, argv, environment } = self;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
        let (arguments, variables) = (count(argv.len()), count(environment.len()));
        let mut fields: Vec<&[u8]> =
            vec![b"cleanroom/engine/1", kind.as_bytes(), name.as_bytes(), version.as_bytes(), &arguments];
        fields.extend(argv.iter().map(String::as_bytes));
        fields.push(&variables);
        fields.extend(environment.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        fields.push(weights.as_bytes());
        Sha256Digest::of(&[&length_prefixed(&fields)])
    }
}

/// The identity of a model under a configuration: that of the weights, or what an engine makes of it.
///
/// # Errors
/// What is wrong with the text.
pub fn identity_under(config: &str, weights: Sha256Digest) -> Result<Sha256Digest, String> {
    Ok(Engine::of_config(config)?.map_or(weights, |engine| engine.identity(&weights)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Engine {
        Engine {
            kind: "vllm".to_owned(),
            name: "vLLM".to_owned(),
            version: "1".to_owned(),
            argv: vec!["/vllm".to_owned(), "serve".to_owned()],
            environment: BTreeMap::from([("A".to_owned(), "B".to_owned())]),
        }
    }

    #[test]
    fn every_part_of_an_engine_is_in_the_identity() {
        let weights = Sha256Digest::of(&[b"weights"]);
        let changes: [fn(&mut Engine); 9] = [
            |engine| engine.kind = "openai".to_owned(),
            |engine| engine.name.push('x'),
            |engine| engine.version = "2".to_owned(),
            |engine| engine.argv.push(String::new()),
            |engine| engine.argv = vec!["/vllmserve".to_owned()],
            |engine| engine.argv.swap(0, 1),
            |engine| _ = engine.environment.insert("A".to_owned(), "C".to_owned()),
            |engine| _ = engine.environment.insert("B".to_owned(), "A".to_owned()),
            // A variable is no argument.
            |engine| {
                engine.argv.extend(["A".to_owned(), "B".to_owned()]);
                engine.environment.clear();
            },
        ];
        let mut identities = vec![weights, engine().identity(&weights)];
        identities.push(engine().identity(&Sha256Digest::of(&[b"other weights"])));
        for change in changes {
            let mut changed = engine();
            change(&mut changed);
            identities.push(changed.identity(&weights));
        }
        let count = identities.len();
        identities.sort_unstable();
        identities.dedup();
        assert_eq!(identities.len(), count);
    }

    /// The formula at the head of this module, computed by Python's `struct` and `hashlib`.
    #[test]
    fn the_identity_is_the_one_that_the_formula_gives() {
        let identity = engine().identity(&Sha256Digest::from_bytes([7; 32]));
        assert_eq!(identity.to_string(), EXPECTED);
    }

    const EXPECTED: &str = "60ba95e107ab890a9b95d6e8ee7b8971263e8338f0d303b68220eb60e6bc6fc0";

    #[test]
    fn a_configuration_names_an_engine_or_none() {
        let weights = Sha256Digest::of(&[b"weights"]);
        assert_eq!(identity_under("version = 1\nmodel = \"demo\"", weights), Ok(weights));
        let text = "[engine]\nkind = \"vllm\"\nname = \"vLLM\"\nversion = \"1\"\nargv = [\"/vllm\", \"serve\"]\n\
                    context = 5\n[engine.environment]\nA = \"B\"\n";
        assert_eq!(identity_under(text, weights), Ok(engine().identity(&weights)));
        assert!(identity_under("[engine]\nkind = \"vllm\"", weights).is_err());
    }
}
