//! The texts of a model's tokens, sorted so that one walk finds all that a grammar permits.

use std::collections::BTreeMap;

use crate::tokenizer::Tokenizer;

/// The tokens of one model.
///
/// Inside a string nearly every token is permitted. A walk over all of them would be slow. A plain token is
/// therefore permitted by its length alone, and of any other token only the part after its plain beginning is
/// walked.
pub(crate) struct TokenTable {
    /// All tokens that stand for a text.
    pub(super) all: Tree,
    /// Plain tokens: whole characters that a JSON string may contain without escapes.
    pub(super) plain: PlainTokens,
    /// For tokens that begin plainly and can continue inside a string: the text after the plain beginning, by
    /// the number of plain characters, and for all numbers together.
    pub(super) rests: Vec<(u32, Tree)>,
    pub(super) rest: Tree,
    /// Tokens that end a turn.
    pub(super) ends: Vec<u32>,
    /// For each byte a token of that byte alone.
    bytes: Vec<u32>,
    /// The concatenated texts of all tokens, and the end of each.
    texts: Vec<u8>,
    text_ends: Vec<usize>,
}

impl TokenTable {
    /// `shown` are control tokens that stand for their text.
    pub(crate) fn new(tokenizer: &Tokenizer, shown: &[u32]) -> Self {
        let count = tokenizer.len();
        let (mut all, mut plain) = (Vec::new(), Vec::new());
        let mut rests: BTreeMap<u32, Vec<(&[u8], u32)>> = BTreeMap::new();
        let (mut texts, mut text_ends) = (Vec::new(), Vec::with_capacity(count));
        for token in 0..count as u32 {
            let bytes = if shown.contains(&token) {
                tokenizer.text_of(token).as_bytes()
            } else {
                tokenizer.bytes_of(token)
            };
            texts.extend_from_slice(bytes);
            text_ends.push(texts.len());
            if bytes.is_empty() || tokenizer.ends_turn(token) {
                continue;
            }
            all.push((bytes, token));
            match plain_beginning(bytes) {
                (characters, []) => plain.push((token, characters)),
                (characters, rest) if goes_on_in_strings(rest) => {
                    rests.entry(characters).or_default().push((rest, token));
                }
                _ => {}
            }
        }
        Self {
            all: Tree::new(all),
            plain: PlainTokens::new(plain, count),
            rest: Tree::new(rests.values().flatten().copied().collect()),
            rests: rests.into_iter().map(|(characters, rests)| (characters, Tree::new(rests))).collect(),
            ends: (0..count as u32).filter(|token| tokenizer.ends_turn(*token)).collect(),
            bytes: (0..=u8::MAX).map(|byte| tokenizer.single_byte(byte)).collect(),
            texts,
            text_ends,
        }
    }

    /// Tokens that end a turn.
    #[cfg(test)]
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    pub(super) fn len(&self) -> usize {
        self.text_ends.len()
    }

    /// A token's text; empty for a control token.
    pub(super) fn text(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let start = token.checked_sub(1).map_or(Some(0), |before| self.text_ends.get(before).copied());
        let end = self.text_ends.get(token).copied();
        start.zip(end).and_then(|(start, end)| self.texts.get(start..end)).unwrap_or_default()
    }

    pub(super) fn of_byte(&self, byte: u8) -> u32 {
        self.bytes.get(usize::from(byte)).copied().unwrap_or(0)
    }
}

/// The number of plain characters at the beginning of a text, and the rest.
fn plain_beginning(bytes: &[u8]) -> (u32, &[u8]) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes
            .get(..error.valid_up_to())
            .and_then(|valid| std::str::from_utf8(valid).ok())
            .unwrap_or_default(),
    };
    let plain = text.split(|character| character < ' ' || character == '"' || character == '\\').next();
    let plain = plain.unwrap_or_default();
    (plain.chars().count() as u32, bytes.get(plain.len()..).unwrap_or_default())
}

/// The first offset, in bytes, after which a text is plain.
fn plain_from(bytes: &[u8]) -> usize {
    let (mut from, mut read) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        let special = |character: char| character < ' ' || character == '"' || character == '\\';
        if let Some(last) = chunk.valid().rfind(special) {
            from = read + last + 1;
        }
        read += chunk.valid().len() + chunk.invalid().len();
        if !chunk.invalid().is_empty() {
            from = read;
        }
    }
    from
}

