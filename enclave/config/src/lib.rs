//! The enclave's configuration: one measured file, read once, into types that cannot be wrong.
//!
//! ```toml
//! version = 1
//! model = "demo"                # the model's public name
//! model_sha256 = "3e2c…"        # optional: halt unless the weights have this identity
//! sealed = true                 # optional: the weights are sealed, and brokers that the release names have their key
//! partners = "any"              # or a list of keys: ["<SHA-256 of the SubjectPublicKeyInfo>", …]
//!
//! [release]                     # optional: serve only what the authorities under this root release and lease
//! root = '''{ … }'''            # the root's envelope as `cleanroom-authority root sign` writes it
//!
//! [limits]                      # every one optional
//! sessions = 512
//! handshakes = 128
//! handshake_timeout = "10s"
//! session_lifetime = "1h"
//! sequences = 8
//! queued = 16
//! threads = 2
//! request_time = "1h"           # a longer request ends with an error
//! prefix_time = "5m"            # prompts are kept so long for the same partner's next one; "0s" keeps none
//! kv_memory = "2GiB"            # for keys and values; no more is taken than whole contexts of all sequences need
//!
//! [engine]                      # optional: a server of models in the image, instead of the project's own engine
//! kind = "vllm"                 # its dialect: "vllm", "llama-server" or "openai"
//! name = "vLLM"                 # name and version are for people, and in the model's identity
//! version = "0.32.0"
//! argv = ["/opt/vllm/bin/vllm", "serve", "{model}", "--uds", "{socket}"]
//! files = ["/opt/vllm", "/usr", "/lib", "/lib64"]     # what it sees of the image, read-only
//! context = 32768               # tokens of a prompt and its answer together
//! # and every one of these optional:
//! environment = { HOME = "/tmp" }
//! devices = ["/dev/nvidia0"]    # beside null, zero, full, random and urandom
//! model_suffix = ".gguf"        # the end of the name of the model's file
//! served_model = "demo"         # the name under which the engine knows the model; the public one, if it is not given
//! scratch = "1GiB"              # memory for the engine's own files, without the model's
//! loopback = false              # whether its processes may talk to each other over a loopback
//! tools = false                 # what it can be asked for
//! reasoning = false
//! thinking_switch = false
//! reasoning_effort = false
//! logprobs = false
//! silence = "2m"                # the longest time without an event of an answer
//! start = "10m"                 # the longest time until it is ready
//!
//! [traffic]                     # optional: hide the lengths and the rhythm of answers from the host
//! step = 1024                   # bytes of every frame of a stream; whole answers have a multiple of it
//! cadence = "50ms"              # a stream sends one frame this often, full or not
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod engine;

use std::collections::HashSet;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::time::Duration;

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use serde::Deserialize;

pub use self::engine::{Engine, EngineKind};

/// Memory for keys and values when the file does not say, in bytes: whole contexts of small models, and many conversations
/// with larger ones.
pub const DEFAULT_KV_MEMORY: u64 = 2 << 30;

/// How long prompts are kept when the file does not say: the pauses of a conversation.
pub const DEFAULT_PREFIX_TIME: Duration = Duration::from_secs(5 * 60);

/// The longest configuration that is read, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// What the image's configuration says.
#[derive(Debug, Clone)]
pub struct Config {
    /// The model's public name.
    pub model: ModelId,
    /// The identity that the weights must have.
    pub model_sha256: Option<Sha256Digest>,
    /// Whether the weights are sealed. Then nothing is served before enough brokers have released the shares of their key.
    pub sealed: bool,
    /// Who may use the model.
    pub partners: Partners,
    /// The envelope of the root under which releases and leases count. Without one there is no release control.
    pub release_root: Option<String>,
    /// How much of everything.
    pub limits: Limits,
    /// How answers look from outside. Without it, events leave when they are ready.
    pub traffic: Option<Traffic>,
    /// A server of models in the image that serves instead of the project's own engine.
    pub engine: Option<Engine>,
}

/// What the host sees of answers: frames of one length at one rhythm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawTraffic")]
pub struct Traffic {
    step: NonZeroUsize,
    cadence: Duration,
}

impl Traffic {
    /// The least and the most bytes of a step. A frame holds a step, and a connection that takes no more holds some frames.
    const STEPS: RangeInclusive<usize> = 256..=16 * 1024;
    /// The shortest and the longest time between two frames.
    const CADENCES: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(10);

