//! `[engine]`: a server of models in the image, instead of the project's own engine.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use cleanroom_attestation::engine::Engine as EngineIdentity;
use serde::Deserialize;

/// Most arguments, files, devices and variables.
const MAX_ITEMS: usize = 256;
/// Most bytes of an argument, a path or a value.
const MAX_ITEM: usize = 4096;
/// Most bytes of the name and the version.
const MAX_LABEL: usize = 64;
/// Folders that are the room's own.
const OWN: [&str; 3] = ["/dev", "/proc", "/tmp"];

/// The dialect that an engine speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// vLLM.
    Vllm,
    /// llama.cpp's `llama-server`.
    LlamaServer,
    /// OpenAI's API and nothing else.
    #[serde(rename = "openai")]
    OpenAi,
}

impl EngineKind {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::LlamaServer => "llama-server",
            Self::OpenAi => "openai",
        }
    }
}

/// A server of models in the image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawEngine")]
pub struct Engine {
    /// Its dialect.
    pub kind: EngineKind,
    /// What is part of the model's identity.
    pub identity: EngineIdentity,
    /// What the engine sees of the image, read-only: absolute paths, none within another.
    pub files: Vec<String>,
    /// Devices that it may use beside the usual five: absolute paths below `/dev`.
    pub devices: Vec<String>,
    /// The end of the name of the model's file, such as `.gguf`.
    pub model_suffix: String,
    /// The name under which the engine knows the model.
    pub served_model: Option<String>,
    /// Tokens of a prompt and its answer together, at most.
    pub context: NonZeroU32,
    /// Memory for the engine's own files, in bytes; the model's file is not counted.
    pub scratch: NonZeroU64,
    /// Whether its processes may talk to each other over a loopback.
    pub loopback: bool,
    /// Whether it can be told of tools.
    pub tools: bool,
    /// Whether it tells what the model thinks apart from what it says.
    pub reasoning: bool,
    /// Whether the model's template knows `enable_thinking`.
    pub thinking_switch: bool,
    /// Whether it can be told how much to think.
    pub reasoning_effort: bool,
    /// Whether it tells the probabilities of tokens.
    pub logprobs: bool,
    /// The longest time without an event of an answer.
    pub silence: Duration,
    /// The longest time from its start until it is ready.
    pub start: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEngine {
    kind: EngineKind,
    name: String,
    version: String,
    argv: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    files: Vec<String>,
    #[serde(default)]
    devices: Vec<String>,
    #[serde(default)]
    model_suffix: String,
    served_model: Option<String>,
    context: NonZeroU32,
    #[serde(default = "default_scratch", deserialize_with = "crate::bytes")]
    scratch: NonZeroU64,
    #[serde(default)]
    loopback: bool,
    #[serde(default)]
    tools: bool,
    #[serde(default)]
    reasoning: bool,
    #[serde(default)]
    thinking_switch: bool,
    #[serde(default)]
    reasoning_effort: bool,
    #[serde(default)]
    logprobs: bool,
    #[serde(default = "default_silence", deserialize_with = "crate::duration")]
    silence: Duration,
    #[serde(default = "default_start", deserialize_with = "crate::duration")]
    start: Duration,
}

const fn default_scratch() -> NonZeroU64 {
    match NonZeroU64::new(1 << 30) {
        Some(bytes) => bytes,
        None => NonZeroU64::MIN,
    }
}

const fn default_silence() -> Duration {
    Duration::from_secs(120)
}

const fn default_start() -> Duration {
    Duration::from_secs(600)
}

impl TryFrom<RawEngine> for Engine {
    type Error = &'static str;

