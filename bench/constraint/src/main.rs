//! Which tokens may come next, for answers of several schemas: this engine and llguidance, at every token of the same documents, in turns.
//!
//! ```text
//! bench-constraint MODEL.gguf [ROUNDS]
//! ```
//!
//! Exit status 1 when this engine takes longer over any of them, or the two permit other tokens for a reason that is not known. Error status
//! 2 when either refuses one of the documents.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cleanroom_engine::{Constraint, Model};
use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-constraint: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Error> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("expected a model file, and how many rounds")?;
    let rounds: usize = arguments.next().map_or(Ok(15), |rounds| rounds.parse())?;
    let model = Model::from_gguf(&std::fs::read(path)?)?;
    let trie = trie(&model)?;
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie.clone()));
    let mut factory = ParserFactory::new(
        &environment,
        InferenceCapabilities::default(),
        &SlicedBiasComputer::json_slices(),
    )?;
    factory.quiet();
    println!(
        "{} tokens; microseconds for each token of an answer, {rounds} rounds in turns",
        trie.vocab_size()
    );
    println!(
        "{:<24} {:>6} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>7} {:>8}",
        "",
        "tokens",
        "ours mean",
        "99 of 100",
        "worst",
        "theirs mean",
        "99 of 100",
        "worst",
        "ratio",
        "differ"
    );
    let mut good = true;
    for (name, schema, document) in cases() {
        good &= compare(&model, &trie, &factory, rounds, (name, &schema, &document))?;
    }
    let (name, schema, document) = made_to_take_long();
    let constraint = model.constrained_to(&schema.to_string())?;
    let mut times = Vec::new();
    let tokens = trie.greedy_tokenize(document.as_bytes());
    for _ in 0..rounds {
        times.extend(follow(&constraint, &tokens).ok_or("this engine refuses the document")?.1);
    }
    println!("{name:<24} {:>6} {} llguidance gives up: too complex", tokens.len(), Summary::of(times));
    Ok(good)
}

/// Follows one document with both, in turns, and prints what it took. Whether this engine is as fast, and permits the same.
fn compare(
    model: &Model,
    trie: &TokTrie,
    factory: &ParserFactory,
    rounds: usize,
    (name, schema, document): (&str, &Value, &str),
) -> Result<bool, Error> {
    let tokens = trie.greedy_tokenize(document.as_bytes());
    // What either does once for a whole model is done before it is timed.
    let _ = model.constrained_to(&schema.to_string())?;
    let (mut ours, mut theirs, mut compiling) = (Vec::new(), Vec::new(), Vec::new());
    let mut unexplained = 0;
    for round in 0..rounds {
        let begun = Instant::now();
        let constraint = model.constrained_to(&schema.to_string())?;
        let compiled = begun.elapsed();
        let begun = Instant::now();
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(schema.clone()));
        let mut matcher = Matcher::new(parser);
        compiling.push((compiled, begun.elapsed()));
        let (masks, times) = follow(&constraint, &tokens).ok_or("this engine refuses the document")?;
        ours.extend(times);
        let mut read = Vec::new();
        for (token, mask) in tokens.iter().zip(&masks) {
            let begun = Instant::now();
            let permitted = matcher.compute_mask()?;
            theirs.push(begun.elapsed());
            if round == 0 {
                unexplained += unexplained_differences(trie, &read, &permitted, mask);
            }
            read.extend_from_slice(trie.token(*token));
            matcher.consume_token(*token).map_err(|error| format!("llguidance refuses: {error}"))?;
        }
    }
    let [ours, theirs] = [Summary::of(ours), Summary::of(theirs)];
    let ratio = theirs.mean / ours.mean;
    let met = ratio >= 1.0 && unexplained == 0;
    let mark = if met { "" } else { "  MISS" };
    println!("{name:<24} {:>6} {ours} {theirs} {ratio:>7.2} {unexplained:>8}{mark}", tokens.len());
    let (compiled, parsed): (Vec<_>, Vec<_>) = compiling.into_iter().unzip();
    let [compiled, parsed] = [compiled, parsed].map(|times| Summary::of(times).mean);
    println!("{:<24} a schema read: {compiled:.0} µs, by llguidance {parsed:.0} µs", "");
    Ok(met)
}

/// How many tokens only one of the two permits after `read`, for another reason than these: llguidance permits any white space between
/// values, and this engine as little as a model needs; this engine permits all that JSON does in a string, llguidance no escapes that are
/// never needed (`\\/`, `\\u` for what can stand there as it is) and no U+007F.
fn unexplained_differences(trie: &TokTrie, read: &[u8], theirs: &SimpleVob, ours: &[u64]) -> usize {
    (0..trie.vocab_size() as u32)
        .filter(|token| {
            let text = trie.token(*token);
            let is_permitted = ours[*token as usize / 64] >> (token % 64) & 1 == 1;
            match (is_permitted, theirs.is_allowed(*token)) {
                (true, false) => !(text.contains(&b'\\') || text.contains(&0x7f) || read.ends_with(b"\\")),
                (false, true) => !text.iter().any(u8::is_ascii_whitespace),
                _ => false,
            }
        })
        .count()
}

