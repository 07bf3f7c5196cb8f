//! A model in memory and the prompts made for it.

mod architecture;
mod constrained;
mod files;
mod hyperparameters;
mod rope;
mod source;
mod speech;
mod weights;

use std::{
    io::{self, Read},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

pub(crate) use architecture::{Architecture, Gate, Pairs};
use files::Beginning;
#[cfg(test)]
pub(crate) use hyperparameters::QueryFactor;
pub(crate) use hyperparameters::{Hyperparameters, Pooling};
pub(crate) use rope::Rope;
#[cfg(test)]
pub(crate) use rope::Scaling;
use source::Numbers;
pub use speech::{ChatPrompt, Speech};
use weights::Loading;
pub(crate) use weights::{Expert, FeedForward, Layer, RopeFactors, Vector, Weights};
use zeroize::Zeroizing;

use crate::{
    chat::{Chat, ChatMessage},
    constraint::TokenTable,
    gguf::{Gguf, GgufError, TensorType},
    kernels::{Instructions, Kernels},
    prompt::{Prompt, PromptError},
    scratch::Scratch,
    template::{ChatTemplate, TemplateError},
    tokenizer::{Tokenizer, TokenizerError},
};

/// What a model file says of itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `general.architecture`, such as `llama` or `gemma3`.
    pub architecture: String,
    /// `general.name`, empty when the file has none.
    pub name: String,
    /// Number of weights.
    pub parameters: u64,
    /// Most tokens of prompt and answer together.
    pub context_length: u32,
    /// Number of tokens in the vocabulary.
    pub vocabulary: u32,
    /// How the matrices are stored, e.g. `Q8_0`; several are joined with `+`.
    pub weights: String,
    /// Numbers of an embedding; `None` if the file does not say that the model is made for them.
    pub embedding: Option<u32>,
}

/// How much of a model's tensors has been copied into the kernels' layout, in bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes copied.
    pub done: u64,
    /// Bytes of all tensors. Of a model of several files, the later files count whole until they are reached.
    pub total: u64,
}

/// Why a file is not a model this engine runs. Names and keys are shown escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what it and its fields mean")]
pub enum ModelError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(
        "architecture {found:?} is not supported; supported are llama (with mistral), mistral3, qwen2, qwen3, qwen3moe, gemma2, gemma3, phi3 and gpt-oss"
    )]
    Architecture { found: String },
    #[error("metadata {key:?} is missing")]
    MissingKey { key: String },
    #[error("{key} is {found}, expected {least} to {most}")]
    OutOfRange { key: String, found: usize, least: usize, most: usize },
    #[error("{key}: only {expected} is supported")]
    Unsupported { key: String, expected: &'static str },
    #[error("metadata {key:?} is not understood, and leaving it out could change the model's answers")]
    UnknownHyperparameter { key: String },
    #[error("tensor {name:?} is missing")]
    MissingTensor { name: String },
    #[error(
        "tensor {name:?} is not part of a model of this architecture, and leaving it out could change the model's answers"
    )]
    UnexpectedTensor { name: String },
    #[error("tensor {name:?}: the hyperparameters ask for the shape {expected:?}, found {found:?}")]
    Shape { name: String, expected: [usize; 4], found: [usize; 4] },
    #[error("tensor {name:?}: expected type F32, found {found}")]
    VectorType { name: String, found: TensorType },
    #[error("the index of the model's files cannot be used: {problem}")]
    Files { problem: &'static str },
    #[error(
        "expected part {place} of {count} of a split model, found {found}; all its parts come together and in order"
    )]
    Part { place: usize, count: usize, found: String },
    #[error("the file cannot be read to its end: {0}")]
    Read(io::ErrorKind),
}

/// A model: immutable, shared by everything that runs it. The weights are zeroised on drop.
pub struct Model {
    facts: Facts,
    architecture: Architecture,
    shape: Hyperparameters,
    weights: Weights,
    tokenizer: Tokenizer,
    template: Option<Result<ChatTemplate, TemplateError>>,
    kernels: Kernels,
    /// Made when the first answer is to have a form.
    token_table: OnceLock<Arc<TokenTable>>,
    /// Made when the first answer that shows marks is to have one.
    shown_token_table: OnceLock<Arc<TokenTable>>,
    /// Control tokens that answers to chats show by their text, so that they can be read.
    marks: Vec<u32>,
}