/// Whether a text's first byte can follow whole characters in a JSON string: a quote, a backslash, or the
/// first byte of a character.
fn goes_on_in_strings(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'"' | b'\\' | 0xc2..=0xf4))
}

/// Sets of plain tokens by the number of their characters.
pub(super) struct PlainTokens {
    /// One bit for each token of at most 1, 2 … characters.
    up_to: Vec<Vec<u64>>,
    /// Longer tokens with their numbers of characters, sorted by number.
    longer: Vec<(u32, u32)>,
}

impl PlainTokens {
    /// The largest number of characters that has a set of its own. Few tokens are longer.
    const SETS: usize = 12;

    fn new(tokens: Vec<(u32, u32)>, count: usize) -> Self {
        let (short, mut longer): (Vec<_>, Vec<_>) =
            tokens.into_iter().partition(|(_, characters)| *characters as usize <= Self::SETS);
        longer.sort_unstable_by_key(|(_, characters)| *characters);
        let up_to = (1..=Self::SETS).map(|limit| {
            let mut set = vec![0; count.div_ceil(64)];
            let fitting = short.iter().filter(|(_, characters)| *characters as usize <= limit);
            fitting.for_each(|(token, _)| permit(&mut set, *token));
            set
        });
        Self { up_to: up_to.collect(), longer }
    }

    /// Permits all tokens of at most `characters`.
    pub(super) fn permit(&self, permitted: &mut [u64], characters: u32) {
        let set =
            (characters as usize).min(Self::SETS).checked_sub(1).and_then(|index| self.up_to.get(index));
        for (permitted, set) in permitted.iter_mut().zip(set.into_iter().flatten()) {
            *permitted |= set;
        }
        let longer = self.longer.iter().take_while(|(_, length)| *length <= characters);
        longer.for_each(|(token, _)| permit(permitted, *token));
    }
}

/// Sets the bit of a token.
pub(super) fn permit(permitted: &mut [u64], token: u32) {
    if let Some(word) = permitted.get_mut(token as usize / 64) {
        *word |= 1 << (token % 64);
    }
}

/// Texts as a tree of bytes, each node before its children.
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Tokens in the order of their texts.
    tokens: Vec<u32>,
}

/// One byte on the way to some texts.
pub(super) struct Node {
    pub(super) byte: u8,
    /// Its distance from the root, in bytes.
    pub(super) depth: u16,
    /// The first node after this node's descendants.
    pub(super) skip: u32,
    tokens: (u32, u32),
    /// The offset in bytes after which every text below this node is plain.
    plain_from: u16,
}

impl Node {
    /// Whether every text below continues with plain characters alone.
    pub(super) fn goes_on_plainly(&self) -> bool {
        self.plain_from <= self.depth.saturating_add(1)
    }
}

impl Tree {
    #[expect(clippy::indexing_slicing, reason = "an index in `path` was the length of `nodes` before a push")]
    fn new(mut texts: Vec<(&[u8], u32)>) -> Self {
        texts.sort_unstable();
        let mut nodes: Vec<Node> = Vec::new();
        // The way to the last text.
        let mut path: Vec<usize> = Vec::new();
        let mut last: &[u8] = &[];
        for (index, (text, _)) in texts.iter().enumerate() {
            let common = last.iter().zip(*text).take_while(|(a, b)| a == b).count();
            let end = nodes.len() as u32;
            for closed in path.drain(common..) {
                nodes[closed].skip = end;
            }
            let index = index as u32;
            for (depth, byte) in text.iter().enumerate().skip(common) {
                path.push(nodes.len());
                let (depth, tokens) = (depth as u16, (index, index));
                nodes.push(Node { byte: *byte, depth, skip: 0, tokens, plain_from: 0 });
            }
            let plain_from = plain_from(text) as u16;
            path.iter().for_each(|node| nodes[*node].plain_from = nodes[*node].plain_from.max(plain_from));
            if let Some(node) = path.last() {
                nodes[*node].tokens.1 = index + 1;
            }
            last = text;
        }
        let end = nodes.len() as u32;
        path.into_iter().for_each(|closed| nodes[closed].skip = end);
        Self { nodes, tokens: texts.into_iter().map(|(_, token)| token).collect() }
    }

