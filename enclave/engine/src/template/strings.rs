//! What templates do with texts: methods, filters and tests that see what was written, and give back texts
//! that still say which characters came from a message.

use std::sync::Arc;

use minijinja::{
    Environment, Error, ErrorKind, State, filters, tests,
    value::{Kwargs, Value, ValueKind, from_args},
};
use minijinja_contrib::pycompat;

use super::{comparisons::AS_WRITTEN, guard::Guard, python};

/// Lists within lists that are looked into.
const MAX_DEPTH: usize = 8;

/// Adds everything that has to see through the stand-ins of one set of messages.
pub(super) fn add_to(environment: &mut Environment<'_>, guard: &Arc<Guard>) {
    let by = Arc::clone(guard);
    environment.set_unknown_method_callback(move |state, value, method, arguments| {
        call_method(&by, state, value, method, arguments)
    });
    let by = Arc::clone(guard);
    environment.add_function(AS_WRITTEN, move |value: &Value| written(&by, value, 0));
    let by = Arc::clone(guard);
    environment
        .add_filter("tojson", move |value: &Value, arguments: Kwargs| python::tojson(value, &arguments, &by));
    for (filter, method) in [
        ("upper", "upper"),
        ("lower", "lower"),
        ("title", "title"),
        ("capitalize", "capitalize"),
        ("trim", "strip"),
        ("replace", "replace"),
        ("split", "split"),
    ] {
        let by = Arc::clone(guard);
        let run =
            move |state: &mut State<'_, '_>, value: &Value, arguments: minijinja::value::Rest<Value>| {
                let text = Value::from(value.to_string());
                let value = if value.as_str().is_some() { value } else { &text };
                call_method(&by, state, value, method, &arguments)
            };
        environment.add_filter(filter, run);
    }
    let by = Arc::clone(guard);
    environment.add_filter(
        "int",
        move |state: &State<'_, '_>,
              value: &Value,
              default: Option<Value>,
              base: Option<u32>,
              rest: Kwargs| { filters::int(state, &written(&by, value, 0), default, base, rest) },
    );
    let by = Arc::clone(guard);
    environment.add_filter(
        "float",
        move |state: &State<'_, '_>, value: &Value, default: Option<Value>, rest: Kwargs| {
            filters::float(state, &written(&by, value, 0), default, rest)
        },
    );
    add_tests(environment, guard);
}

fn add_tests(environment: &mut Environment<'_>, guard: &Arc<Guard>) {
    for (names, expected) in [(["eq", "equalto", "=="].as_slice(), true), (&["ne", "!="], false)] {
        for name in names {
            let by = Arc::clone(guard);
            environment.add_test(*name, move |value: &Value, other: &Value| {
                (written(&by, value, 0) == written(&by, other, 0)) == expected
            });
        }
    }
    let by = Arc::clone(guard);
    environment.add_test("in", move |state: &State<'_, '_>, value: &Value, other: &Value| {
        tests::is_in(state, &written(&by, value, 0), &written(&by, other, 0))
    });
    for (name, method) in [("startingwith", "startswith"), ("endingwith", "endswith")] {
        let by = Arc::clone(guard);
        environment.add_test(name, move |state: &mut State<'_, '_>, value: &Value, other: &Value| {
            call_method(&by, state, value, method, std::slice::from_ref(other)).map(|found| found.is_true())
        });
    }
}

/// The value without stand-ins, as far as it is a text or a list.
fn written(guard: &Guard, value: &Value, depth: usize) -> Value {
    match value.kind() {
        ValueKind::String => match value.as_str() {
            Some(text) if guard.changes(text) => Value::from(guard.written(text).as_str()),
            _ => value.clone(),
        },
        ValueKind::Seq | ValueKind::Iterable if depth < MAX_DEPTH => match value.try_iter() {
            Ok(elements) => elements.map(|element| written(guard, &element, depth + 1)).collect(),
            Err(_) => value.clone(),
        },
        _ => value.clone(),
    }
}

