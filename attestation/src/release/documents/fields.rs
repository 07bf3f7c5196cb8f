//! The small types that the payloads are made of: identifiers, labels, bounded lists. Each refuses what it cannot be while
//! it is being read, so that a payload that parsed holds only values that make sense.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::str::FromStr;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The longest [`Id`] and [`Label`], in bytes.
pub const TEXT_LIMIT: usize = 128;
/// The longest [`AttributeText`], in bytes.
pub const ATTRIBUTE_TEXT_LIMIT: usize = 32;

/// Why some text is no [`Id`], no [`Label`] or no [`AttributeText`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing, or too much.
    #[error("expected 1 to {most} bytes, got {actual}")]
    Length {
        /// The most bytes that it may have.
        most: usize,
        /// The bytes that came.
        actual: usize,
    },
    /// A character outside the permitted set.
    #[error("{0:?} is not allowed here: {1}")]
    Character(char, &'static str),
}

macro_rules! text_type {
    ($name:ident, $limit:expr, $allowed:expr, $rule:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                if text.is_empty() || text.len() > $limit {
                    return Err(TextError::Length { most: $limit, actual: text.len() });
                }
                let allowed: fn((usize, char)) -> bool = $allowed;
                match text.char_indices().find(|at| !allowed(*at)) {
                    Some((_, character)) => Err(TextError::Character(character, $rule)),
                    None => Ok(Self(text.into())),
                }
            }
        }

        impl core::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:?}", &self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_text(deserializer, $rule)
            }
        }
    };
}

text_type!(
    Id,
    TEXT_LIMIT,
    |(index, c)| c.is_ascii_alphanumeric() || (index > 0 && "._:/@+-".contains(c)),
    "an identifier is a letter or digit, then letters, digits and . _ : / @ + -",
    "The name of a model, a partner, a room, a key or an authority: 1 to 128 bytes of ASCII letters, digits and `. _ : / @ + -`, \
     the first one a letter or digit. Compared byte by byte."
);
text_type!(
    Label,
    TEXT_LIMIT,
    |(_, c)| (' '..='~').contains(&c),
    "a label is printable ASCII",
    "Text for people: 1 to 128 bytes of printable ASCII, so that what is shown on two screens is what was signed. Compared byte by byte."
);
text_type!(
    AttributeText,
    ATTRIBUTE_TEXT_LIMIT,
    |(index, c)| c.is_ascii_lowercase() || c.is_ascii_digit() || (index > 0 && "._-".contains(c)),
    "the name or value of an attribute is a lower-case letter or digit, then lower-case letters, digits and . _ -",
    "The name or the value of an attribute: 1 to 32 bytes of ASCII lower-case letters, digits and `. _ -`, the first one a letter \
     or digit. There are no capitals, so that `EU` and `eu` are not two jurisdictions, of which a denial halts one. Compared byte \
     by byte."
);

/// Reads a string without keeping it and parses it, with an error that says what was expected.
pub(super) fn from_text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(&'static str, PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(expected, PhantomData))
}

/// A list of at most `MAX` elements. The element after the last permitted one is refused before it is kept.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// The list of `items`, or `None` when there are more than `MAX`.
    #[must_use]
    pub fn new(items: Vec<T>) -> Option<Self> {
        (items.len() <= MAX).then_some(Self(items))
    }

    /// The elements.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for List<T, MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a list of at most {MAX} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == MAX {
                        return Err(A::Error::custom(format_args!("more than {MAX} elements")));
                    }
                    items.push(item);
                }
                items.shrink_to_fit();
                Ok(items)
            }
        }

        deserializer.deserialize_seq(Items::<T, MAX>(PhantomData)).map(Self)
    }
}

/// Reads an optional member that is there: it must have a value, `null` is none.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The first element of `keys` that occurs a second time.
pub(super) fn first_repeated<K: Eq + core::hash::Hash + Copy>(keys: impl Iterator<Item = K>) -> Option<K> {
    let mut seen = std::collections::HashSet::new();
    keys.into_iter().find(|key| !seen.insert(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_labels_keep_to_their_alphabets() {
        for good in ["demo", "meta-llama/Llama-3:8b", "a@b.example", "7"] {
            assert_eq!(good.parse::<Id>().unwrap().as_str(), good);
        }
        for bad in ["", "-x", "a b", "ä", "a\n", "a\u{202e}b"] {
            assert!(bad.parse::<Id>().is_err(), "{bad:?}");
        }
        assert_eq!("x".repeat(129).parse::<Id>(), Err(TextError::Length { most: 128, actual: 129 }));
        assert!("cleanroom 0.1.0 (prod)".parse::<Label>().is_ok());
        for bad in ["", "a\tb", "\u{7f}", "über"] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Id>("\"a b\"").is_err());
        assert!(serde_json::from_str::<Id>("7").is_err());
    }

    #[test]
    fn a_list_ends_at_its_limit() {
        assert_eq!(serde_json::from_str::<List<u8, 2>>("[1,2]").unwrap().len(), 2);
        let error = serde_json::from_str::<List<u8, 2>>("[1,2,3]").unwrap_err();
        assert!(error.to_string().contains("more than 2 elements"), "{error}");
        assert!(List::<u8, 1>::new(vec![1, 2]).is_none());
    }
}
