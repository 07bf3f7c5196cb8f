//! One exchange: the prompt, then the answer in pieces.

use std::collections::BTreeSet;
use std::sync::Arc;

use aho_corasick::Anchored;
use aho_corasick::automaton::Automaton as _;
use aho_corasick::automaton::StateID;
use zeroize::Zeroizing;

use crate::{Judged, MAX_VERDICT_RULES, Part, Policy, Text, Verdict};

/// One exchange under a policy. It has no `Debug`; text that it holds back is erased on drop.
pub struct Exchange {
    policy: Arc<Policy>,
    state: Option<StateID>,
    part: Part,
    matched: BTreeSet<usize>,
    held: Zeroizing<String>,
}

impl Exchange {
    /// A new exchange, of which nothing was said.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        let state = policy.literals().start_state(Anchored::No).ok();
        Self { policy, state, part: Part::Prompt, matched: BTreeSet::new(), held: Zeroizing::default() }
    }

    /// Judges the texts of the request's messages, in order, before the first token. When it is called again, the text
    /// is that of a further message.
    pub fn prompt(&mut self, text: &str) -> Verdict {
        self.judge(text);
        self.judge("\n");
        self.verdict()
    }

    /// Judges a further piece of the answer. Pieces may be cut anywhere between two characters.
    ///
    /// [`Judged::leaves`] has the text that may leave now: all of the answer but its last [`Policy::hold_back`] bytes.
    /// Once the verdict's action stops the answer, nothing leaves any more.
    pub fn answer(&mut self, piece: &str) -> Judged {
        self.begin_answer();
        let mut leaving = Zeroizing::new(String::with_capacity(self.held.len() + piece.len()));
        leaving.push_str(&self.held);
        leaving.push_str(piece);
        self.judge(piece);
        let verdict = self.verdict();
        if verdict.action.stops() {
            self.held = Zeroizing::default();
            return Judged { leaves: Text::default(), verdict };
        }
        let mut cut = leaving.len().saturating_sub(self.policy.hold_back());
        while !leaving.is_char_boundary(cut) {
            cut -= 1;
        }
        let (leaves, held) = leaving.split_at(cut);
        self.held = Zeroizing::new(held.to_owned());
        Judged { leaves: Text::copy(leaves), verdict }
    }

    /// Judges the end of the answer. What was held back leaves, unless the verdict stops the answer. Further calls give
    /// the same verdict and no text.
    pub fn finish(&mut self) -> Judged {
        self.begin_answer();
        let verdict = self.verdict();
        let held = std::mem::take(&mut self.held);
        let leaves = if verdict.action.stops() { Text::default() } else { Text::copy(&held) };
        Judged { leaves, verdict }
    }

    fn begin_answer(&mut self) {
        if self.part == Part::Prompt {
            self.part = Part::Answer;
            self.state = self.policy.literals().start_state(Anchored::No).ok();
        }
    }

    fn judge(&mut self, text: &str) {
        let automaton = self.policy.literals();
        let Some(mut state) = self.state else { return };
        for character in text.chars().flat_map(char::to_lowercase) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                state = automaton.next_state(Anchored::No, state, byte);
                if automaton.is_match(state) {
                    for index in 0..automaton.match_len(state) {
                        let pattern = automaton.match_pattern(state, index).as_usize();
                        let Some(rule) = self.policy.owners().get(pattern) else { continue };
                        let Some(summary) = self.policy.rules().get(*rule) else { continue };
                        if summary.part == Part::Exchange || summary.part == self.part {
                            self.matched.insert(*rule);
                        }
                    }
                }
            }
        }
        self.state = Some(state);
    }

    fn verdict(&self) -> Verdict {
        let mut rules: Vec<_> =
            self.matched.iter().filter_map(|rule| self.policy.rules().get(*rule)).collect();
        rules.sort_by_key(|rule| core::cmp::Reverse(rule.action));
        Verdict {
            action: rules.first().map(|rule| rule.action).unwrap_or_default(),
            rules: rules.iter().take(MAX_VERDICT_RULES).map(|rule| rule.id.clone()).collect(),
        }
    }
}