/// The model's tokens, as llguidance wants them.
fn trie(model: &Model) -> Result<TokTrie, Error> {
    let tokens = model.tokens();
    let count = u32::try_from(tokens.len())?;
    let end = model.tokens().position(|(_, ends)| ends).ok_or("no token ends a turn")?;
    let words: Vec<Vec<u8>> = tokens
        .zip(0..)
        .map(|((bytes, ends), token)| match bytes {
            // 0xff is its mark of a token that is no text.
            _ if ends || bytes.is_empty() => [b"\xff".as_slice(), format!("<{token}>").as_bytes()].concat(),
            bytes => bytes.to_vec(),
        })
        .collect();
    Ok(TokTrie::from(&TokRxInfo::new(count, u32::try_from(end)?), &words))
}

/// The masks before every token of an answer, and how long each took. Nothing when a token must not come.
fn follow(constraint: &Constraint, tokens: &[u32]) -> Option<(Vec<Vec<u64>>, Vec<Duration>)> {
    let mut matcher = constraint.matcher();
    let (mut masks, mut times) = (Vec::new(), Vec::new());
    for token in tokens {
        let begun = Instant::now();
        let permitted = matcher.permitted();
        times.push(begun.elapsed());
        masks.push(permitted.to_vec());
        matcher.accept(*token).then_some(())?;
    }
    Some((masks, times))
}

/// Microseconds.
struct Summary {
    mean: f64,
    of_99: f64,
    worst: f64,
}

impl Summary {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let at = |percent: usize| times.get((times.len() - 1) * percent / 100).copied().map_or(0.0, micros);
        let mean = times.iter().copied().map(micros).sum::<f64>() / times.len() as f64;
        Self { mean, of_99: at(99), worst: at(100) }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:>9.1} {:>9.1} {:>9.1}", self.mean, self.of_99, self.worst)
    }
}

/// Schemas as people send them, and an answer to each.
fn cases() -> Vec<(&'static str, Value, String)> {
    let object = |properties: Value| {
        let required: Vec<&String> =
            properties.as_object().map(|all| all.keys().collect()).unwrap_or_default();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    };
    let prose = "The transformer at the \\\"Nordufer\\\" substation tripped at 04:12; the relay had measured 1,150 A for 80 ms. \
                 Überlast war nicht die Ursache – eine Muffe hatte Feuchtigkeit gezogen. Switched over by hand.\\nNo customer lost supply.";
    let person = object(json!({
        "email": {"type": "string", "maxLength": 60}, "name": {"type": "string", "maxLength": 40},
    }));
    let report = object(json!({
        "cause": {"enum": ["moisture", "overload", "switching", "unknown"]},
        "customers": {"type": "integer"},
        "measured": {"type": "array", "items": object(json!({"phase": {"enum": ["L1", "L2", "L3"]}, "value": {"type": "number"}}))},
        "text": {"type": "string"},
    }));
    let tools: Vec<Value> = ["close_breaker", "open_breaker", "read_relay", "write_report"]
        .iter()
        .map(|name| object(json!({"arguments": {"type": "object"}, "name": {"const": name}})))
        .collect();
    let settings: serde_json::Map<String, Value> = (0..40)
        .map(|number| (format!("setting_{number:02}"), json!({"type": ["string", "null"], "maxLength": 80})))
        .collect();
    vec![
        (
            "a person, short strings",
            person,
            r#"{"email": "grace.hopper@example.org", "name": "Grace Brewster Hopper"}"#.to_owned(),
        ),
        (
            "a report",
            report,
            format!(
                r#"{{"cause": "moisture", "customers": 0, "measured": [{{"phase": "L1", "value": 1150.25}}, {{"phase": "L2", "value": -3.5e-2}}], "text": "{prose}"}}"#
            ),
        ),
        (
            "a call of one of 4 tools",
            json!({"anyOf": tools}),
            format!(
                r#"{{"arguments": {{"feeder": 7, "why": "{prose}", "flags": [true, null, {{}}]}}, "name": "write_report"}}"#
            ),
        ),
        (
            "40 optional members",
            json!({"type": "object", "properties": settings, "additionalProperties": false}),
            r#"{"setting_03": "on", "setting_17": null, "setting_38": "a little longer, and \"quoted\""}"#
                .to_owned(),
        ),
        (
            "any object",
            json!({"type": "object"}),
            format!(r#"{{"a": [1, 2.5, {{"b": "{prose}"}}], "long name of a member": {{"c": false}}}}"#),
        ),
    ]
}

/// What a stranger would send who wants it to take long: a place in each of many forms that go on alike.
fn made_to_take_long() -> (&'static str, Value, &'static str) {
    let alike: Vec<Value> = (0..300)
        .map(|number| json!({"type": "object", "properties": {"aaaaaaaaaaaa": {"type": "string", "maxLength": 20 + number % 30}}}))
        .collect();
    ("300 forms that are alike", json!({"anyOf": alike}), r#"{"aaaaaaaaaaaa": "aaaaaaaaaaaaaaa"}"#)
}