    fn try_from(raw: RawEngine) -> Result<Self, Self::Error> {
        let is_item = |text: &String| text.len() <= MAX_ITEM && !text.contains('\0');
        let is_label = |text: &str| {
            !text.is_empty()
                && text.len() <= MAX_LABEL
                && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        };
        if !is_label(&raw.name) || !is_label(&raw.version) {
            return Err("expected a name and a version of 1 to 64 printable characters");
        }
        let values = raw.argv.iter().chain(&raw.files).chain(&raw.devices).chain(raw.environment.values());
        let count = values.clone().count();
        if count > MAX_ITEMS || !values.chain(raw.environment.keys()).all(is_item) {
            return Err(
                "expected at most 256 arguments, files, devices and variables, each of at most 4096 bytes",
            );
        }
        if !raw.argv.first().is_some_and(|program| is_path(program)) {
            return Err("expected the absolute path of a program first in argv");
        }
        if !raw.argv.iter().any(|argument| argument.contains("{socket}")) {
            return Err(
                "expected an argument with {socket} in argv: the worker reaches the engine there alone",
            );
        }
        let is_name = |name: &String| !name.is_empty() && !name.contains('=');
        if !raw.environment.keys().all(is_name) {
            return Err("expected names of variables without '=' in environment");
        }
        let below = |path: &str, folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_own = |path: &String| OWN.iter().any(|own| below(path, own));
        if raw.files.is_empty() || !raw.files.iter().all(|path| is_path(path) && !is_own(path)) {
            return Err(
                "expected absolute paths in files, none of them /, /dev, /proc or /tmp or within one of these",
            );
        }
        let nested = |(index, path): (usize, &String)| {
            raw.files.iter().enumerate().any(|(other, outer)| other != index && below(path, outer))
        };
        if raw.files.iter().enumerate().any(nested) {
            return Err("expected no path in files twice or within another");
        }
        if !raw.devices.iter().all(|path| is_path(path) && path.starts_with("/dev/")) {
            return Err("expected absolute paths below /dev in devices");
        }
        let is_suffix = |text: &str| {
            text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
        };
        if !is_suffix(&raw.model_suffix) {
            return Err("expected a model_suffix of at most 16 letters, digits and dots");
        }
        if raw.context.get() < 2 {
            return Err("expected a context of at least 2 tokens");
        }
        Ok(Self {
            kind: raw.kind,
            identity: EngineIdentity {
                kind: raw.kind.as_str().to_owned(),
                name: raw.name,
                version: raw.version,
                argv: raw.argv,
                environment: raw.environment,
            },
            files: raw.files,
            devices: raw.devices,
            model_suffix: raw.model_suffix,
            served_model: raw.served_model,
            context: raw.context,
            scratch: raw.scratch,
            loopback: raw.loopback,
            tools: raw.tools,
            reasoning: raw.reasoning,
            thinking_switch: raw.thinking_switch,
            reasoning_effort: raw.reasoning_effort,
            logprobs: raw.logprobs,
            silence: raw.silence,
            start: raw.start,
        })
    }
}

/// An absolute path without steps back, of which there is one spelling.
fn is_path(text: &str) -> bool {
    let mut parts = text.split('/');
    parts.next() == Some("") && parts.all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::digest::Sha256Digest;
    use cleanroom_attestation::engine::identity_under;

    use crate::{Config, ConfigError};

    const HEAD: &str = "version = 1\nmodel = \"demo\"\npartners = \"any\"\n";
    const ENGINE: &str = "[engine]\nkind = \"llama-server\"\nname = \"llama.cpp\"\nversion = \"b7000\"\n\
        argv = [\"/usr/bin/llama-server\", \"-m\", \"{model}\", \"--host\", \"{socket}\"]\n\
        files = [\"/usr\", \"/lib\"]\ncontext = 4096\n";

    fn with(change: impl Fn(&str) -> String) -> Result<Config, ConfigError> {
        Config::from_toml(&format!("{HEAD}{}", change(ENGINE)))
    }

    #[test]
    fn an_engine_is_part_of_the_models_identity() {
        let weights = Sha256Digest::of(&[b"weights"]);
        assert_eq!(Config::from_toml(HEAD).unwrap().identity(weights), weights);
        let (config, text) = (with(str::to_owned).unwrap(), format!("{HEAD}{ENGINE}"));
        assert_ne!(config.identity(weights), weights);
        // Whoever has the file and not this crate gets the same.
        assert_eq!(identity_under(&text, weights), Ok(config.identity(weights)));
        let variable = format!("{text}[engine.environment]\nA = \"B\"\n");
        let other = Config::from_toml(&variable).unwrap();
        assert_ne!(other.identity(weights), config.identity(weights));
        assert_eq!(identity_under(&variable, weights), Ok(other.identity(weights)));
    }

    #[test]
    fn what_an_engine_cannot_be_is_refused() {
        for (from, to) in [
            ("llama-server\"\n", "sglang\"\n"),
            ("\"llama.cpp\"", "\"\""),
            ("\"b7000\"", "\"b\\n\""),
            ("\"/usr/bin/llama-server\"", "\"llama-server\""),
            ("{socket}", "127.0.0.1"),
            ("[\"/usr\", \"/lib\"]", "[]"),
            ("\"/lib\"", "\"/\""),
            ("\"/lib\"", "\"lib\""),
            ("\"/lib\"", "\"/tmp/x\""),
            ("\"/lib\"", "\"/proc\""),
            ("\"/lib\"", "\"/usr/lib\""),
            ("\"/lib\"", "\"/usr\""),
            ("\"/lib\"", "\"/lib/../etc\""),
            ("\"/lib\"", "\"/lib/\""),
            ("4096", "1"),
            ("4096", "0"),
            ("context", "colour = 1\ncontext"),
            ("context", "devices = [\"/etc/shadow\"]\ncontext"),
            ("context", "devices = [\"/dev/../etc\"]\ncontext"),
            ("context", "model_suffix = \"/../x\"\ncontext"),
            ("context", "environment = { \"A=B\" = \"C\" }\ncontext"),
            ("context", "silence = \"0s\"\ncontext"),
        ] {
            let text = with(|engine| engine.replacen(from, to, 1));
            assert!(matches!(text, Err(ConfigError::Syntax(_))), "{to}: {text:?}");
        }
        let sealed = format!("sealed = true\n{HEAD}{ENGINE}[release]\nroot = \"{{}}\"\n");
        assert_eq!(Config::from_toml(&sealed).err(), Some(ConfigError::SealedForEngine));
    }
}