    /// Frames of `step` bytes (256 to 16384), one every `cadence` (5 ms to 10 s). `None` for what is outside of these.
    #[must_use]
    pub fn new(step: usize, cadence: Duration) -> Option<Self> {
        let valid = Self::STEPS.contains(&step) && Self::CADENCES.contains(&cadence);
        valid.then(|| NonZeroUsize::new(step).map(|step| Self { step, cadence })).flatten()
    }

    /// Bytes of every frame of a stream.
    #[must_use]
    pub const fn step(self) -> NonZeroUsize {
        self.step
    }

    /// From one frame of a stream to the next.
    #[must_use]
    pub const fn cadence(self) -> Duration {
        self.cadence
    }
}

/// Who may use the model. Anybody may ask for a public attestation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partners {
    /// Every key.
    Any,
    /// The keys with these digests.
    Listed(HashSet<Sha256Digest>),
}

impl Partners {
    /// Whether the key with this digest may use the model.
    #[must_use]
    pub fn admit(&self, key: &Sha256Digest) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(keys) => keys.contains(key),
        }
    }
}

/// Bounds on what partners and the host can make the enclave hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Established sessions at once. An eighth is for keys that may not use the model, the rest for those that may; further
    /// ones hear that the enclave is busy.
    pub sessions: NonZeroUsize,
    /// Sessions being set up at once. The oldest makes space for a new one once it has had a second.
    pub handshakes: NonZeroUsize,
    /// From the accepted connection to the end of the exchange.
    #[serde(deserialize_with = "duration")]
    pub handshake_timeout: Duration,
    /// The longest life of a session; then it takes no further requests.
    #[serde(deserialize_with = "duration")]
    pub session_lifetime: Duration,
    /// Sequences that the engine runs at once.
    pub sequences: NonZeroUsize,
    /// Requests that wait for a sequence; further ones are answered with 429.
    pub queued: usize,
    /// Threads of the engine. As many as the machine has processors, if the file does not say.
    pub threads: Option<NonZeroUsize>,
    /// The longest time from a request's arrival to the end of its answer.
    #[serde(deserialize_with = "duration")]
    pub request_time: Duration,
    /// How long what was computed of a prompt is kept unused for the same partner's next one, while it has a session. Nothing is kept for no
    /// time.
    #[serde(deserialize_with = "duration_or_none")]
    pub prefix_time: Duration,
    /// Memory for keys and values of all sequences together. A request starts once its prompt and longest answer fit.
    #[serde(deserialize_with = "bytes")]
    pub kv_memory: NonZeroU64,
}

impl Default for Limits {
    fn default() -> Self {
        let at_least_one = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Self {
            sessions: at_least_one(512),
            handshakes: at_least_one(128),
            handshake_timeout: Duration::from_secs(10),
            session_lifetime: Duration::from_secs(60 * 60),
            sequences: at_least_one(8),
            queued: 16,
            threads: None,
            request_time: Duration::from_secs(60 * 60),
            prefix_time: DEFAULT_PREFIX_TIME,
            kv_memory: NonZeroU64::new(DEFAULT_KV_MEMORY).unwrap_or(NonZeroU64::MIN),
        }
    }
}

