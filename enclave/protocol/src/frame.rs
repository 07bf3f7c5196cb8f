//! One frame: its header, checked, and its bytes.

use zeroize::Zeroizing;

/// The length of a frame's header in bytes: kind, id, length.
pub const HEADER_BYTES: usize = 9;

/// What a frame of one direction is.
pub trait Kind: Copy + core::fmt::Debug + 'static {
    /// Every kind.
    const ALL: &'static [Self];

    /// The kind's code on the wire.
    fn code(self) -> u8;

    /// The longest body, in bytes.
    fn limit(self) -> usize;
}

/// A frame's header, checked: the body's length is within the kind's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<K> {
    kind: K,
    id: u32,
    body_bytes: usize,
}

impl<K: Kind> Header<K> {
    /// Reads a header.
    ///
    /// # Errors
    /// [`ProtocolError`] for a kind that does not exist and a body over its kind's limit.
    pub fn parse(header: [u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let [code, id @ .., a, b, c, d] = header;
        let kind = K::ALL.iter().copied().find(|kind| kind.code() == code);
        let kind = kind.ok_or(ProtocolError::Kind(code))?;
        let actual = u32::from_be_bytes([a, b, c, d]);
        match usize::try_from(actual) {
            Ok(body_bytes) if body_bytes <= kind.limit() => {
                Ok(Self { kind, id: u32::from_be_bytes(id), body_bytes })
            }
            _ => Err(ProtocolError::TooLong { code, limit: kind.limit(), actual }),
        }
    }

    /// What the frame is.
    #[must_use]
    pub const fn kind(&self) -> K {
        self.kind
    }

    /// Which question it asks or answers.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The body's length in bytes.
    #[must_use]
    pub const fn body_bytes(&self) -> usize {
        self.body_bytes
    }
}

/// A whole frame. Some carry what identifies a connection, so they are erased.
pub(crate) fn frame(kind: impl Kind, id: u32, body: &[u8]) -> Zeroizing<Vec<u8>> {
    // What is over its limit is refused by the other end.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    Zeroizing::new([&[kind.code()][..], &id.to_be_bytes(), &length.to_be_bytes(), body].concat())
}

/// Why bytes are not a frame of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A kind that does not exist in this direction.
    #[error("unknown kind of frame: {0}")]
    Kind(u8),
    /// A body over its kind's limit; nothing of it was read.
    #[error("expected a frame of kind {code} to have at most {limit} bytes, got one of {actual}")]
    TooLong {
        /// The kind's code.
        code: u8,
        /// The longest body.
        limit: usize,
        /// The length that came.
        actual: u32,
    },
    /// A body that is not what its kind requires.
    #[error("the body of a frame of kind {0} does not have the form of that kind")]
    Malformed(u8),
}
