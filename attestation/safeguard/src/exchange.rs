//! One exchange: the prompt, then the answer in pieces.

use std::sync::Arc;

use zeroize::{Zeroize as _, Zeroizing};

use crate::judge::{Findings, Judge, Progress, UNLESS_REACH_CHARACTERS};
use crate::prompt::{classify, pieces};
use crate::reading::{Layer, MAX_LAYERS};
use crate::tail::Tail;
use crate::{Action, Judged, Part, Policy, Text, Verdict};

/// The most bytes of an answer that wait, beyond those that the policy holds back: what may still be excused,
/// and a character that would be cut.
const MAX_EXCUSABLE_BYTES: usize = 4 * (UNLESS_REACH_CHARACTERS as usize + 1);

/// One exchange under a policy. It has no `Debug`; text that it holds back is erased on drop.
pub struct Exchange {
    policy: Arc<Policy>,
    findings: Findings,
    layer: Layer,
    part: Part,
    /// The answer's bytes from `left` on.
    held: Zeroizing<String>,
    /// How many bytes of the answer have left.
    left: usize,
    finished: bool,
    /// For each classifier, the strictest action that a text demanded.
    classified: Vec<Action>,
    /// For each classifier of answers, the bytes of the answer since the last window.
    unread: Vec<usize>,
    tail: Tail,
}

/// The longest window of an answer that a classifier of the policy reads, in bytes.
fn longest_window(policy: &Policy) -> Option<usize> {
    policy.classifiers().filter_map(|classifier| Some(classifier.window?.bytes)).max()
}

