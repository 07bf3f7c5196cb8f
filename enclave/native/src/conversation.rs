//! From a conversation to a prompt, the form of its answer, and who reads that.

use cleanroom_backend::{
    Conversation, Form, Message, PrepareError, SecretString, Tool, ToolCall, ToolChoice,
};
use cleanroom_engine::{
    CallableTool, CallsWanted, Chat, ChatCall, ChatMessage, ChatPrompt, ChatTool, Constraint, Model,
};

use crate::{Begun, constraint, not_prompted};

/// The schema of an answer that is any JSON object.
const ANY_OBJECT: &str = r#"{"type":"object"}"#;

pub(crate) fn begin(model: &Model, conversation: &Conversation, form: &Form) -> Result<Begun, PrepareError> {
    let prompt = prompt(model, conversation).map_err(not_prompted)?;
    let callable = callable(conversation);
    let constraint = match callable.as_slice() {
        [] => constraint(model, form)?.map(|constraint| model.after_thought(&prompt, constraint)),
        tools => calls(model, conversation, &prompt, tools, form)?,
    };
    let reader = model.answer_reader(&prompt, (!callable.is_empty()).then_some(callable.as_slice()));
    Ok(Begun { prompt: prompt.prompt, constraint, reader })
}

fn prompt(model: &Model, conversation: &Conversation) -> Result<ChatPrompt, cleanroom_engine::PromptError> {
    let Conversation { messages, tools, choice, parallel: _, thinks, effort, variables } = conversation;
    let calls: Vec<Vec<_>> =
        messages.iter().map(|message| message.calls.iter().map(chat_call).collect()).collect();
    let messages: Vec<_> =
        messages.iter().zip(&calls).map(|(message, calls)| chat_message(message, calls)).collect();
    // A model that may not call is not told what there is.
    let told = if *choice == ToolChoice::None { &[] } else { tools.as_slice() };
    let tools: Vec<_> = told.iter().map(chat_tool).collect();
    model.prompt_from_conversation(&Chat {
        messages: &messages,
        tools: &tools,
        thinks: *thinks,
        effort: *effort,
        variables: variables.as_ref().map(SecretString::as_str),
    })
}

fn chat_call(ToolCall { id, name, arguments }: &ToolCall) -> ChatCall<'_> {
    ChatCall { id: id.as_str(), name: name.as_str(), arguments: arguments.as_str() }
}

fn chat_message<'a>(message: &'a Message, calls: &'a [ChatCall<'a>]) -> ChatMessage<'a> {
    let Message { role, content, name, reasoning, calls: _, answers } = message;
    ChatMessage {
        role,
        content: content.as_str(),
        name: name.as_ref().map(SecretString::as_str),
        reasoning: reasoning.as_ref().map(SecretString::as_str),
        calls,
        answers: answers.as_ref().map(SecretString::as_str),
    }
}

fn chat_tool(tool: &Tool) -> ChatTool<'_> {
    let Tool { name, description, parameters, strict: _ } = tool;
    ChatTool {
        name: name.as_str(),
        description: description.as_ref().map(SecretString::as_str),
        parameters: parameters.as_ref().map(SecretString::as_str),
    }
}

fn callable_tool(tool: &Tool) -> CallableTool<'_> {
    let Tool { name, description: _, parameters, strict } = tool;
    CallableTool {
        name: name.as_str(),
        parameters: parameters.as_ref().map(SecretString::as_str),
        strict: *strict,
    }
}

/// The tools that the answer may call.
fn callable(conversation: &Conversation) -> Vec<CallableTool<'_>> {
    match conversation.choice {
        ToolChoice::None => Vec::new(),
        ToolChoice::Auto | ToolChoice::Required => conversation.tools.iter().map(callable_tool).collect(),
        ToolChoice::Named(index) => conversation.tools.get(index).map(callable_tool).into_iter().collect(),
    }
}

fn calls(
    model: &Model,
    conversation: &Conversation,
    prompt: &ChatPrompt,
    tools: &[CallableTool<'_>],
    form: &Form,
) -> Result<Option<Constraint>, PrepareError> {
    let wanted = CallsWanted {
        tools,
        must: matches!(conversation.choice, ToolChoice::Required | ToolChoice::Named(_)),
        parallel: conversation.parallel,
        otherwise: match form {
            Form::Text => None,
            Form::JsonObject => Some(ANY_OBJECT),
            Form::JsonSchema(schema) => Some(schema.as_str()),
        },
    };
    model.constrained_to_calls(prompt, &wanted).map_err(|(index, error)| {
        let reason = error.to_string();
        if index == tools.len() {
            return PrepareError::Schema(reason);
        }
        // The one that must be called is the only one here.
        let index = match conversation.choice {
            ToolChoice::Named(named) => named,
            _ => index,
        };
        PrepareError::Tool { index, reason }
    })
}
