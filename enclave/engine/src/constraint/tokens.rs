//! The texts of a model's tokens, sorted so that all which a grammar permits are found in one walk.

use crate::tokenizer::Tokenizer;

/// The tokens of one model.
pub(crate) struct TokenTable {
    /// Tokens that are nothing but whole characters as they may stand in a JSON string, and how many characters each has.
    pub(super) plain: Vec<(u32, u32)>,
    pub(super) plain_tree: Tree,
    pub(super) other_tree: Tree,
    /// Tokens that end a turn.
    pub(super) ends: Vec<u32>,
    /// For each byte a token of that byte alone.
    bytes: Vec<u32>,
    /// The texts of all tokens one after the other, and where each ends.
    texts: Vec<u8>,
    text_ends: Vec<usize>,
}

impl TokenTable {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let count = tokenizer.len();
        let (mut plain, mut other, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let (mut texts, mut text_ends) = (Vec::new(), Vec::with_capacity(count));
        for token in 0..count as u32 {
            let bytes = tokenizer.bytes_of(token);
            texts.extend_from_slice(bytes);
            text_ends.push(texts.len());
            if bytes.is_empty() || tokenizer.ends_turn(token) {
                continue;
            }
            match plain_characters(bytes) {
                Some(characters) => {
                    plain.push((bytes, token));
                    lengths.push((token, characters));
                }
                None => other.push((bytes, token)),
            }
        }
        Self {
            plain: lengths,
            plain_tree: Tree::new(plain),
            other_tree: Tree::new(other),
            ends: (0..count as u32).filter(|token| tokenizer.ends_turn(*token)).collect(),
            bytes: (0..=u8::MAX).map(|byte| tokenizer.single_byte(byte)).collect(),
            texts,
            text_ends,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.text_ends.len()
    }

    /// What a token stands for; nothing for one that is no text.
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

/// The number of characters, if these are whole ones that a JSON string has without escapes.
fn plain_characters(bytes: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(bytes).ok()?;
    let plain = !text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    plain.then(|| text.chars().count() as u32)
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
    /// How many bytes stand before it.
    pub(super) depth: u16,
    /// The first node after those that begin with this one.
    pub(super) skip: u32,
    tokens: (u32, u32),
}

impl Tree {
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
                nodes.push(Node { byte: *byte, depth: depth as u16, skip: 0, tokens: (index, index) });
            }
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
        }
        found.sort_unstable_by_key(|(_, token)| *token);
        let expected: Vec<_> = texts.iter().map(|(text, token)| (text.to_vec(), *token)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn plain_is_what_needs_no_escape_and_is_whole() {
        assert_eq!(plain_characters("aé€ ".as_bytes()), Some(4));
        for bytes in [b"\"".as_slice(), b"a\\", b"\n", b"\xc3", b"\xa9"] {
            assert_eq!(plain_characters(bytes), None);
        }
    }
}
