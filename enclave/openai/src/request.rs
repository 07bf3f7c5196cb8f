//! From a task to the body of a request, or to the name of what the engine cannot do.

use std::collections::BTreeMap;

use cleanroom_backend::{
    Conversation, EngineFacts, Flavour, Form, Input, Message, Output, PrepareError, SecretString, Tool,
    ToolChoice,
};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::owners::Salt;

/// What becomes of an answer, apart from its prompt.
pub(crate) struct Wanted {
    pub(crate) max_tokens: u32,
    pub(crate) seed: u64,
    pub(crate) salt: Option<Salt>,
}

/// Refuses what this engine cannot do, before anything is sent to it.
///
/// # Errors
/// [`PrepareError::Cannot`] with the parameter's name.
pub(crate) fn check(facts: &EngineFacts, input: &Input, output: &Output) -> Result<(), PrepareError> {
    let cannot = |param, what| Err(PrepareError::Cannot { param, what });
    let is_plain = facts.flavour == Flavour::OpenAi;
    if let Output::Answer { sampling, form, logprobs, bias, .. } = output {
        if is_plain && sampling.top_k > 0 {
            return cannot("top_k", "choose among the most likely tokens: its engine's API has no top_k");
        }
        if is_plain && sampling.min_p > 0.0 {
            return cannot("min_p", "leave out unlikely tokens: its engine's API has no min_p");
        }
        if !facts.logprobs && logprobs.is_some() {
            return cannot("logprobs", "tell probabilities: the configuration has no engine.logprobs");
        }
        if bias.iter().any(|(_, value)| !value.is_finite()) {
            return cannot("logit_bias", "take such a bias");
        }
        if !matches!(input, Input::Chat(_)) && !matches!(form, Form::Text) && facts.flavour != Flavour::Vllm {
            return cannot("response_format", "shape a completion: its engine does that in chats only");
        }
    }
    if let Input::Chat(Conversation { thinks, effort, variables, .. }) = input {
        if is_plain && thinks.is_some() {
            return cannot("enable_thinking", "be told to think or not: its engine's API has no word for it");
        }
        if is_plain && variables.is_some() {
            return cannot("chat_template_kwargs", "take variables: its engine's API has none");
        }
        if facts.flavour == Flavour::LlamaServer && effort.is_some() {
            return cannot(
                "reasoning_effort",
                "be told how much to think: its engine's API has no word for it",
            );
        }
    }
    Ok(())
}

/// The path of the endpoint that continues such a prompt.
pub(crate) const fn path(input: &Input) -> &'static str {
    match input {
        Input::Chat(_) => "/v1/chat/completions",
        Input::Text(_) | Input::Tokens(_) => "/v1/completions",
    }
}

/// The body of the request for one answer.
///
/// # Errors
/// [`PrepareError`] for a schema that is no JSON.
pub(crate) fn body(
    facts: &EngineFacts,
    input: &Input,
    output: &Output,
    wanted: &Wanted,
) -> Result<Zeroizing<Vec<u8>>, PrepareError> {
    let Output::Answer { max_tokens: _, sampling, bias, form, logprobs, stop: _ } = output else {
        return Err(PrepareError::Stopped);
    };
    let (is_vllm, is_plain) = (facts.flavour == Flavour::Vllm, facts.flavour == Flavour::OpenAi);
    let is_chat = matches!(input, Input::Chat(_));
    let (top_logprobs, completion_logprobs) = (logprobs.filter(|_| is_chat), logprobs.filter(|_| !is_chat));
    let seed = match facts.flavour {
        // A signed number there.
        Flavour::Vllm | Flavour::OpenAi => wanted.seed & (u64::MAX >> 1),
        // 32 bits, of which all ones stand for a random seed.
        Flavour::LlamaServer => wanted.seed % u64::from(u32::MAX),
    };
    let body = Body {
        model: &facts.model,
        prompt: Prompt::of(facts, input, false)?,
        stream: true,
        stream_options: StreamOptions {
            include_usage: true,
            continuous_usage_stats: is_vllm.then_some(true),
        },
        max_tokens: wanted.max_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        presence_penalty: sampling.presence,
        frequency_penalty: sampling.frequency,
        // Whatever the engine's or the model's own defaults are.
        top_k: (!is_plain).then_some(sampling.top_k),
        min_p: (!is_plain).then_some(sampling.min_p),
        repetition_penalty: is_vllm.then_some(1.0),
        repeat_penalty: (facts.flavour == Flavour::LlamaServer).then_some(1.0),
        seed,
        logit_bias: (!bias.is_empty())
            .then(|| bias.iter().map(|(token, value)| (token.to_string(), *value)).collect()),
        logprobs: match completion_logprobs {
            Some(count) => Some(Logprobs::Count(count)),
            None => top_logprobs.map(|_| Logprobs::Wanted(true)),
        },
        top_logprobs,
        response_format: format(form)?,
        cache_salt: wanted.salt.filter(|_| is_vllm).map(|salt| Hex(Zeroizing::new(salt))),
        // No beginning of a prompt is looked for in what others left.
        cache_prompt: (facts.flavour == Flavour::LlamaServer).then_some(false),
    };
    to_json(&body)
}

