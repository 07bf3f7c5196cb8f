//! Writes CBOR, as short as it should be or longer.

/// An item.
#[derive(Clone)]
pub enum Cbor {
    /// An unsigned integer.
    Unsigned(u64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A text string, whose bytes may be anything.
    Text(Vec<u8>),
    /// An array.
    Array(Vec<Cbor>),
    /// A map of definite length, in this order.
    Map(Vec<(Cbor, Cbor)>),
    /// A map of indefinite length, in this order.
    OpenMap(Vec<(Cbor, Cbor)>),
    /// A tagged item.
    Tag(u64, Box<Cbor>),
    /// `null`.
    Null,
    /// Bytes that are written as they are.
    Raw(Vec<u8>),
}

impl Cbor {
    /// A text string.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }

    /// A byte string.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }

    /// The item's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Unsigned(value) => Self::head(0, *value),
            Self::Bytes(bytes) => [Self::head(2, bytes.len() as u64), bytes.clone()].concat(),
            Self::Text(bytes) => [Self::head(3, bytes.len() as u64), bytes.clone()].concat(),
            Self::Array(items) => {
                let items = items.iter().flat_map(Self::encode);
                Self::head(4, self.entries()).into_iter().chain(items).collect()
            }
            Self::Map(entries) => {
                let items = entries.iter().flat_map(|(key, value)| [key.encode(), value.encode()].concat());
                Self::head(5, self.entries()).into_iter().chain(items).collect()
            }
            Self::OpenMap(entries) => {
                let items = entries.iter().flat_map(|(key, value)| [key.encode(), value.encode()].concat());
                [0xbf].into_iter().chain(items).chain([0xff]).collect()
            }
            Self::Tag(tag, item) => [Self::head(6, *tag), item.encode()].concat(),
            Self::Null => vec![0xf6],
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    /// The shortest head of a major type with an argument.
    #[must_use]
    pub fn head(major: u8, argument: u64) -> Vec<u8> {
        let size = match argument {
            0..=23 => 0,
            24..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        };
        Self::long_head(major, argument, size)
    }

    /// A head whose argument takes `size` bytes after the first: 0, 1, 2, 4 or 8.
    #[must_use]
    pub fn long_head(major: u8, argument: u64, size: usize) -> Vec<u8> {
        let bytes = argument.to_be_bytes();
        let information = match size {
            0 => bytes[7],
            1 => 24,
            2 => 25,
            4 => 26,
            _ => 27,
        };
        let mut head = vec![major << 5 | information];
        head.extend_from_slice(&bytes[8 - size..]);
        head
    }

    fn entries(&self) -> u64 {
        match self {
            Self::Array(items) => items.len() as u64,
            Self::Map(entries) | Self::OpenMap(entries) => entries.len() as u64,
            _ => 0,
        }
    }
}
