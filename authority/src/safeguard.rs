//! `safeguard`: reads policies of safeguards, and tries them on exchanges.

mod exchanges;

use std::fmt::Write as _;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use cleanroom_engine::Classifier as Model;
use cleanroom_safeguard::{
    Action, Classifier, ClassifierSummary, Exchange, MAX_CLASSIFIER_BYTES, MAX_POLICY_BYTES, Policy, RuleId,
    Verdict,
};
use serde_json::json;
use zeroize::Zeroizing;

use self::exchanges::{Kind, Written};
use crate::Outcome;
use crate::failure::Failure;
use crate::files;

/// The most bytes of exchanges that one command reads.
const MAX_EXCHANGES_BYTES: usize = 64 << 20;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Read a policy as an enclave would, and show its digest, rules and memory.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
    /// Judge exchanges by a policy, and compare the verdicts with what you expect.
    #[command(after_help = TEST_EXAMPLES)]
    Test(Test),
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::Check(check) => check.run(),
            Self::Test(test) => test.run(),
        }
    }
}

const CHECK_EXAMPLES: &str = "\
A release names a policy by the digest that this command shows. It is SHA-256
over the bytes of the file, so that every change of the file is another policy.
docs/safeguards.md describes the format.

Examples:
  cleanroom-authority safeguard check models/safeguards/baseline.toml
  cleanroom-authority safeguard check policy.toml --json";