impl Model {
    /// Reads a GGUF file. The weights are copied into the kernels' layout, so `bytes` may be dropped
    /// afterwards.
    ///
    /// # Errors
    /// [`ModelError`] names what was expected and what came.
    pub fn from_gguf(bytes: &[u8]) -> Result<Model, ModelError> {
        Self::from_gguf_with_progress(bytes, |_| {})
    }

    /// As [`Model::from_gguf`]; `progress` hears of every tensor that has been taken.
    ///
    /// # Errors
    /// See [`Model::from_gguf`].
    pub fn from_gguf_with_progress(
        mut bytes: &[u8],
        progress: impl FnMut(Progress),
    ) -> Result<Model, ModelError> {
        let length = bytes.len() as u64;
        Self::read_gguf(&mut bytes, length, progress)
    }

    /// Reads a GGUF file of `length` bytes as it comes, and lays each tensor out as it is read. So no more than
    /// the weights is in memory: beside them, the file's header and some megabytes of one tensor.
    ///
    /// A split GGUF may come as one run of bytes: an index, then each file, as `docs/protocol.md` has it in
    /// section 6.
    ///
    /// # Errors
    /// See [`Model::from_gguf`]; [`ModelError::Read`] when `file` ends early. How much of `file` was read then,
    /// and whether bytes behind the last tensor were, is not said.
    pub fn read_gguf(
        file: &mut dyn Read,
        length: u64,
        mut progress: impl FnMut(Progress),
    ) -> Result<Model, ModelError> {
        let beginning = Beginning::read(file, length)?;
        if beginning.is_index() {
            let lengths = files::lengths(file, length)?;
            Self::read_files(file, &lengths, &mut progress)
        } else {
            Self::read_files(&mut beginning.bytes().chain(file), &[length], &mut progress)
        }
    }

    /// Reads files of these lengths, each but the last with what it is padded with.
    fn read_files(
        file: &mut dyn Read,
        lengths: &[u64],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Model, ModelError> {
        let mut begun: Option<(Description, Loading)> = None;
        let mut later: u64 = lengths.iter().sum();
        for (index, length) in lengths.iter().enumerate() {
            let header = source::beginning(file, *length)?;
            let part = Gguf::parse_beginning(&header, *length)?;
            files::check_part(&part, index, lengths.len())?;
            let (_, loading) = match &mut begun {
                Some(begun) => begun,
                None => begun.insert(Description::read(&part)?),
            };
            later -= length;
            let last = index + 1 == lengths.len();
            let mut numbers = Numbers::new(&header, file);
            loading.read(&part, &mut numbers, later, last, progress)?;
            if !last {
                numbers.skip_to(length.next_multiple_of(files::CHUNK_BYTES))?;
            }
        }
        let Some((description, loading)) = begun else {
            return Err(ModelError::Files { problem: "no files" });
        };
        let Description { mut facts, architecture, shape, tokenizer, template } = description;
        facts.parameters = loading.parameters();
        facts.weights = loading.types();
        let marks = match &template {
            Some(Ok(template)) => {
                template.forms().marks().filter_map(|mark| tokenizer.control_named(mark)).collect()
            }
            _ => Vec::new(),
        };
        Ok(Self {
            facts,
            architecture,
            shape,
            weights: loading.finish()?,
            tokenizer,
            template,
            kernels: Kernels::best(),
            token_table: OnceLock::new(),
            shown_token_table: OnceLock::new(),
            marks,
        })
    }

    /// The same model with a shorter context, which makes each sequence's cache smaller. A limit above the
    /// model's own context length changes nothing; the least is 2 tokens.
    #[must_use]
    pub fn with_context_limit(mut self, tokens: u32) -> Model {
        self.facts.context_length = self.facts.context_length.min(tokens.max(2));
        self.shape.context = self.facts.context_length as usize;
        self
    }

    /// The same model, computed with no more than these instructions: for comparing them. The answers are the
    /// same.
    #[must_use]
    pub fn with_instructions(mut self, most: Instructions) -> Model {
        self.kernels = Kernels::within(most);
        self
    }

    /// The same model, whose chat template takes the date from another clock than the system's.
    #[must_use]
    pub fn with_wall_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Model {
        if let Some(Ok(template)) = &mut self.template {
            template.set_clock(now);
        }
        self
    }

    /// Whether the file has a chat template, and why it cannot be used. A model with one that cannot be used
    /// still continues text and makes embeddings.
    ///
    /// # Errors
    /// [`TemplateError`] says where it does not parse.
    pub fn chat_template(&self) -> Result<bool, TemplateError> {
        match &self.template {
            None => Ok(false),
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) => Err(*error),
        }
    }

