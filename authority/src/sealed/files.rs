//! Several files as one model: a split GGUF, or a folder as model hubs have it.
//!
//! The model is then one run of bytes, an index and the files behind it, and its identity is that of these bytes:
//!
//! ```text
//! index   LP("cleanroom/files/1") count u32, then for each file LP(name) length u64; zeros up to a whole chunk
//! files   each file's bytes, and zeros up to a whole chunk
//! ```
//!
//! Numbers are big-endian, `LP` is as in `docs/protocol.md` section 1. Names are relative paths with `/` between their parts, in
//! ascending order of their bytes. A model has one such form and no other, so equal files have equal identities.

use cleanroom_attestation::channel::length_prefixed;
use cleanroom_attestation::model::CHUNK_BYTES;

/// What an index begins with.
const TAG: &[u8] = b"cleanroom/files/1";
/// The most files of one model.
pub(crate) const MAX_FILES: usize = 4096;
/// The longest name of a file, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// The longest index, in bytes: that of the most files with the longest names.
pub(crate) const MAX_INDEX_BYTES: usize = 2 << 20;

/// The names and lengths of a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    entries: Vec<(String, u64)>,
}

/// Why files are not a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilesError {
    /// There are none, or too many.
    #[error("expected 1 to {MAX_FILES} files, got {actual}")]
    Count {
        /// How many there are.
        actual: usize,
    },
    /// A name is none.
    #[error(
        "expected file names of 1 to {MAX_NAME_BYTES} bytes, with `/` between parts that are neither empty nor `.` nor `..`, \
         got {name:?}"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Two files have one name, or they are not in order.
    #[error("expected each file once and in ascending order, got {name:?}")]
    Order {
        /// The name that is not in its place.
        name: String,
    },
    /// The bytes do not begin with an index.
    #[error("the bytes do not begin with an index of files")]
    Index,
    /// The files do not have the length that the model has.
    #[error("the index describes a model of {expected} bytes, but the model has {actual}")]
    Length {
        /// What the index adds up to.
        expected: u64,
        /// What there is.
        actual: u64,
    },
}

impl Files {
    /// The files with these names and lengths, in any order.
    ///
    /// # Errors
    /// [`FilesError`] for names that a model cannot have.
    pub(crate) fn new(mut entries: Vec<(String, u64)>) -> Result<Self, FilesError> {
        entries.sort();
        Self::in_order(entries)
    }

    fn in_order(entries: Vec<(String, u64)>) -> Result<Self, FilesError> {
        if entries.is_empty() || entries.len() > MAX_FILES {
            return Err(FilesError::Count { actual: entries.len() });
        }
        if let Some((name, _)) = entries.iter().find(|(name, _)| !is_name(name)) {
            return Err(FilesError::Name { name: name.clone() });
        }
        let following = entries.iter().zip(entries.iter().skip(1));
        for ((before, _), (name, _)) in following {
            if before.as_bytes() >= name.as_bytes() {
                return Err(FilesError::Order { name: name.clone() });
            }
        }
        let files = Self { entries };
        // A length that no number holds is the length of no model.
        match files.end() {
            Some(_) => Ok(files),
            None => Err(FilesError::Length { expected: u64::MAX, actual: 0 }),
        }
    }

    /// Reads the index at the beginning of a model of `length` bytes. `beginning` are the first bytes of the model: all of
    /// them, or [`MAX_INDEX_BYTES`].
    ///
    /// # Errors
    /// [`FilesError::Index`] when the model is not one of several files; any other when it pretends to be.
    pub(crate) fn parse(beginning: &[u8], length: u64) -> Result<Self, FilesError> {
        let mut rest = Reader(beginning);
        if rest.prefixed(TAG.len()) != Some(TAG) {
            return Err(FilesError::Index);
        }
        let count = rest.number::<4>().ok_or(FilesError::Index)?;
        let count = usize::try_from(u32::from_be_bytes(count)).unwrap_or(usize::MAX);
        if count > MAX_FILES {
            return Err(FilesError::Count { actual: count });
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            let name = rest.prefixed(MAX_NAME_BYTES).ok_or(FilesError::Index)?;
            let name = core::str::from_utf8(name).map_err(|_| FilesError::Index)?;
            let length = rest.number::<8>().ok_or(FilesError::Index)?;
            entries.push((name.to_owned(), u64::from_be_bytes(length)));
        }
        let files = Self::in_order(entries)?;
        let index = files.index();
        if beginning.get(..index.len()) != Some(&index) {
            return Err(FilesError::Index);
        }
        let expected = files.length();
        if expected == length { Ok(files) } else { Err(FilesError::Length { expected, actual: length }) }
    }