impl Config {
    /// Reads the file's text.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong and where.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        if text.len() > MAX_BYTES {
            return Err(ConfigError::TooLong { actual: text.len() });
        }
        let raw: Raw = toml::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        if raw.version != 1 {
            return Err(ConfigError::Version { actual: raw.version });
        }
        let partners = match raw.partners {
            RawPartners::Word(word) if word == "any" => Partners::Any,
            RawPartners::Word(_) => return Err(ConfigError::Partners),
            RawPartners::Keys(keys) if keys.is_empty() => return Err(ConfigError::Partners),
            RawPartners::Keys(keys) => Partners::Listed(keys.into_iter().collect()),
        };
        let release_root = raw.release.map(|release| release.root);
        if raw.sealed && release_root.is_none() {
            return Err(ConfigError::SealedWithoutRelease);
        }
        if raw.sealed && raw.engine.is_some() {
            return Err(ConfigError::SealedForEngine);
        }
        Ok(Self {
            model: raw.model,
            model_sha256: raw.model_sha256,
            sealed: raw.sealed,
            partners,
            release_root,
            limits: raw.limits,
            traffic: raw.traffic,
            engine: raw.engine,
        })
    }

    /// The identity of the model with these weights: what releases, policies and PCR 16 name. With an engine it commits to that
    /// as well.
    #[must_use]
    pub fn identity(&self, weights: Sha256Digest) -> Sha256Digest {
        self.engine.as_ref().map_or(weights, |engine| engine.identity.identity(&weights))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u64,
    model: ModelId,
    model_sha256: Option<Sha256Digest>,
    #[serde(default)]
    sealed: bool,
    partners: RawPartners,
    release: Option<RawRelease>,
    #[serde(default)]
    limits: Limits,
    traffic: Option<Traffic>,
    engine: Option<Engine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTraffic {
    step: usize,
    #[serde(deserialize_with = "duration")]
    cadence: Duration,
}

impl TryFrom<RawTraffic> for Traffic {
    type Error = &'static str;

    fn try_from(RawTraffic { step, cadence }: RawTraffic) -> Result<Self, Self::Error> {
        Self::new(step, cadence).ok_or("expected a step of 256 to 16384 bytes and a cadence of 5ms to 10s")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelease {
    root: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawPartners {
    Word(String),
    Keys(Vec<Sha256Digest>),
}

/// A length of time in words, such as `90s` or `1h`; at most a day and not nothing.
fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = duration_or_none(deserializer)?;
    if duration.is_zero() {
        return Err(serde::de::Error::custom("expected a length of time above zero"));
    }
    Ok(duration)
}

/// A length of time in words, at most a day.
fn duration_or_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text)
        .map_err(|_| serde::de::Error::custom("expected a length of time such as \"90s\" or \"1h\""))?;
    if duration > Duration::from_secs(24 * 60 * 60) {
        return Err(serde::de::Error::custom("expected a length of time of at most 24 hours"));
    }
    Ok(duration)
}

/// A number of bytes in words: a whole number of `KiB`, `MiB` or `GiB`, and not nothing.
fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<NonZeroU64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let bytes = units.into_iter().find_map(|(unit, bytes): (_, u64)| {
        let number = text.strip_suffix(unit)?.trim_end();
        let digits = number.bytes().all(|digit| digit.is_ascii_digit());
        digits.then(|| number.parse::<u64>().ok()?.checked_mul(bytes)).flatten()
    });
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| serde::de::Error::custom("expected a size above zero such as \"512MiB\" or \"2GiB\""))
}