/// A method of Python's `str`, or of another type.
fn call_method(
    guard: &Guard,
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, method, arguments);
    };
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(arguments)?;
            Ok(Value::from(strip(guard, text, characters, method)))
        }
        "split" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
            match separator {
                // White space stays itself.
                None => pycompat::unknown_method_callback(state, value, method, arguments),
                Some("") => Err(Error::new(ErrorKind::InvalidOperation, "an empty separator")),
                Some(separator) => {
                    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
                    Ok(split(guard, text, separator, most).into_iter().map(Value::from).collect())
                }
            }
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(arguments)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            replace(guard, state, text, (old, new), most)
        }
        "upper" | "lower" | "title" | "capitalize" => {
            let changed = pycompat::unknown_method_callback(
                state,
                &Value::from(guard.written(text).as_str()),
                method,
                arguments,
            )?;
            Ok(Value::from(marked_like(guard, text, changed.as_str().unwrap_or_default())))
        }
        // Texts that are put together keep their characters as they are.
        "join" | "format" | "splitlines" => {
            pycompat::unknown_method_callback(state, value, method, arguments)
        }
        // All others say something of the text.
        _ => {
            let arguments: Vec<Value> =
                arguments.iter().map(|argument| written(guard, argument, 0)).collect();
            pycompat::unknown_method_callback(state, &written(guard, value, 0), method, &arguments)
        }
    }
}

fn strip(guard: &Guard, text: &str, characters: Option<&str>, method: &str) -> String {
    let characters = characters.map(|characters| guard.written(characters));
    let goes = |character: char| match &characters {
        Some(characters) => characters.contains(guard.restore(character)),
        None => character.is_whitespace(),
    };
    let mut rest = text;
    if method != "rstrip" {
        rest = rest.trim_start_matches(goes);
    }
    if method != "lstrip" {
        rest = rest.trim_end_matches(goes);
    }
    rest.to_owned()
}

/// Where `wanted` stands in `text`, as far as both were written so: bytes of `text`.
fn find(guard: &Guard, text: &str, wanted: &str) -> Option<(usize, usize)> {
    let is_here = |at: usize| -> Option<usize> {
        let mut characters = text.get(at..)?.char_indices();
        for expected in wanted.chars() {
            let (_, found) = characters.next()?;
            if guard.restore(found) != guard.restore(expected) {
                return None;
            }
        }
        Some(at + characters.next().map_or(text.len() - at, |(after, _)| after))
    };
    text.char_indices().find_map(|(at, _)| Some((at, is_here(at)?)))
}

fn split<'t>(guard: &Guard, text: &'t str, separator: &str, most: usize) -> Vec<&'t str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while parts.len() < most
        && let Some((start, end)) = find(guard, rest, separator)
    {
        parts.push(rest.get(..start).unwrap_or_default());
        rest = rest.get(end..).unwrap_or_default();
    }
    parts.push(rest);
    parts
}

fn replace(
    guard: &Guard,
    state: &State<'_, '_>,
    text: &str,
    (old, new): (&str, &str),
    most: usize,
) -> Result<Value, Error> {
    if old.is_empty() {
        return Ok(Value::from(text.replacen(old, new, most)));
    }
    let parts = split(guard, text, old, most);
    // What is put in is paid for before there is memory for it.
    state.consume_fuel((parts.len().saturating_mul(new.len()) / 64) as u64)?;
    Ok(Value::from(parts.join(new)))
}

/// `changed`, of which each character has come from where that of `text` at its place has; all of it from a
/// message where the places cannot be told.
fn marked_like(guard: &Guard, text: &str, changed: &str) -> String {
    let same_places = text.chars().count() == changed.chars().count();
    let mut before = text.chars();
    let mark = |character: char| match before.next() {
        // Characters beyond ASCII can turn into some of it, as the sign for Kelvin does.
        Some(marked)
            if same_places
                && guard.restore(marked) == marked
                && (marked.is_ascii() || marked == character) =>
        {
            character
        }
        _ => guard.stand_in(character),
    };
    changed.chars().map(mark).collect()
}
