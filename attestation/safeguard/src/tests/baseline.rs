//! The project's own policy: what it must find, and the lookalikes that it must let through.

use std::sync::Arc;

use serde::Deserialize;

use crate::{Action, Exchange, Policy, RuleId};

const POLICY: &[u8] = include_bytes!("../../../../models/safeguards/baseline.toml");
const EXCHANGES: &str = include_str!("../../../../models/safeguards/baseline.jsonl");

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

impl Texts {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Several(texts) => texts,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    prompt: Option<Texts>,
    answer: Option<Texts>,
    expect: Action,
    #[serde(default)]
    rules: Vec<String>,
}

#[test]
fn the_baseline_finds_its_examples_and_lets_look_alikes_through() {
    let policy = Arc::new(Policy::read(POLICY).unwrap_or_else(|error| panic!("{error}")));
    let mut problems = String::new();
    for line in EXCHANGES.lines() {
        let Line { name, prompt, answer, expect, rules } = serde_json::from_str(line).unwrap();
        let mut exchange = Exchange::new(Arc::clone(&policy));
        let mut verdict = Default::default();
        for text in prompt.map(Texts::list).unwrap_or_default() {
            verdict = exchange.prompt(&text);
        }
        if let Some(answer) = answer {
            for text in answer.list() {
                exchange.answer(&text);
            }
            verdict = exchange.finish().verdict;
        }
        let named: Vec<&str> = verdict.rules.iter().map(RuleId::as_str).collect();
        if verdict.action != expect || !rules.iter().all(|rule| named.contains(&rule.as_str())) {
            problems.push_str(&format!(
                "{name}: {} by {named:?}; expected {expect} by {rules:?}\n",
                verdict.action
            ));
        }
    }
    assert!(problems.is_empty(), "{problems}");
    // Every rule has an example.
    for rule in policy.rules() {
        assert!(EXCHANGES.contains(rule.id.as_str()), "{} has no example", rule.id);
    }
}