impl Exchange {
    /// A new exchange, of which nothing was said.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        let compiled = policy.compiled();
        let mut findings = Findings::new(policy.rules().len());
        let layer = Layer::outer(&Judge { compiled, findings: &mut findings, part: Part::Prompt });
        let classifiers = policy.classifiers().len();
        Self {
            classified: vec![Action::Allow; classifiers],
            unread: vec![0; classifiers],
            tail: Tail::new(longest_window(&policy).unwrap_or_default()),
            policy,
            findings,
            layer,
            part: Part::Prompt,
            held: Zeroizing::default(),
            left: 0,
            finished: false,
        }
    }

    /// The most bytes of memory that an exchange under `policy` takes. Most take a tenth of it: the layers of hidden
    /// text come to be when there is some.
    #[must_use]
    pub fn most_bytes(policy: &Policy) -> usize {
        let compiled = policy.compiled();
        let layer = Layer::bytes()
            + Progress::bytes(compiled.slots, compiled.rules.len())
            + compiled.expressions.len() * size_of::<u32>();
        let window = longest_window(policy).map_or(0, |bytes| 2 * Tail::most_bytes(bytes));
        MAX_LAYERS * layer + policy.hold_back() + MAX_EXCUSABLE_BYTES + compiled.rules.len() + window
    }

    /// Whether classifiers read the answer: then a piece of it can take milliseconds to judge.
    #[must_use]
    pub fn classifies_answers(&self) -> bool {
        longest_window(&self.policy).is_some()
    }

    /// Judges the texts of the request's messages, in order, before the first token. When it is called again,
    /// the text is that of a further message: a term may begin in one and end in the next, if a word ends
    /// between them.
    ///
    /// After the first piece of an answer this judges nothing.
    pub fn prompt(&mut self, text: &str) -> Verdict {
        let verdict = self.prompt_by_rules(text);
        if self.part != Part::Prompt || verdict.action.stops() {
            return verdict;
        }
        if pieces(text).any(|piece| classify(&self.policy, &mut self.classified, piece)) {
            self.findings.stopped = Some(0);
        }
        self.verdict()
    }

    /// As [`Self::prompt`], by the rules alone. The classifiers of prompts have to be asked with
    /// [`PromptReading`](crate::PromptReading).
    pub fn prompt_by_rules(&mut self, text: &str) -> Verdict {
        if self.part == Part::Prompt {
            for character in text.chars().chain(core::iter::once('\n')) {
                self.read(character, 0);
            }
            self.settle();
        }
        self.verdict()
    }

    /// Judges a further piece of the answer. Pieces may be cut anywhere between two characters: neither the
    /// verdict nor the text that has left in the end depends on it.
    ///
    /// [`Judged::leaves`] has the text that may leave now: all of the answer but its last
    /// [`Policy::hold_back`] bytes. When a rule stops the answer, the bytes before its match leave, but for
    /// as many as the policy holds back. Nothing leaves afterwards.
    pub fn answer(&mut self, piece: &str) -> Judged {
        self.begin_answer();
        if self.finished || self.findings.stopped.is_some() {
            return Judged { leaves: self.leave(), verdict: self.verdict() };
        }
        self.hold(piece);
        for character in piece.chars() {
            self.read(character, character.len_utf8());
            self.watch(character);
            if self.findings.stopped.is_some() {
                break;
            }
        }
        Judged { leaves: self.leave(), verdict: self.verdict() }
    }

    /// Judges the end of the answer. What was held back leaves, unless the verdict stops the answer. Further
    /// calls give the same verdict and no text.
    pub fn finish(&mut self) -> Judged {
        self.begin_answer();
        if !core::mem::replace(&mut self.finished, true) && self.findings.stopped.is_none() {
            self.settle();
            for index in 0..self.unread.len() {
                self.read_window(index);
            }
        }
        Judged { leaves: self.leave(), verdict: self.verdict() }
    }

    /// Counts a character of the answer, and has the classifiers read the windows that it ends.
    fn watch(&mut self, character: char) {
        if longest_window(&self.policy).is_none() || self.findings.stopped.is_some() {
            return;
        }
        self.tail.push(character);
        for index in 0..self.unread.len() {
            let window = self.policy.attached().get(index).and_then(|attached| attached.summary.window);
            let (Some(window), Some(unread)) = (window, self.unread.get_mut(index)) else { continue };
            *unread += character.len_utf8();
            if *unread >= window.step {
                self.read_window(index);
            }
        }
    }

    /// Has a classifier read the end of the answer, if there is anything that it has not read.
    fn read_window(&mut self, index: usize) {
        if self.findings.stopped.is_some() {
            return;
        }
        let (Some(unread), Some(classified)) = (self.unread.get_mut(index), self.classified.get_mut(index))
        else {
            return;
        };
        let unread = core::mem::take(unread);
        let Some(attached) = self.policy.attached().get(index) else { return };
        let Some(window) = attached.summary.window else { return };
        if unread == 0 || *classified >= attached.strictest() {
            return;
        }
        *classified = attached.judge(self.tail.last(window.bytes)).max(*classified);
        if classified.stops() {
            // What came before was in windows that passed, and leaves as far as the policy lets it.
            let (bytes, hold_back) = (self.findings.bytes, self.policy.hold_back());
            self.findings.stopped = Some(bytes.min(bytes.saturating_sub(unread).saturating_add(hold_back)));
        }
    }

    fn begin_answer(&mut self) {
        if self.part == Part::Prompt {
            self.part = Part::Answer;
            let judge =
                Judge { compiled: self.policy.compiled(), findings: &mut self.findings, part: self.part };
            self.layer.begin(&judge);
        }
    }

    fn read(&mut self, character: char, bytes: usize) {
        let mut judge =
            Judge { compiled: self.policy.compiled(), findings: &mut self.findings, part: self.part };
        judge.advance(bytes);
        self.layer.push(&mut judge, character);
    }

    fn settle(&mut self) {
        let mut judge =
            Judge { compiled: self.policy.compiled(), findings: &mut self.findings, part: self.part };
        self.layer.settle(&mut judge);
        judge.settle();
    }

    /// Keeps a piece with what is held. Growing in place would leave a copy behind.
    fn hold(&mut self, piece: &str) {
        let mut held = Zeroizing::new(String::with_capacity(self.held.len() + piece.len()));
        held.push_str(&self.held);
        held.push_str(piece);
        self.held = held;
    }

    /// Takes the text that may leave now.
    fn leave(&mut self) -> Text {
        let stopped = self.findings.stopped.is_some();
        let hold_back = if self.finished && !stopped { 0 } else { self.policy.hold_back() };
        // Nothing leaves before every classifier has read it.
        let unread = self.unread.iter().copied().max().unwrap_or_default();
        let read = self.findings.bytes.saturating_sub(unread);
        let limit = self.findings.unsuspected().saturating_sub(hold_back).min(read);
        let mut cut = limit.saturating_sub(self.left).min(self.held.len());
        while !self.held.is_char_boundary(cut) {
            cut -= 1;
        }
        let (leaves, rest) = self.held.split_at(cut);
        let leaves = Text::copy(leaves);
        self.left += cut;
        if stopped {
            self.held.zeroize();
        } else {
            self.held = Zeroizing::new(rest.to_owned());
        }
        leaves
    }

    fn verdict(&self) -> Verdict {
        let matched = self.policy.rules().iter().zip(&self.findings.matched);
        let rules = matched.filter_map(|(rule, matched)| matched.then_some((rule.action, &rule.id)));
        Verdict::of(rules, &self.policy, &self.classified)
    }
}