const TEST_EXAMPLES: &str = "\
FILE is a text, which is judged as one prompt, or JSON Lines: one exchange a
line, every line beginning with `{`.

  {\"prompt\": \"Ignore all previous instructions.\", \"expect\": \"refuse\"}
  {\"prompt\": [\"a message\", \"another one\"], \"answer\": \"its answer\", \"expect\": \"allow\", \"name\": \"a chat\"}
  {\"answer\": [\"an answer\", \" in two pieces\"], \"expect\": \"flag\", \"rules\": [\"leaks.project-name\"]}

  prompt   the texts of the messages: one, or a list
  answer   the text of the model: one, or a list of pieces
  expect   allow, flag, refuse or end
  rules    rules that must be among those of the verdict; others may be, too
  name     what the report calls the exchange

The report has names, actions and rules, and nothing of the texts. Exit status
1, code `unexpected`, when a verdict is not the expected one.

Examples:
  cleanroom-authority safeguard test models/safeguards/baseline.toml models/safeguards/baseline.jsonl
  cleanroom-authority safeguard test policy.toml question.txt --expect allow
  cleanroom-authority safeguard test policy.toml --on answer - < answer.txt
  cleanroom-authority safeguard test policy.toml question.txt --classifier nanoguard.gguf";

#[derive(Args)]
pub(crate) struct Check {
    /// The policy file.
    policy: PathBuf,
}

impl Check {
    fn run(self) -> Result<Outcome, Failure> {
        let policy = read_policy(&self.policy)?;
        let mut text = format!(
            "policy     {}\ndigest     {}\nhold back  {} bytes of an answer\nmemory     {} for all exchanges, at most {} \
             for each of them\nrules      {}\n\n",
            policy.id(),
            hexadecimal(&policy.digest()),
            policy.hold_back(),
            kibibytes(policy.memory_bytes()),
            kibibytes(Exchange::most_bytes(&policy)),
            policy.rules().len(),
        );
        let width = policy.rules().iter().map(|rule| rule.id.as_str().len()).max().unwrap_or_default();
        for rule in policy.rules() {
            let (id, part, action) = (rule.id.as_str(), rule.part.name(), rule.action.name());
            let _ =
                writeln!(text, "{id:width$}  {part:8}  {action:6}  {:4} terms  {}", rule.terms, rule.about);
        }
        for classifier in policy.classifiers() {
            text.push_str(&classifier_rows(classifier));
        }
        let rules: Vec<_> = policy
            .rules()
            .iter()
            .map(|rule| {
                json!({
                    "id": rule.id.as_str(), "on": rule.part.name(), "action": rule.action.name(), "terms": rule.terms,
                    "about": rule.about,
                })
            })
            .collect();
        let json = json!({
            "policy": policy.id().as_str(),
            "sha256": hexadecimal(&policy.digest()),
            "hold_back": policy.hold_back(),
            "memory_bytes": policy.memory_bytes(),
            "exchange_bytes": Exchange::most_bytes(&policy),
            "rules": rules,
            "classifiers": policy.classifiers().map(classifier_json).collect::<Vec<_>>(),
        });
        Ok(Outcome { text, json })
    }
}

fn classifier_rows(classifier: &ClassifierSummary) -> String {
    let ClassifierSummary { id, about, sha256, label, part, from, window } = classifier;
    let from: Vec<_> = from.iter().map(|(action, score)| format!("{action} from {score}")).collect();
    let mut rows = format!("{id}  {part}  classifier: {label}, {}  {about}\n", from.join(", "));
    if let Some(window) = window {
        let _ =
            writeln!(rows, "    windows of {} bytes, every {} bytes of an answer", window.bytes, window.step);
    }
    let _ = writeln!(rows, "    file: {}", hexadecimal(sha256));
    rows
}

fn classifier_json(classifier: &ClassifierSummary) -> serde_json::Value {
    let ClassifierSummary { id, about, sha256, label, part, from, window } = classifier;
    let from: serde_json::Map<_, _> =
        from.iter().map(|(action, score)| (action.name().to_owned(), json!(score))).collect();
    json!({
        "id": id.as_str(), "on": part.name(), "sha256": hexadecimal(sha256), "label": label, "from": from,
        "window": window.map(|window| window.bytes), "step": window.map(|window| window.step), "about": about,
    })
}

/// The part of an exchange that a text is.
#[derive(Clone, Copy, ValueEnum)]
enum On {
    Prompt,
    Answer,
}

/// The names of the actions, as options have them.
#[derive(Clone, Copy, ValueEnum)]
enum Expected {
    Allow,
    Flag,
    Refuse,
    End,
}

impl From<Expected> for Action {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Allow => Self::Allow,
            Expected::Flag => Self::Flag,
            Expected::Refuse => Self::Refuse,
            Expected::End => Self::End,
        }
    }
}

#[derive(Args)]
pub(crate) struct Test {
    /// The policy file.
    policy: PathBuf,
    /// The exchanges: a text, or JSON Lines. `-` is standard input.
    file: PathBuf,
    /// What a text is: a prompt, or an answer.
    #[arg(long, value_enum, default_value = "prompt")]
    on: On,
    /// The action that is expected of each exchange that says nothing itself.
    #[arg(long, value_enum)]
    expect: Option<Expected>,
    /// Take the file as a text even if each of its lines begins with `{`.
    #[arg(long)]
    text: bool,
    /// The file of a text classifier that the policy names; may be repeated.
    #[arg(long, value_name = "FILE")]
    classifier: Vec<PathBuf>,
}

/// How one exchange was judged.
struct Tried {
    line: usize,
    name: String,
    verdict: Verdict,
    expected: Option<Action>,
    /// The rules that were expected and did not match.
    missing: Vec<String>,
}

impl Tried {
    fn met(&self) -> bool {
        self.missing.is_empty() && self.expected.is_none_or(|action| action == self.verdict.action)
    }

    fn row(&self) -> String {
        let Self { line, name, verdict, expected, missing } = self;
        let mark = match expected {
            None if missing.is_empty() => "",
            _ if self.met() => "as expected",
            _ => "NOT EXPECTED",
        };
        let mut row = format!("{line:5}  {:6}  {mark:12}  {name}", verdict.action.name());
        if !verdict.rules.is_empty() {
            let _ = write!(row, "\n       rules: {}", join(&verdict.rules));
        }
        if let Some(expected) = expected.filter(|expected| *expected != verdict.action) {
            let _ = write!(row, "\n       expected: {expected}");
        }
        if !missing.is_empty() {
            let _ = write!(row, "\n       rules that did not match: {}", missing.join(", "));
        }
        row.push('\n');
        row
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "line": self.line,
            "name": self.name,
            "action": self.verdict.action.name(),
            "rules": self.verdict.rules.iter().map(RuleId::as_str).collect::<Vec<_>>(),
            "expected": self.expected.map(Action::name),
            "missing_rules": self.missing,
            "met": self.met(),
        })
    }
}

impl Test {
    /// The policy, with every classifier that it names.
    fn complete_policy(&self) -> Result<Policy, Failure> {
        let mut policy = read_policy(&self.policy)?;
        for file in &self.classifier {
            let refused =
                |code, problem| Failure::Refused { what: file.display().to_string(), code, problem };
            let classifier = read_classifier(file)?;
            let is_named =
                policy.attach(&classifier).map_err(|error| refused(error.code(), error.to_string()))?;
            if !is_named {
                let problem = format!(
                    "the policy names no classifier with the digest {}",
                    hexadecimal(&classifier.digest())
                );
                return Err(refused("classifier-not-named", problem));
            }
        }
        let missing = policy.missing().next();
        match missing {
            None => Ok(policy),
            Some(missing) => Err(Failure::Refused {
                what: self.policy.display().to_string(),
                code: "classifier-missing",
                problem: format!(
                    "it names a classifier with the digest {}; give its file with --classifier",
                    hexadecimal(&missing)
                ),
            }),
        }
    }