    /// The index, with the zeros behind it.
    pub(crate) fn index(&self) -> Vec<u8> {
        let mut index = length_prefixed(&[TAG]);
        index.extend(u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (name, length) in &self.entries {
            index.extend(length_prefixed(&[name.as_bytes()]));
            index.extend(length.to_be_bytes());
        }
        index.resize(index.len().next_multiple_of(CHUNK_BYTES), 0);
        index
    }

    /// Names and lengths, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().map(|(name, length)| (name.as_str(), *length))
    }

    /// The model's length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.end().unwrap_or(u64::MAX)
    }

    fn end(&self) -> Option<u64> {
        let chunk = CHUNK_BYTES as u64;
        let index = self.index().len() as u64;
        let mut lengths = self.entries.iter().map(|(_, length)| length.checked_next_multiple_of(chunk));
        lengths.try_fold(index, |end, length| end.checked_add(length?))
    }
}

fn is_name(name: &str) -> bool {
    let whole = |part: &str| !matches!(part, "" | "." | "..");
    name.len() <= MAX_NAME_BYTES && !name.contains('\0') && name.split('/').all(whole)
}

/// What is left of an index.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*number)
    }

    /// Bytes behind their length, which is at most `limit`.
    fn prefixed(&mut self, limit: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(u32::from_be_bytes(self.number()?)).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length).filter(|_| length <= limit)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, u64)]) -> Result<Files, FilesError> {
        Files::new(entries.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect())
    }

    #[test]
    fn an_index_comes_back() {
        let chunk = CHUNK_BYTES as u64;
        let files = files(&[("b/c", chunk), ("a", 5), ("empty", 0)]).unwrap();
        assert_eq!(files.entries().collect::<Vec<_>>(), [("a", 5), ("b/c", chunk), ("empty", 0)]);
        assert_eq!(files.length(), 3 * chunk);
        assert_eq!(Files::parse(&files.index(), files.length()), Ok(files));
    }

    #[test]
    fn there_is_one_form_and_no_other() {
        let whole = files(&[("a", 5), ("b", 7)]).unwrap();
        let (index, length) = (whole.index(), whole.length());
        for place in 0..100 {
            let mut changed = index.clone();
            changed[place] ^= 0x20;
            if let Ok(other) = Files::parse(&changed, length) {
                // Another name or another length within the same chunk is another index.
                assert_ne!(other, whole, "byte {place}");
                assert_eq!(other.index(), changed);
            }
        }
        assert!(matches!(Files::parse(&index, length + 1), Err(FilesError::Length { .. })));
        assert_eq!(Files::parse(&index[..index.len() - 1], length), Err(FilesError::Index));
        assert_eq!(Files::parse(b"GGUF and so on", 14), Err(FilesError::Index));
    }

    #[test]
    fn names_are_relative_and_unique() {
        for name in ["", "/a", "a/", "a//b", ".", "a/../b", "a\0", &"n".repeat(256)] {
            assert!(matches!(files(&[(name, 1)]), Err(FilesError::Name { .. })), "{name:?}");
        }
        assert!(matches!(files(&[("a", 1), ("a", 2)]), Err(FilesError::Order { .. })));
        assert_eq!(files(&[]), Err(FilesError::Count { actual: 0 }));
        assert!(matches!(files(&[("a", u64::MAX)]), Err(FilesError::Length { .. })));
    }
}
