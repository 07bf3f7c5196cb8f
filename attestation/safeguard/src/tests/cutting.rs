//! How an answer is cut into pieces changes nothing.

use std::sync::Arc;

use proptest::prelude::*;

use crate::{Exchange, Policy, Verdict};

const POLICY: &str = r#"
version = 1
id = "cutting"
hold_back = 10

[[rules]]
id = "one"
on = "answer"
action = "refuse"
any = ["abc cab", "/b! ?c/"]
unless = ["cc"]

[[rules]]
id = "two"
on = "answer"
action = "end"
all = ["ca ba", "aabb"]
within = 12

[[rules]]
id = "three"
on = "answer"
action = "flag"
any = ["acab", "baca*"]
times = 2
"#;

/// The verdict, and all text that left.
fn judge<'a>(policy: &Arc<Policy>, pieces: impl IntoIterator<Item = &'a str>) -> (Verdict, String) {
    let mut exchange = Exchange::new(Arc::clone(policy));
    let mut left = String::new();
    let mut length = 0;
    for piece in pieces {
        length += piece.len();
        left.push_str(exchange.answer(piece).leaves.as_str());
        assert!(left.len() <= length.saturating_sub(policy.hold_back()));
    }
    let last = exchange.finish();
    left.push_str(last.leaves.as_str());
    (last.verdict, left)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn pieces_change_neither_the_verdict_nor_what_leaves(
        text in "([abc ]|[abc ]|[abc]{2}|abc cab|ca ba|aabb|b!|é|𝒂|4|@|YWJj|%61| cc ){0,60}",
        cuts in prop::collection::vec(1_usize..12, 0..80),
    ) {
        let policy = Arc::new(Policy::read(POLICY.as_bytes()).unwrap());
        let whole = judge(&policy, [text.as_str()]);
        let cut = judge(&policy, super::cut_up(&text, cuts));
        prop_assert_eq!(&whole, &cut);
        let single: Vec<String> = text.chars().map(String::from).collect();
        prop_assert_eq!(&whole, &judge(&policy, single.iter().map(String::as_str)));
        if !whole.0.action.stops() {
            prop_assert_eq!(&whole.1, &text);
        } else {
            prop_assert!(text.starts_with(&whole.1));
        }
    }

    #[test]
    fn any_text_is_judged(text in any::<String>()) {
        let policy = Arc::new(Policy::read(POLICY.as_bytes()).unwrap());
        prop_assert_eq!(judge(&policy, [text.as_str()]).1.is_empty(), text.is_empty());
    }
}
