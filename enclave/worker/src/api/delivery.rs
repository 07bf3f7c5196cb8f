//! The delivery of an answer: whole or as a stream.

/// How the answer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece, once it is complete.
    Whole,
    /// Token by token.
    Stream {
        /// A last chunk with the token counts.
        include_usage: bool,
        /// Pad each event so that its length on the wire does not tell the length of its text.
        include_obfuscation: bool,
    },
}