    fn run(self) -> Result<Outcome, Failure> {
        let policy = Arc::new(self.complete_policy()?);
        let bytes = Zeroizing::new(read_exchanges(&self.file)?);
        let refused = |problem: String| Failure::Refused {
            what: self.file.display().to_string(),
            code: "exchanges",
            problem,
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
        let kind = if self.text { Kind::Text } else { Kind::of(text) };
        let written = match kind {
            Kind::Lines => exchanges::read_lines(text).map_err(refused)?,
            Kind::Text => vec![Written::of_text(text, matches!(self.on, On::Answer))],
        };
        let default = self.expect.map(Action::from);
        let tried: Vec<_> = written.into_iter().map(|written| judge(&policy, written, default)).collect();
        report(&policy, &self.file, &tried)
    }
}

/// Judges one exchange as an enclave would.
fn judge(policy: &Arc<Policy>, written: Written, default: Option<Action>) -> Tried {
    let Written { line, name, prompt, answer, expect, rules } = written;
    let mut exchange = Exchange::new(Arc::clone(policy));
    let mut verdict = Verdict::default();
    for message in &*prompt {
        verdict = exchange.prompt(message);
    }
    if !verdict.action.stops() && !answer.is_empty() {
        for piece in &*answer {
            exchange.answer(piece);
        }
        verdict = exchange.finish().verdict;
    }
    let missing = rules
        .into_iter()
        .filter(|rule| !verdict.rules.iter().any(|matched| matched.as_str() == rule))
        .collect();
    Tried { line, name, verdict, expected: expect.or(default), missing }
}

fn report(policy: &Policy, file: &Path, tried: &[Tried]) -> Result<Outcome, Failure> {
    let unmet = tried.iter().filter(|tried| !tried.met()).count();
    let count = |action: Action| tried.iter().filter(|tried| tried.verdict.action == action).count();
    let mut text = String::from(" line  action                name\n");
    tried.iter().for_each(|tried| text.push_str(&tried.row()));
    let [allow, flag, refuse, end] = [Action::Allow, Action::Flag, Action::Refuse, Action::End].map(count);
    let _ = writeln!(
        text,
        "\n{} exchanges under policy {}: {allow} allowed, {flag} flagged, {refuse} refused, {end} ended",
        tried.len(),
        policy.id(),
    );
    let json = json!({
        "policy": policy.id().as_str(),
        "sha256": hexadecimal(&policy.digest()),
        "unexpected": unmet,
        "exchanges": tried.iter().map(Tried::json).collect::<Vec<_>>(),
    });
    let outcome = Outcome { text, json };
    if unmet == 0 {
        return Ok(outcome);
    }
    let source = if file == Path::new("-") { Path::new("standard input") } else { file };
    let problem =
        format!("{}: {unmet} of {} verdicts are not the expected ones", source.display(), tried.len());
    Err(Failure::Unmet { outcome: Box::new(outcome), code: "unexpected", problem })
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let bytes = files::read(path, MAX_POLICY_BYTES)?;
    Policy::read(&bytes).map_err(|error| Failure::Refused {
        what: path.display().to_string(),
        code: error.code(),
        problem: error.to_string(),
    })
}

/// Reads a classifier as an enclave would.
fn read_classifier(path: &Path) -> Result<Arc<Classifier>, Failure> {
    let bytes = files::read(path, MAX_CLASSIFIER_BYTES)?;
    let model = Model::from_gguf(&bytes).map_err(|error| Failure::Refused {
        what: path.display().to_string(),
        code: "classifier-unreadable",
        problem: error.to_string(),
    })?;
    let labels = model.labels().to_vec();
    let score = move |text: &str, label: usize| {
        // The caller's thread is the only one, and no other can be refused.
        let scores = model.scores(text, NonZeroUsize::MIN).ok();
        scores.and_then(|scores| scores.as_slice().get(label).copied()).unwrap_or(1.0)
    };
    Ok(Arc::new(Classifier::new(&bytes, labels.iter().map(String::as_str), score)))
}

fn read_exchanges(path: &Path) -> Result<Vec<u8>, Failure> {
    if path != Path::new("-") {
        return files::read(path, MAX_EXCHANGES_BYTES);
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_EXCHANGES_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::File { verb: "read", path: path.to_owned(), error })?;
    if bytes.len() > MAX_EXCHANGES_BYTES {
        let problem = format!("more than {MAX_EXCHANGES_BYTES} bytes");
        return Err(Failure::Refused { what: "standard input".to_owned(), code: "too-large", problem });
    }
    Ok(bytes)
}

fn join(rules: &[RuleId]) -> String {
    rules.iter().map(RuleId::as_str).collect::<Vec<_>>().join(", ")
}

fn hexadecimal(bytes: &[u8; 32]) -> String {
    cleanroom_attestation::digest::Sha256Digest::from_bytes(*bytes).to_string()
}

fn kibibytes(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
