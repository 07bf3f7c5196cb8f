//! Text as a policy of safeguards, and text under it: reading gives a typed error and never a panic, and how
//! an answer is cut into pieces changes neither the verdict nor what has left in the end.

#![no_main]

use std::sync::{Arc, OnceLock};

use cleanroom_safeguard::{Action, Exchange, MAX_VERDICT_RULES, Policy, Verdict};
use libfuzzer_sys::fuzz_target;

const BASELINE: &[u8] = include_bytes!("../../models/safeguards/baseline.toml");

fn baseline() -> &'static Arc<Policy> {
    static POLICY: OnceLock<Arc<Policy>> = OnceLock::new();
    POLICY.get_or_init(|| Arc::new(Policy::read(BASELINE).expect("the baseline is a policy")))
}

/// The verdict on an exchange, and the text that left.
fn judge<'a>(policy: &Arc<Policy>, prompt: &str, pieces: impl Iterator<Item = &'a str>) -> (Verdict, String) {
    let mut exchange = Exchange::new(Arc::clone(policy));
    exchange.prompt(prompt);
    let (mut left, mut length) = (String::new(), 0);
    for piece in pieces {
        length += piece.len();
        left.push_str(exchange.answer(piece).leaves.as_str());
        assert!(left.len() <= length.saturating_sub(policy.hold_back()), "too much has left");
    }
    let last = exchange.finish();
    left.push_str(last.leaves.as_str());
    assert!(last.verdict.rules.len() <= MAX_VERDICT_RULES);
    assert_eq!(last.verdict.action == Action::Allow, last.verdict.rules.is_empty());
    (last.verdict, left)
}

/// Cuts a text into pieces whose lengths come from `seed`.
fn cut(mut text: &str, mut seed: u32) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let count = (seed >> 28) as usize;
        let place = text.char_indices().nth(count).map_or(text.len(), |(place, _)| place);
        let (piece, rest) = text.split_at(place);
        pieces.push(piece);
        text = rest;
    }
    pieces
}

// The first byte is the seed of the cuts and says with its last bit whether a policy follows. The policy, the
// prompt and the answer have a NUL between them.
fuzz_target!(|input: &[u8]| {
    let Some((seed, rest)) = input.split_first() else { return };
    let Ok(text) = core::str::from_utf8(rest) else { return };
    let mut parts = text.splitn(3, '\0');
    let own = if seed & 1 == 1 {
        match Policy::read(parts.next().unwrap_or_default().as_bytes()) {
            Ok(policy) => Some(Arc::new(policy)),
            Err(error) => {
                assert!(!error.code().is_empty() && !error.to_string().is_empty());
                return;
            }
        }
    } else {
        None
    };
    let policy = own.as_ref().unwrap_or_else(|| baseline());
    let prompt = parts.next().unwrap_or_default();
    let answer = parts.next().unwrap_or_default();
    let whole = judge(policy, prompt, core::iter::once(answer));
    assert_eq!(whole, judge(policy, prompt, cut(answer, u32::from(*seed)).into_iter()));
    assert!(answer.starts_with(&whole.1));
    if !whole.0.action.stops() {
        assert_eq!(whole.1, answer);
    }
});
