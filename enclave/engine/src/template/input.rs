//! The values that a template gets. Every text of a partner's is guarded: contents, names, and the texts inside of
//! tools and arguments.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, Value};
use zeroize::Zeroizing;

use super::guard::Guard;
use crate::{
    chat::{Chat, ChatCall, ChatMessage, ChatTool},
    constraint::json::Json,
    forms::{CallForm, Forms},
    prompt::PromptError,
};

/// A chat whose JSON has been read.
pub(super) struct Input<'a> {
    messages: Vec<Message<'a>>,
    tools: Vec<(ChatTool<'a>, Option<Json>)>,
    thinks: Option<bool>,
    effort: Option<&'a str>,
    variables: Option<Json>,
}

struct Message<'a> {
    message: &'a ChatMessage<'a>,
    /// Each call with its arguments, if they are an object.
    calls: Vec<(&'a ChatCall<'a>, Option<Json>)>,
}

/// Names that a template knows already.
const TAKEN: [&str; 12] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
    "dict",
    "debug",
    super::comparisons::AS_WRITTEN,
];

impl<'a> Input<'a> {
    pub(super) fn read(chat: &Chat<'a>) -> Result<Self, PromptError> {
        let object = |text: &str| serde_json::from_str::<Json>(text).ok().filter(Json::is_object);
        let messages = chat.messages.iter().map(|message| Message {
            message,
            calls: message.calls.iter().map(|call| (call, object(call.arguments))).collect(),
        });
        let tools = chat.tools.iter().map(|tool| {
            let parameters = tool.parameters.map(|text| object(text).ok_or(PromptError::Tool)).transpose()?;
            Ok((*tool, parameters))
        });
        let variables = chat.variables.map(|text| object(text).ok_or(PromptError::Variables)).transpose()?;
        if let Some(Json::Object(members)) = &variables
            && members.iter().any(|(name, _)| TAKEN.contains(&name.as_str()))
        {
            return Err(PromptError::Variables);
        }
        Ok(Self {
            messages: messages.collect(),
            tools: tools.collect::<Result<_, _>>()?,
            thinks: chat.thinks,
            effort: chat.effort,
            variables,
        })
    }

    /// Calls `each` with every text.
    pub(super) fn each_text(&self, each: &mut dyn FnMut(&str)) {
        for Message { message, calls } in &self.messages {
            each(message.content);
            [message.name, message.reasoning, message.answers].into_iter().flatten().for_each(&mut *each);
            for (call, arguments) in calls {
                [call.id, call.name, call.arguments].into_iter().for_each(&mut *each);
                arguments.iter().for_each(|arguments| arguments.each_text(each));
            }
        }
        for (tool, parameters) in &self.tools {
            each(tool.name);
            tool.description.into_iter().for_each(&mut *each);
            parameters.iter().for_each(|parameters| parameters.each_text(each));
        }
        self.variables.iter().for_each(|variables| variables.each_text(each));
    }

    /// The template's variables beside the tokens.
    pub(super) fn variables(&self, guard: &Arc<Guard>, forms: Forms) -> Vec<(String, Value)> {
        let mut variables = vec![
            ("messages".to_owned(), self.messages(guard, forms)),
            ("tools".to_owned(), self.tools(guard)),
            ("documents".to_owned(), Value::from(())),
        ];
        variables.extend(self.thinks.map(|thinks| ("enable_thinking".to_owned(), Value::from(thinks))));
        let effort = self.effort.map(|effort| text(effort, guard));
        variables.extend(effort.map(|effort| ("reasoning_effort".to_owned(), effort)));
        if let Some(Json::Object(members)) = &self.variables {
            let more = members.iter().map(|(name, json)| (name.as_str().to_owned(), value(json, guard)));
            variables.extend(more);
        }
        variables
    }

    fn messages(&self, guard: &Arc<Guard>, forms: Forms) -> Value {
        let ids: Vec<&str> =
            self.messages.iter().flat_map(|message| &message.calls).map(|(call, _)| call.id).collect();
        // Templates of Mistral's demand ids of nine characters.
        let id = |id: &str| match (forms.calls, ids.iter().position(|known| *known == id)) {
            (Some(CallForm::MistralList | CallForm::MistralNamed), Some(index)) => {
                Value::from(format!("call{:05}", index % 100_000))
            }
            _ => text(id, guard),
        };
        let called = |id: &str| {
            let calls = self.messages.iter().flat_map(|message| &message.calls);
            calls.rev().find(|(call, _)| call.id == id).map(|(call, _)| call.name)
        };
        let message = |Message { message, calls }: &Message<'_>| {
            let mut members =
                vec![("role", Value::from(message.role)), ("content", text(message.content, guard))];
            // The tool's name is known from its call.
            let name = message.name.or(message.answers.and_then(called));
            members.extend(name.map(|name| ("name", text(name, guard))));
            if let Some(reasoning) = message.reasoning {
                members.push(("reasoning_content", text(reasoning, guard)));
                members.push(("thinking", text(reasoning, guard)));
            }
            members.extend(message.answers.map(|answers| ("tool_call_id", id(answers))));
            if !calls.is_empty() {
                let call = |(call, arguments): &(&ChatCall<'_>, Option<Json>)| {
                    let arguments = arguments
                        .as_ref()
                        .map_or_else(|| text(call.arguments, guard), |arguments| value(arguments, guard));
                    let function =
                        Value::from_pairs([("name", text(call.name, guard)), ("arguments", arguments)]);
                    Value::from_pairs([
                        ("id", id(call.id)),
                        ("type", Value::from("function")),
                        ("function", function),
                    ])
                };
                members.push(("tool_calls", calls.iter().map(call).collect()));
            }
            Value::from_pairs(members)
        };
        self.messages.iter().map(message).collect()
    }

    fn tools(&self, guard: &Arc<Guard>) -> Value {
        if self.tools.is_empty() {
            return Value::from(());
        }
        let tool = |(tool, parameters): &(ChatTool<'_>, Option<Json>)| {
            let mut function = vec![("name", text(tool.name, guard))];
            function.extend(tool.description.map(|description| ("description", text(description, guard))));
            function.extend(parameters.as_ref().map(|parameters| ("parameters", value(parameters, guard))));
            Value::from_pairs([("type", Value::from("function")), ("function", Value::from_pairs(function))])
        };
        self.tools.iter().map(tool).collect()
    }
}

fn text(text: &str, guard: &Guard) -> Value {
    Value::from(guard.protect(text).as_str())
}

fn value(json: &Json, guard: &Arc<Guard>) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Boolean(boolean) => Value::from(*boolean),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            (.., number) => Value::from(number.unwrap_or_default()),
        },
        Json::Text(string) => text(string, guard),
        Json::Array(elements) => elements.iter().map(|element| value(element, guard)).collect(),
        Json::Object(members) => {
            let members = members.iter().map(|(name, json)| (name.clone(), value(json, guard)));
            Value::from_object(Members { members: members.collect(), guard: Arc::clone(guard) })
        }
    }
}

/// A JSON object: its members are found by the names as they were written, and listed with guarded names.
struct Members {
    members: Vec<(Zeroizing<String>, Value)>,
    guard: Arc<Guard>,
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of a partner's")
    }
}

impl Object for Members {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = self.guard.written(key.as_str()?);
        self.members
            .iter()
            .find(|(member, _)| member.as_str() == name.as_str())
            .map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.members.iter().map(|(name, _)| text(name, &self.guard)).collect())
    }
}