    /// What the file says of itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Bytes of the key-value cache that one sequence needs.
    pub fn cache_bytes_per_sequence(&self) -> u128 {
        self.shape.cache_bytes()
    }

    /// Applies the model's chat template and asks for the assistant's turn.
    ///
    /// # Errors
    /// [`PromptError`], never with any of the text.
    pub fn prompt_from_chat(&self, messages: &[ChatMessage<'_>]) -> Result<Prompt, PromptError> {
        let chat = Chat { messages, ..Chat::default() };
        self.prompt_from_conversation(&chat).map(|chat| chat.prompt)
    }

    /// Tokenises plain text. Control tokens written in it stay text. Where the file says `add_eos_token` the
    /// text ends with that token, as models for embeddings want it.
    ///
    /// # Errors
    /// [`PromptError`], never with any of the text.
    pub fn prompt_from_text(&self, text: &str) -> Result<Prompt, PromptError> {
        let limit = self.text_limit();
        if text.len() > limit {
            return Err(PromptError::TooLong { bytes: text.len(), limit });
        }
        let mut tokens = Scratch::new();
        self.tokenizer.encode_text(text, &mut tokens);
        // Nothing stays nothing, and is refused as that.
        if !tokens.is_empty() {
            tokens.extend(self.tokenizer.required_eos());
        }
        Ok(self.prompt(tokens))
    }

    /// Takes tokens as they are, control tokens included.
    ///
    /// # Errors
    /// [`PromptError::Token`].
    pub fn prompt_from_tokens(&self, tokens: Zeroizing<Vec<u32>>) -> Result<Prompt, PromptError> {
        let vocabulary = self.tokenizer.len();
        if tokens.iter().any(|token| *token as usize >= vocabulary) {
            return Err(PromptError::Token { vocabulary });
        }
        Ok(Prompt::new(Scratch::from(tokens)))
    }

    pub(crate) fn shape(&self) -> &Hyperparameters {
        &self.shape
    }

    pub(crate) fn architecture(&self) -> Architecture {
        self.architecture
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(crate) fn kernels(&self) -> Kernels {
        self.kernels
    }

    pub(crate) fn token_table(&self) -> Arc<TokenTable> {
        Arc::clone(self.token_table.get_or_init(|| Arc::new(TokenTable::new(&self.tokenizer, &[]))))
    }

    /// Text of more bytes than this has more tokens than the context.
    fn text_limit(&self) -> usize {
        self.shape.context.saturating_mul(self.tokenizer.longest_token())
    }

    /// Puts the beginning-of-text token in front if the model wants one and the template did not write it.
    fn prompt(&self, tokens: Scratch<u32>) -> Prompt {
        let missing = self.tokenizer.required_bos().filter(|bos| tokens.first() != Some(bos));
        let Some(bos) = missing else { return Prompt::new(tokens) };
        let mut all = Scratch::with_capacity(tokens.len() + 1);
        all.push(bos);
        all.extend_from_slice(&tokens);
        Prompt::new(all)
    }
}

/// What a file says of a model beside its tensors.
struct Description {
    /// Without what the tensors say.
    facts: Facts,
    architecture: Architecture,
    shape: Hyperparameters,
    tokenizer: Tokenizer,
    template: Option<Result<ChatTemplate, TemplateError>>,
}

impl Description {
    /// Reads it, and expects the tensors of such a model.
    fn read(file: &Gguf<'_>) -> Result<(Self, Loading), ModelError> {
        const ARCHITECTURE: &str = "general.architecture";
        let architecture =
            file.string(ARCHITECTURE)?.ok_or_else(|| ModelError::MissingKey { key: ARCHITECTURE.into() })?;
        let architecture = Architecture::named(architecture)?;
        let tokenizer = Tokenizer::from_gguf(file)?;
        let template = file.string("tokenizer.chat_template")?.map(ChatTemplate::new);
        let shape = Hyperparameters::from_gguf(file, architecture, tokenizer.len())?;
        let loading = Loading::new(architecture, shape.clone(), tokenizer.len())?;
        let facts = Facts {
            architecture: architecture.name().into(),
            name: file.string("general.name")?.unwrap_or_default().into(),
            parameters: 0,
            context_length: shape.context as u32,
            vocabulary: tokenizer.len() as u32,
            embedding: shape.pooling.map(|_| shape.width as u32),
            weights: String::new(),
        };
        Ok((Self { facts, architecture, shape, tokenizer, template }, loading))
    }
}