/// Why a configuration is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is too long.
    #[error("expected a configuration of at most {MAX_BYTES} bytes, got {actual}")]
    TooLong {
        /// Bytes that came.
        actual: usize,
    },
    /// The text is not TOML of the expected members.
    #[error("the configuration cannot be read: {0}")]
    Syntax(String),
    /// The file is of another version.
    #[error("expected version = 1, got {actual}")]
    Version {
        /// The version that came.
        actual: u64,
    },
    /// `partners` is neither the word nor a list.
    #[error("expected partners = \"any\" or a list of at least one key digest")]
    Partners,
    /// The weights are sealed, and nothing says who has their key.
    #[error("sealed = true needs a [release]: a release names the brokers that have the key of the weights")]
    SealedWithoutRelease,
    /// Sealed weights for an engine of its own process.
    #[error("sealed = true and [engine] do not go together yet: the brokers release keys for weights alone")]
    SealedForEngine,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_gets_the_defaults() {
        let config = Config::from_toml("version = 1\nmodel = \"demo\"\npartners = \"any\"\n").unwrap();
        assert_eq!(config.model.as_str(), "demo");
        assert_eq!(config.partners, Partners::Any);
        assert_eq!(config.limits.sessions.get(), 512);
    }

    #[test]
    fn nobody_is_admitted_by_accident() {
        let key = Sha256Digest::of(&[b"a key"]);
        let text = format!("version = 1\nmodel = \"demo\"\npartners = [\"{key}\"]\n");
        let partners = Config::from_toml(&text).unwrap().partners;
        assert!(partners.admit(&key));
        assert!(!partners.admit(&Sha256Digest::of(&[b"another key"])));
        for partners in ["[]", "\"none\"", "\"\""] {
            let text = format!("version = 1\nmodel = \"demo\"\npartners = {partners}\n");
            assert_eq!(Config::from_toml(&text).err(), Some(ConfigError::Partners), "{partners}");
        }
    }

    #[test]
    fn a_release_root_is_taken_as_it_stands() {
        let text = "version = 1\nmodel = \"demo\"\npartners = \"any\"\n";
        assert_eq!(Config::from_toml(text).unwrap().release_root, None);
        let with = format!("{text}[release]\nroot = '''{{\"a\": 1}}'''\n");
        assert_eq!(Config::from_toml(&with).unwrap().release_root.as_deref(), Some("{\"a\": 1}"));
        // A section without its root must not turn release control off.
        assert!(Config::from_toml(&format!("{text}[release]\n")).is_err());
    }

    #[test]
    fn sealed_weights_need_a_release_that_says_who_has_their_key() {
        let text = "version = 1\nmodel = \"demo\"\npartners = \"any\"\n";
        assert!(!Config::from_toml(text).unwrap().sealed);
        let sealed = format!("sealed = true\n{text}");
        assert_eq!(Config::from_toml(&sealed).err(), Some(ConfigError::SealedWithoutRelease));
        assert!(Config::from_toml(&format!("{sealed}[release]\nroot = \"{{}}\"\n")).unwrap().sealed);
    }

    #[test]
    fn a_size_has_a_unit() {
        let size = |text: &str| {
            let text =
                format!("version = 1\nmodel = \"demo\"\npartners = \"any\"\n[limits]\nkv_memory = {text}");
            Config::from_toml(&text).ok().map(|config| config.limits.kv_memory.get())
        };
        assert_eq!(size("\"3MiB\""), Some(3 << 20));
        assert_eq!(size("\"512 KiB\""), Some(512 << 10));
        assert_eq!(size("\"2GiB\""), Some(DEFAULT_KV_MEMORY));
        for wrong in [
            "\"0GiB\"",
            "\"\"",
            "\"GiB\"",
            "\"+1GiB\"",
            "\"1GB\"",
            "1024",
            "\"-1MiB\"",
            "\"1.5GiB\"",
            "\"99999999999GiB\"",
        ] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_shape_of_traffic_is_whole_and_within_bounds() {
        let with = |section: &str| {
            Config::from_toml(&format!("version = 1\nmodel = \"demo\"\npartners = \"any\"\n{section}"))
        };
        assert_eq!(with("").unwrap().traffic, None);
        let traffic = with("[traffic]\nstep = 1024\ncadence = \"50ms\"").unwrap().traffic;
        assert_eq!(traffic, Traffic::new(1024, Duration::from_millis(50)));
        assert!(traffic.is_some());
        for section in [
            "[traffic]",
            "[traffic]\nstep = 1024",
            "[traffic]\ncadence = \"50ms\"",
            "[traffic]\nstep = 255\ncadence = \"50ms\"",
            "[traffic]\nstep = 16385\ncadence = \"50ms\"",
            "[traffic]\nstep = 1024\ncadence = \"4ms\"",
            "[traffic]\nstep = 1024\ncadence = \"11s\"",
            "[traffic]\nstep = 1024\ncadence = \"50ms\"\njitter = 1",
        ] {
            assert!(matches!(with(section), Err(ConfigError::Syntax(_))), "{section}");
        }
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused() {
        let with = |line: &str| {
            Config::from_toml(&format!("version = 1\nmodel = \"demo\"\npartners = \"any\"\n{line}"))
        };
        assert!(matches!(with("colour = 1"), Err(ConfigError::Syntax(_))));
        assert!(matches!(with("[limits]\nsessions = 0"), Err(ConfigError::Syntax(_))));
        assert!(matches!(with("[limits]\nhandshake_timeout = \"0s\""), Err(ConfigError::Syntax(_))));
        assert!(matches!(with("[limits]\nsession_lifetime = \"2days\""), Err(ConfigError::Syntax(_))));
        assert!(matches!(with("[limits]\nrequest_time = \"0s\""), Err(ConfigError::Syntax(_))));
        assert!(matches!(with("[limits]\nprefix_time = \"2days\""), Err(ConfigError::Syntax(_))));
        assert!(with("[limits]\nprefix_time = \"0s\"").unwrap().limits.prefix_time.is_zero());
        let version = Config::from_toml("version = 2\nmodel = \"demo\"\npartners = \"any\"\n");
        assert_eq!(version.err(), Some(ConfigError::Version { actual: 2 }));
    }
}