    pub(super) fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// The tokens whose text ends at this node.
    pub(super) fn tokens(&self, node: &Node) -> &[u32] {
        self.tokens.get(node.tokens.0 as usize..node.tokens.1 as usize).unwrap_or_default()
    }

    /// The tokens whose text has this node's path as a prefix, the node's own among them.
    pub(super) fn all_tokens(&self, node: &Node) -> &[u32] {
        let end = self.node(node.skip as usize).map_or(self.tokens.len(), |next| next.tokens.0 as usize);
        self.tokens.get(node.tokens.0 as usize..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_every_text_once_and_children_after_their_parents() {
        let texts: Vec<(&[u8], u32)> =
            vec![(b"ab", 0), (b"a", 1), (b"b", 2), (b"abc", 3), (b"ab", 4), (b"ad", 5)];
        let tree = Tree::new(texts.clone());
        let mut found = Vec::new();
        let mut path: Vec<u8> = Vec::new();
        for (index, node) in tree.nodes.iter().enumerate() {
            path.truncate(usize::from(node.depth));
            path.push(node.byte);
            found.extend(tree.tokens(node).iter().map(|token| (path.clone(), *token)));
            let children = (index + 1..tree.nodes.len())
                .take_while(|child| tree.nodes[*child].depth > node.depth)
                .count();
            assert_eq!(node.skip as usize, index + 1 + children);
            let mut begin: Vec<u32> =
                texts.iter().filter(|(t, _)| t.starts_with(&path)).map(|t| t.1).collect();
            let mut all = tree.all_tokens(node).to_vec();
            begin.sort_unstable();
            all.sort_unstable();
            assert_eq!(all, begin, "{path:?}");
        }
        found.sort_unstable_by_key(|(_, token)| *token);
        let expected: Vec<_> = texts.iter().map(|(text, token)| (text.to_vec(), *token)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn plain_is_what_needs_no_escape_and_is_whole() {
        assert_eq!(plain_beginning("aé€ ".as_bytes()), (4, b"".as_slice()));
        for (text, characters, rest) in [
            (b"\"".as_slice(), 0, b"\"".as_slice()),
            (b"a\\nb", 1, b"\\nb"),
            (b"ab\n\"", 2, b"\n\""),
            (b"\xc3\xa9\xc3", 1, b"\xc3"),
            (b"\xa9a", 0, b"\xa9a"),
        ] {
            assert_eq!(plain_beginning(text), (characters, rest));
        }
        assert!([b"\"}".as_slice(), b"\\n", b"\xc3"].iter().all(|rest| goes_on_in_strings(rest)));
        assert!([b"".as_slice(), b"\n\"", b"\xa9"].iter().all(|rest| !goes_on_in_strings(rest)));
    }

    #[test]
    fn plain_again_is_what_follows_the_last_byte_that_is_not() {
        for (text, from) in [
            ("aé€ ".as_bytes(), 0),
            (b"a\"b\\c", 4),
            (b"\"", 1),
            (b"\xa9abc", 1),
            (b"a\xc3\xa9\n", 4),
            (b"ab\xc3", 3),
            (b"\xc3b", 1),
        ] {
            assert_eq!(plain_from(text), from, "{text:?}");
        }
        let tree = Tree::new(vec![(b"nab", 0), (b"nac\"", 1), (b"nad", 2)]);
        let plain: Vec<(u8, bool)> =
            tree.nodes.iter().map(|node| (node.byte, node.goes_on_plainly())).collect();
        let expected =
            [(b'n', false), (b'a', false), (b'b', true), (b'c', false), (b'"', true), (b'd', true)];
        assert_eq!(plain, expected);
    }

    #[test]
    fn plain_tokens_are_those_of_no_more_characters() {
        let lengths: Vec<(u32, u32)> = (0..200).map(|token| (token, 1 + token % 40)).collect();
        let plain = PlainTokens::new(lengths.clone(), 200);
        for characters in [0, 1, 2, 11, 12, 13, 39, 40, u32::MAX] {
            let mut permitted = vec![0; 4];
            plain.permit(&mut permitted, characters);
            for (token, length) in &lengths {
                let bit = permitted[*token as usize / 64] >> (token % 64) & 1 == 1;
                assert_eq!(bit, *length <= characters, "{token} in {characters}");
            }
        }
    }
}
