//! Reads JSON that a stranger sent without repeating a word of it.
//!
//! `serde_json` does the parsing, but its messages quote what they found (`invalid type: string "my secret",
//! …`). An object is therefore first split into members of raw text. A function that knows the path and the
//! expected form then reads each member. A refusal names those two and nothing else.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::error::ApiError;
use super::secret::SecretString;

/// Most members that one object may have: above twice what OpenAI defines.
const MAX_MEMBERS: usize = 64;

/// The path of a parameter, such as `messages[2].content`. Only ever text that we wrote, or a name that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterName(String);

impl ParameterName {
    const MAX_BYTES: usize = 64;

    /// A name of ours.
    pub(crate) fn known(name: &'static str) -> Self {
        Self(name.to_owned())
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `name` below `parent`. A name that does not look like one (64 bytes of letters, digits, `_`, `-`) is not repeated.
    fn member(parent: &str, name: &str) -> Self {
        let is_name = !name.is_empty()
            && name.len() <= Self::MAX_BYTES
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = if is_name { name } else { "(not a name)" };
        Self(if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") })
    }
}

impl fmt::Display for ParameterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0)
    }
}

/// An object whose members are taken one by one; [`finish`](Self::finish) refuses what nobody took.
pub(crate) struct Object<'a> {
    path: String,
    members: Vec<(Zeroizing<String>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads the body of a request.
    pub(crate) fn from_body(body: &'a [u8]) -> Result<Self, ApiError> {
        let members = serde_json::from_slice::<Members<'_>>(body).map_err(|error| ApiError::Json {
            problem: match error.classify() {
                Category::Eof => "the text ends too early",
                Category::Data => "expected an object of at most 64 members",
                Category::Syntax | Category::Io => "malformed text",
            },
            line: error.line(),
            column: error.column(),
        })?;
        Self::new(String::new(), members)
    }

    fn new(path: String, Members(members): Members<'a>) -> Result<Self, ApiError> {
        for (index, (name, _)) in members.iter().enumerate() {
            if members.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(ApiError::DuplicateParameter(ParameterName::member(&path, name)));
            }
        }
        Ok(Self { path, members })
    }

    /// The member `name`. `null` means what leaving it out means.
    pub(crate) fn take(&mut self, name: &str) -> Option<Field<'a>> {
        let index = self.members.iter().position(|(member, _)| **member == name)?;
        let (_, raw) = self.members.swap_remove(index);
        (raw.get() != "null").then(|| Field { path: ParameterName::member(&self.path, name), raw })
    }

    /// The member `name`, which must be there.
    pub(crate) fn require(&mut self, name: &str) -> Result<Field<'a>, ApiError> {
        self.take(name).ok_or_else(|| self.missing(name))
    }

    /// That the member `name` is not there.
    pub(crate) fn missing(&self, name: &str) -> ApiError {
        ApiError::MissingParameter(ParameterName::member(&self.path, name))
    }

    /// Takes each member of `neutral`, with the values that it may have, as [`take_neutral`](Self::take_neutral) does.
    pub(crate) fn take_all_neutral(
        &mut self,
        neutral: &[(&str, &'static [&'static str])],
    ) -> Result<(), ApiError> {
        neutral.iter().try_for_each(|(name, accepts)| self.take_neutral(name, accepts))
    }

    /// Takes a member that OpenAI defines and we do not implement: it may only have a value that means nothing.
    pub(crate) fn take_neutral(
        &mut self,
        name: &str,
        accepts: &'static [&'static str],
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(field) if !accepts.iter().any(|value| field.is(value)) => {
                Err(ApiError::UnsupportedParameter { param: field.path, accepts })
            }
            _ => Ok(()),
        }
    }

    /// Whether the member `name` is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(member, raw)| **member == name && raw.get() != "null")
    }

    /// All members that were not taken, of an object whose names are data.
    pub(crate) fn into_members(self) -> impl Iterator<Item = (Zeroizing<String>, Field<'a>)> {
        let Self { path, members } = self;
        members.into_iter().map(move |(name, raw)| {
            let path = ParameterName::member(&path, &name);
            (name, Field { path, raw })
        })
    }

    /// Refuses every member that was not taken.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.members.first() {
            Some((name, _)) => Err(ApiError::UnknownParameter(ParameterName::member(&self.path, name))),
            None => Ok(()),
        }
    }
}

/// One value that is not `null`, with its path.
pub(crate) struct Field<'a> {
    path: ParameterName,
    raw: &'a RawValue,
}

impl<'a> Field<'a> {
    pub(crate) fn invalid(&self, expected: impl Into<String>) -> ApiError {
        ApiError::InvalidValue { param: self.path.clone(), expected: expected.into() }
    }

