//! Puts a program through the vectors.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::Vector;

/// How long a program may take for one vector.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of an answer that are read.
const MAX_ANSWER_LENGTH: u64 = 1 << 20;

/// How a program did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many vectors it was given.
    pub vectors: usize,
    /// How many of its refusals came without a code, so that their reason is not known.
    pub without_code: usize,
    /// Where it differs.
    pub disagreements: Vec<Disagreement>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The vector.
    pub id: String,
    /// Its rules.
    pub rules: Vec<String>,
    /// What differs: `outcome`, `exit code`, or another member of the answer.
    pub what: String,
    /// What the vector expects.
    pub expected: String,
    /// What the program said.
    pub actual: String,
}

/// Runs `command` (a program and its arguments) once for each vector, with the request on its standard input, and
/// compares its answer and exit code. What the answer leaves out or has as null, beyond `outcome`, is not compared.
///
/// # Errors
///
/// When the program cannot be started at all.
pub fn run(command: &[String], vectors: &[Vector]) -> io::Result<Report> {
    let mut report = Report { vectors: vectors.len(), ..Report::default() };
    for vector in vectors {
        let request = serde_json::to_vec(&vector.request)?;
        report.judge(vector, &answer(command, request)?);
    }
    Ok(report)
}

/// What a program said: an exit code, if it ended by itself, and its standard output.
struct Answer {
    exit_code: Option<i32>,
    output: Vec<u8>,
}

fn answer(command: &[String], request: Vec<u8>) -> io::Result<Answer> {
    let [program, arguments @ ..] = command else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a command"));
    };
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    // A program that does not read its input has its own reasons; its answer is what counts.
    thread::spawn(move || input.map(|mut input| input.write_all(&request)));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.map(|output| output.take(MAX_ANSWER_LENGTH).read_to_end(&mut bytes));
        let _ = sender.send(read.map(|_| bytes).unwrap_or_default());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => Ok(Answer { exit_code: exit_code(&mut child)?, output }),
        Err(_) => {
            child.kill()?;
            child.wait()?;
            Ok(Answer { exit_code: None, output: Vec::new() })
        }
    }
}

/// The code of a program that closed its output and is about to end.
fn exit_code(child: &mut Child) -> io::Result<Option<i32>> {
    Ok(child.wait()?.code())
}

impl Report {
    /// Whether the program agrees with every vector.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.disagreements.is_empty()
    }

    fn judge(&mut self, vector: &Vector, answer: &Answer) {
        let mut differ = |what: &str, expected: String, actual: String| {
            let (id, rules) = (vector.id.clone(), vector.rules.clone());
            self.disagreements.push(Disagreement { id, rules, what: what.to_owned(), expected, actual });
        };
        let Ok(Value::Object(said)) = serde_json::from_slice(&answer.output) else {
            let actual = match answer.exit_code {
                Some(code) => format!("something else, and exit code {code}"),
                None => format!("no answer, or none within {} s", PATIENCE.as_secs()),
            };
            return differ("answer", "one JSON object".to_owned(), actual);
        };
        let Ok(Value::Object(expected)) = serde_json::to_value(&vector.response) else { return };
        let said = |name: &str| said.get(name).unwrap_or(&Value::Null);
        for (name, expected) in &expected {
            let actual = said(name);
            let compared = name == "outcome" || !actual.is_null();
            if compared && actual != expected {
                differ(name, text(expected), text(actual));
            }
        }
        let code = vector.response.outcome.exit_code();
        if answer.exit_code != Some(code) {
            let actual = answer.exit_code.map_or("a signal".to_owned(), |code| code.to_string());
            differ("exit code", code.to_string(), actual);
        }
        if vector.response.code.is_some() && said("code").is_null() {
            self.without_code += 1;
        }
    }
}

/// A value in one line of printable characters, and not a long one.
fn text(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let clean: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    clean.replace("\\\"", "\"")
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vectors, without_code, disagreements } = self;
        let width = disagreements.iter().map(|it| it.id.len()).max().unwrap_or(0);
        for Disagreement { id, rules, what, expected, actual } in disagreements {
            let rules = rules.join(" ");
            writeln!(formatter, "{id:<width$}  {rules:<12}  {what}: expected {expected}, got {actual}")?;
        }
        let mut ids: Vec<_> = disagreements.iter().map(|disagreement| &disagreement.id).collect();
        ids.dedup();
        writeln!(formatter, "{vectors} vectors, {} agree, {} disagree", vectors - ids.len(), ids.len())?;
        if *without_code > 0 {
            writeln!(
                formatter,
                "{without_code} refusals came without a code: their reasons were not compared"
            )?;
        }
        Ok(())
    }
}