/// The body of the question how many tokens a prompt has, for vLLM; and for llama-server, which text its template makes of
/// it.
///
/// # Errors
/// [`PrepareError`] for a schema that is no JSON.
pub(crate) fn prompt_only(facts: &EngineFacts, input: &Input) -> Result<Zeroizing<Vec<u8>>, PrepareError> {
    let body = Question {
        model: &facts.model,
        prompt: Prompt::of(facts, input, true)?,
        add_generation_prompt: matches!(input, Input::Chat(_)).then_some(true),
    };
    to_json(&body)
}

/// The body of llama-server's question which tokens a text has.
///
/// # Errors
/// None that the text causes.
pub(crate) fn tokenize_text(text: &str) -> Result<Zeroizing<Vec<u8>>, PrepareError> {
    #[derive(Serialize)]
    struct Text<'a> {
        content: &'a str,
        add_special: bool,
        parse_special: bool,
    }
    to_json(&Text { content: text, add_special: true, parse_special: true })
}

fn to_json(body: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, PrepareError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    serde_json::to_writer(&mut *bytes, body).map_err(|_| PrepareError::Stopped)?;
    Ok(bytes)
}

/// Bytes of a prompt's text, and its messages: what a rule without a tokenizer counts.
pub(crate) fn size(input: &Input) -> (usize, usize) {
    let length = |text: &Option<SecretString>| text.as_ref().map_or(0, |text| text.as_str().len());
    match input {
        Input::Text(text) => (text.as_str().len(), 1),
        Input::Tokens(tokens) => (tokens.len(), 0),
        Input::Chat(conversation) => {
            let tools = conversation.tools.iter().map(|tool| {
                let Tool { name, description, parameters, strict: _ } = tool;
                name.as_str().len() + length(description) + length(parameters)
            });
            let messages = conversation.messages.iter().map(|message| {
                let Message { role, content, name, reasoning, calls, answers } = message;
                let calls = calls.iter().map(|call| {
                    call.id.as_str().len() + call.name.as_str().len() + call.arguments.as_str().len()
                });
                role.len()
                    + content.as_str().len()
                    + length(name)
                    + length(reasoning)
                    + length(answers)
                    + calls.sum::<usize>()
            });
            let bytes = tools.sum::<usize>() + messages.sum::<usize>() + length(&conversation.variables);
            (bytes, conversation.messages.len() + conversation.tools.len())
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(flatten)]
    prompt: Prompt<'a>,
    stream: bool,
    stream_options: StreamOptions,
    max_tokens: u32,
    temperature: f32,
    top_p: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_penalty: Option<f32>,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logit_bias: Option<BTreeMap<String, f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_salt: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_prompt: Option<bool>,
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    #[serde(flatten)]
    prompt: Prompt<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    add_generation_prompt: Option<bool>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    continuous_usage_stats: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Logprobs {
    Wanted(bool),
    Count(u8),
}

/// Bytes in hexadecimal digits.
struct Hex(Zeroizing<Salt>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = Zeroizing::new(self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        serializer.serialize_str(&digits)
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat<'a> {
    JsonObject,
    JsonSchema { json_schema: JsonSchema<'a> },
}

#[derive(Serialize)]
struct JsonSchema<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a RawValue,
}

fn format(form: &Form) -> Result<Option<ResponseFormat<'_>>, PrepareError> {
    Ok(match form {
        Form::Text => None,
        Form::JsonObject => Some(ResponseFormat::JsonObject),
        Form::JsonSchema(schema) => {
            let schema =
                raw(schema).ok_or_else(|| PrepareError::Schema("the schema is no JSON".to_owned()))?;
            Some(ResponseFormat::JsonSchema {
                json_schema: JsonSchema { name: "answer", strict: true, schema },
            })
        }
    })
}

fn raw(json: &SecretString) -> Option<&RawValue> {
    serde_json::from_str(json.as_str()).ok()
}

#[derive(Serialize)]
#[serde(untagged)]
enum Prompt<'a> {
    Chat(Chat<'a>),
    Text { prompt: &'a str },
    Tokens { prompt: &'a [u32] },
}

#[derive(Serialize)]
struct Chat<'a> {
    messages: Vec<WireMessage<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<WireChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    chat_template_kwargs: BTreeMap<String, &'a RawValue>,
}

#[derive(Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WireCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

#[derive(Serialize)]
struct WireCall<'a> {
    id: &'a str,
    r#type: &'static str,
    function: WireFunction<'a>,
}

#[derive(Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
struct WireTool<'a> {
    r#type: &'static str,
    function: WireDefinition<'a>,
}

#[derive(Serialize)]
struct WireDefinition<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireChoice<'a> {
    Word(&'static str),
    Named { r#type: &'static str, function: WireName<'a> },
}

#[derive(Serialize)]
struct WireName<'a> {
    name: &'a str,
}

impl<'a> Prompt<'a> {
    /// `is_question` leaves out what says how to answer.
    fn of(facts: &EngineFacts, input: &'a Input, is_question: bool) -> Result<Self, PrepareError> {
        Ok(match input {
            Input::Text(text) => Self::Text { prompt: text.as_str() },
            Input::Tokens(tokens) => Self::Tokens { prompt: tokens },
            Input::Chat(conversation) => Self::Chat(Chat::of(facts, conversation, is_question)?),
        })
    }
}

impl<'a> Chat<'a> {
    fn of(
        facts: &EngineFacts,
        conversation: &'a Conversation,
        is_question: bool,
    ) -> Result<Self, PrepareError> {
        let Conversation { messages, tools, choice, parallel, thinks, effort, variables } = conversation;
        // A model that may not call is not told what there is.
        let told = if *choice == ToolChoice::None { &[] } else { tools.as_slice() };
        let has_tools = !told.is_empty();
        let choice = match choice {
            ToolChoice::Auto => Some(WireChoice::Word("auto")),
            ToolChoice::None => None,
            ToolChoice::Required => Some(WireChoice::Word("required")),
            ToolChoice::Named(index) => tools.get(*index).map(|tool| WireChoice::Named {
                r#type: "function",
                function: WireName { name: tool.name.as_str() },
            }),
        };
        let mut variables: BTreeMap<String, &RawValue> = match variables {
            Some(variables) => serde_json::from_str(variables.as_str()).map_err(|_| {
                PrepareError::Prompt(
                    "expected an object with each name once in chat_template_kwargs".to_owned(),
                )
            })?,
            None => BTreeMap::new(),
        };
        if let Some(thinks) = thinks {
            let thinks = if *thinks { RawValue::TRUE } else { RawValue::FALSE };
            variables.insert("enable_thinking".to_owned(), thinks);
        }
        let tools = told.iter().enumerate().map(|(index, tool)| wire_tool(facts, index, tool));
        Ok(Self {
            messages: messages.iter().map(wire_message).collect(),
            tools: tools.collect::<Result<_, _>>()?,
            tool_choice: choice.filter(|_| has_tools && !is_question),
            parallel_tool_calls: (has_tools && !is_question).then_some(*parallel),
            reasoning_effort: effort.filter(|_| !is_question),
            chat_template_kwargs: variables,
        })
    }
}

fn wire_message(message: &Message) -> WireMessage<'_> {
    let Message { role, content, name, reasoning, calls, answers } = message;
    WireMessage {
        role,
        content: content.as_str(),
        name: name.as_ref().map(SecretString::as_str),
        reasoning_content: reasoning.as_ref().map(SecretString::as_str),
        tool_calls: calls
            .iter()
            .map(|call| WireCall {
                id: call.id.as_str(),
                r#type: "function",
                function: WireFunction { name: call.name.as_str(), arguments: call.arguments.as_str() },
            })
            .collect(),
        tool_call_id: answers.as_ref().map(SecretString::as_str),
    }
}

fn wire_tool<'a>(facts: &EngineFacts, index: usize, tool: &'a Tool) -> Result<WireTool<'a>, PrepareError> {
    let Tool { name, description, parameters, strict } = tool;
    let no_json = || PrepareError::Tool { index, reason: "the schema is no JSON".to_owned() };
    let parameters = match parameters {
        Some(parameters) => Some(raw(parameters).ok_or_else(no_json)?),
        None => None,
    };
    let function = WireDefinition {
        name: name.as_str(),
        description: description.as_ref().map(SecretString::as_str),
        parameters,
        strict: strict.then_some(true).filter(|_| facts.flavour != Flavour::LlamaServer),
    };
    Ok(WireTool { r#type: "function", function })
}
