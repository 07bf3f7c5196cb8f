//! Stand-ins for the characters of a message that could be part of a control token.

use std::{
    collections::{BTreeSet, HashMap},
    ops::RangeInclusive,
};

use crate::scratch::ScratchText;

/// Planes 15 and 16: private use, so no text needs one of them to mean anything.
const STAND_INS: [RangeInclusive<char>; 2] = ['\u{f0000}'..='\u{ffffd}', '\u{100000}'..='\u{10fffd}'];

/// A one-to-one exchange of characters, made for one set of messages.
///
/// The stand-ins occur in none of these messages and in no control token. White space stays itself, so that
/// templates can trim; a control token has at least one other character.
pub(super) struct Guard {
    to_stand_in: HashMap<char, char>,
    from_stand_in: HashMap<char, char>,
}

impl Guard {
    /// `each_text` shows every text of the messages. `None` when they leave too few private-use characters.
    pub(super) fn new(
        alphabet: impl Iterator<Item = char>,
        each_text: impl FnOnce(&mut dyn FnMut(&str)),
    ) -> Option<Self> {
        // In both cases, so that a template may change the case of a message.
        let both_cases = |character: char| {
            [character].into_iter().chain(character.to_lowercase()).chain(character.to_uppercase())
        };
        let alphabet: BTreeSet<char> =
            alphabet.flat_map(both_cases).filter(|character| !character.is_whitespace()).collect();
        let is_candidate = |character: &char| STAND_INS.iter().any(|range| range.contains(character));
        let mut taken = BTreeSet::new();
        each_text(&mut |text| taken.extend(text.chars().filter(is_candidate)));
        let mut free = STAND_INS
            .iter()
            .cloned()
            .flatten()
            .filter(|character| !taken.contains(character) && !alphabet.contains(character));
        let mut to_stand_in = HashMap::with_capacity(alphabet.len());
        let mut from_stand_in = HashMap::with_capacity(alphabet.len());
        for character in &alphabet {
            let stand_in = free.next()?;
            to_stand_in.insert(*character, stand_in);
            from_stand_in.insert(stand_in, *character);
        }
        Some(Self { to_stand_in, from_stand_in })
    }

    /// What stands for a character of a message: itself, if no control token has it.
    pub(super) fn stand_in(&self, character: char) -> char {
        self.to_stand_in.get(&character).copied().unwrap_or(character)
    }

    /// Whether any character is a stand-in.
    pub(super) fn changes(&self, text: &str) -> bool {
        text.chars().any(|character| self.from_stand_in.contains_key(&character))
    }

    /// The text without stand-ins, character by character.
    pub(super) fn written(&self, text: &str) -> ScratchText {
        let mut written = ScratchText::with_capacity(text.len());
        text.chars().for_each(|character| written.push(self.restore(character)));
        written
    }

    /// The content with stand-ins.
    pub(super) fn protect(&self, content: &str) -> ScratchText {
        let mut protected = ScratchText::with_capacity(content.len() * 4);
        for character in content.chars() {
            protected.push(self.stand_in(character));
        }
        protected
    }

    /// The character that a stand-in stands for; any other character is itself.
    pub(super) fn restore(&self, character: char) -> char {
        self.from_stand_in.get(&character).copied().unwrap_or(character)
    }
}
