//! Which rules match: what the terms that were found come to.

use std::collections::VecDeque;

use crate::Part;
use crate::policy::{Compiled, Role, Sight};

/// A term of `unless` excuses a match when both end at most so many characters apart.
pub const UNLESS_REACH_CHARACTERS: u64 = 64;

/// What the rules have seen in one layer. It has places and counts, and no text.
pub(crate) struct Progress {
    /// The letters that were read.
    pub(crate) letters: u64,
    /// For each slot, one more than the letters before the end of its last term; 0 when there was none.
    slots: Box<[u64]>,
    /// For each rule, how often its terms came.
    counts: Box<[u32]>,
    /// For each rule, one more than the characters of the exchange before its last excuse; 0 when there was
    /// none.
    excuses: Box<[u64]>,
}

impl Progress {
    pub(crate) fn new(compiled: &Compiled) -> Self {
        Self {
            letters: 0,
            slots: vec![0; compiled.slots].into(),
            counts: vec![0; compiled.rules.len()].into(),
            excuses: vec![0; compiled.rules.len()].into(),
        }
    }

    /// The bytes that it takes, at most.
    pub(crate) const fn bytes(slots: usize, rules: usize) -> usize {
        slots * size_of::<u64>() + rules * (size_of::<u32>() + size_of::<u64>())
    }

    /// Forgets everything but the terms of rules that look at the whole exchange.
    pub(crate) fn begin(&mut self, compiled: &Compiled) {
        for (index, rule) in compiled.rules.iter().enumerate() {
            if let Some(excuse) = self.excuses.get_mut(index) {
                *excuse = 0;
            }
            if rule.part == Part::Exchange {
                continue;
            }
            if let Some(count) = self.counts.get_mut(index) {
                *count = 0;
            }
            if let Some(slots) = self.slots.get_mut(rule.slots.clone()) {
                slots.fill(0);
            }
        }
    }
}

/// A match that an excuse may still follow.
struct Pending {
    rule: usize,
    layer: u8,
    place: u64,
    /// How many bytes of the answer had come.
    bytes: usize,
}

/// What is known of an exchange.
#[derive(Default)]
pub(crate) struct Findings {
    /// For each rule, whether it matched.
    pub(crate) matched: Vec<bool>,
    pending: VecDeque<Pending>,
    /// The number of characters that came.
    pub(crate) characters: u64,
    /// The number of bytes of the answer that came.
    pub(crate) bytes: usize,
    /// How many bytes of the answer had come when the first rule matched that stops it.
    pub(crate) stopped: Option<usize>,
}

impl Findings {
    pub(crate) fn new(rules: usize) -> Self {
        Self { matched: vec![false; rules], ..Self::default() }
    }

    /// How many bytes of the answer nothing is suspected of.
    pub(crate) fn unsuspected(&self) -> usize {
        let pending = self.pending.iter().map(|pending| pending.bytes).min();
        pending.into_iter().chain(self.stopped).min().unwrap_or(self.bytes)
    }
}

/// A step of judging.
pub(crate) struct Judge<'a> {
    pub(crate) compiled: &'a Compiled,
    pub(crate) findings: &'a mut Findings,
    pub(crate) part: Part,
}

impl Judge<'_> {
    /// Counts a character, and settles matches that no excuse can follow any more.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.findings.characters = self.findings.characters.saturating_add(1);
        self.findings.bytes = self.findings.bytes.saturating_add(bytes);
        while let Some(pending) = self.findings.pending.front() {
            if self.findings.characters - pending.place <= UNLESS_REACH_CHARACTERS {
                break;
            }
            self.settle_first();
        }
    }

    /// Settles all matches: nothing follows that could excuse them.
    pub(crate) fn settle(&mut self) {
        while !self.findings.pending.is_empty() {
            self.settle_first();
        }
    }

    fn settle_first(&mut self) {
        if let Some(Pending { rule, bytes, .. }) = self.findings.pending.pop_front() {
            self.matched(rule, bytes);
        }
    }

    /// A term ends with the character that is being read.
    pub(crate) fn needle(&mut self, progress: &mut Progress, layer: u8, needle: usize, sight: Sight) {
        let compiled = self.compiled;
        for (rule, role) in compiled.uses.get(needle).into_iter().flatten() {
            let Some(terms) = compiled.rules.get(*rule) else { continue };
            let hidden = layer > 0 || sight == Sight::Turned;
            if (terms.part != Part::Exchange && terms.part != self.part) || (terms.hidden && !hidden) {
                continue;
            }
            match role {
                // A term that counts is often seen in several ways at once.
                Role::Any if terms.times > 1 && sight == Sight::Changed => {}
                Role::Any => self.term(progress, layer, *rule),
                Role::All(slot) => self.slot(progress, layer, *rule, *slot),
                // What excuses must be written plainly.
                Role::Unless if sight == Sight::Plain => self.excuse(progress, layer, *rule),
                Role::Unless => {}
            }
        }
    }

    /// One of a rule's terms came.
    fn term(&mut self, progress: &mut Progress, layer: u8, rule: usize) {
        let times = self.compiled.rules.get(rule).map_or(1, |rule| rule.times);
        if let Some(count) = progress.counts.get_mut(rule) {
            *count = count.saturating_add(1);
            if *count >= times {
                self.hit(progress, layer, rule);
            }
        }
    }

    /// One of the terms came that must come together.
    fn slot(&mut self, progress: &mut Progress, layer: u8, rule: usize, slot: usize) {
        let place = progress.letters + 1;
        if let Some(last) = progress.slots.get_mut(slot) {
            *last = place;
        }
        let Some(terms) = self.compiled.rules.get(rule) else { return };
        let Some(slots) = progress.slots.get(terms.slots.clone()) else { return };
        let complete = slots.iter().all(|last| *last > 0 && place - *last <= terms.within);
        if complete {
            self.hit(progress, layer, rule);
        }
    }

    /// An excuse of a rule came.
    fn excuse(&mut self, progress: &mut Progress, layer: u8, rule: usize) {
        let place = self.findings.characters;
        if let Some(excuse) = progress.excuses.get_mut(rule) {
            *excuse = place + 1;
        }
        // Those that are further away have been settled.
        self.findings.pending.retain(|pending| pending.rule != rule || pending.layer != layer);
    }

    /// All that a rule looks for is there.
    fn hit(&mut self, progress: &Progress, layer: u8, rule: usize) {
        let place = self.findings.characters;
        if !self.compiled.rules.get(rule).is_some_and(|rule| rule.excusable) {
            return self.matched(rule, self.findings.bytes);
        }
        let excused = progress
            .excuses
            .get(rule)
            .is_some_and(|excuse| *excuse > 0 && place + 1 - *excuse <= UNLESS_REACH_CHARACTERS);
        // A match that comes while another one of the rule waits has its fate.
        let waits =
            || self.findings.pending.iter().any(|pending| pending.rule == rule && pending.layer == layer);
        if !excused && !waits() {
            let bytes = self.findings.bytes;
            self.findings.pending.push_back(Pending { rule, layer, place, bytes });
        }
    }

    fn matched(&mut self, rule: usize, bytes: usize) {
        if let Some(matched) = self.findings.matched.get_mut(rule) {
            *matched = true;
        }
        if self.compiled.rules.get(rule).is_some_and(|rule| rule.action.stops()) {
            let earlier = self.findings.stopped.unwrap_or(bytes);
            self.findings.stopped = Some(earlier.min(bytes));
        }
    }
}