    pub(crate) fn is_string(&self) -> bool {
        self.raw.get().starts_with('"')
    }

    pub(crate) fn is_array(&self) -> bool {
        self.raw.get().starts_with('[')
    }

    /// A string of at most `max` bytes of UTF-8.
    pub(crate) fn string(&self, max: usize) -> Result<SecretString, ApiError> {
        let text = self.read::<Text>(|| format!("a string of at most {max} bytes"))?.0;
        if text.as_str().len() > max {
            return Err(self.invalid(format!("a string of at most {max} bytes, got {}", text.as_str().len())));
        }
        Ok(text)
    }

    /// An object as it was written, of at most `max` bytes.
    pub(crate) fn object_text(&self, max: usize) -> Result<SecretString, ApiError> {
        let text = self.raw.get();
        if !text.starts_with('{') || text.len() > max {
            return Err(self.invalid(format!("an object of at most {max} bytes")));
        }
        Ok(SecretString::new(text))
    }

    pub(crate) fn boolean(&self) -> Result<bool, ApiError> {
        self.read(|| String::from("true or false"))
    }

    pub(crate) fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
        let expected = || format!("an integer from {} to {}", range.start(), range.end());
        let value = self.read(expected)?;
        if range.contains(&value) { Ok(value) } else { Err(self.invalid(expected())) }
    }

    pub(crate) fn number(&self, range: RangeInclusive<f64>) -> Result<f64, ApiError> {
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        let value = self.read(expected)?;
        if range.contains(&value) { Ok(value) } else { Err(self.invalid(expected())) }
    }

    /// An array of `range` values (never more than [`Elements::MAX_KEPT`]), none of them `null`.
    pub(crate) fn array(&self, range: RangeInclusive<usize>) -> Result<Vec<Field<'a>>, ApiError> {
        let range = *range.start()..=*range.end().min(&Elements::MAX_KEPT);
        let expected = || format!("an array of {} to {} elements", range.start(), range.end());
        let Elements { kept, count } = self.read(expected)?;
        if !range.contains(&count) {
            return Err(self.invalid(format!("{}, got {count}", expected())));
        }
        let element =
            |(index, raw)| Field { path: ParameterName(format!("{}[{index}]", self.path.as_str())), raw };
        let elements: Vec<_> = kept.into_iter().enumerate().map(element).collect();
        match elements.iter().find(|element| element.raw.get() == "null") {
            Some(null) => Err(null.invalid("a value")),
            None => Ok(elements),
        }
    }

    pub(crate) fn object(&self) -> Result<Object<'a>, ApiError> {
        let members = self.read(|| String::from("an object of at most 64 members"))?;
        Object::new(self.path.0.clone(), members)
    }

    /// Whether this is the JSON value `other`, up to white space and the spelling of numbers.
    pub(crate) fn is(&self, other: &str) -> bool {
        /// Longer than any value that this is asked about.
        const MAX: usize = 128;
        let raw = self.raw.get();
        if raw.len() > MAX {
            return false;
        }
        let value = |text| serde_json::from_str::<serde_json::Value>(text).ok();
        match (value(raw), value(other)) {
            (Some(a), Some(b)) => a == b || (a.is_number() && a.as_f64() == b.as_f64()),
            _ => false,
        }
    }

    fn read<T: Deserialize<'a>>(&self, expected: impl FnOnce() -> String) -> Result<T, ApiError> {
        serde_json::from_str(self.raw.get()).map_err(|_| self.invalid(expected()))
    }
}

/// A string, copied once into memory of our own.
struct Text(SecretString);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(SecretString::new(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The members of an object, at most [`MAX_MEMBERS`].
struct Members<'a>(Vec<(Zeroizing<String>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, raw)) = map.next_entry::<String, _>()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.push((Zeroizing::new(name), raw));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// The elements of an array. Those beyond [`Elements::MAX_KEPT`] are counted, not kept.
struct Elements<'a> {
    kept: Vec<&'a RawValue>,
    count: usize,
}

impl Elements<'_> {
    /// More than any array may have, so that the memory for an array is bounded before its length is known.
    const MAX_KEPT: usize = 4096;
}

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementsVisitor;
        impl<'de> Visitor<'de> for ElementsVisitor {
            type Value = Elements<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Elements<'de>, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < Elements::MAX_KEPT {
                    match seq.next_element()? {
                        Some(element) => kept.push(element),
                        None => return Ok(Elements { count: kept.len(), kept }),
                    }
                }
                let mut count = kept.len();
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Elements { kept, count })
            }
        }
        deserializer.deserialize_seq(ElementsVisitor)
    }
}
