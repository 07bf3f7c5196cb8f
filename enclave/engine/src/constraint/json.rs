//! JSON with its members in their written order, because an answer follows that order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use zeroize::Zeroizing;

use crate::scratch::{Scratch, ScratchText};

/// One value. Texts are erased when it is dropped.
pub(crate) enum Json {
    Null,
    Boolean(bool),
    Number(Number),
    Text(Zeroizing<String>),
    Array(Vec<Json>),
    Object(Vec<(Zeroizing<String>, Json)>),
}

impl Json {
    pub(crate) const fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// Calls `each` with every text and every name in it.
    pub(crate) fn each_text(&self, each: &mut dyn FnMut(&str)) {
        match self {
            Self::Null | Self::Boolean(_) | Self::Number(_) => {}
            Self::Text(text) => each(text),
            Self::Array(elements) => elements.iter().for_each(|element| element.each_text(each)),
            Self::Object(members) => {
                for (name, value) in members {
                    each(name);
                    value.each_text(each);
                }
            }
        }
    }

    pub(in crate::constraint) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Appends the value as JSON without white space.
    pub(in crate::constraint) fn write(&self, out: &mut Scratch<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Number(number) => {
                let number = ScratchText::of(number);
                out.extend_from_slice(number.as_bytes());
            }
            Self::Text(text) => write_text(text, out),
            Self::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    element.write(out);
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(name, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Appends a string with its quotes (RFC 8259, section 7).
pub(super) fn write_text(text: &str, out: &mut Scratch<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..0x20 => {
                #[expect(clippy::indexing_slicing, reason = "four bits are below 16")]
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Json::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members: Vec<(Zeroizing<String>, Json)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Json>()? {
            members.push((Zeroizing::new(name), value));
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.array_windows().any(|[a, b]| a == b) {
            return Err(A::Error::custom("a member twice"));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_read_in_its_order() {
        let text = r#"{"b":[1,-2,0.5,true,null],"a":"\"\\\n\u0001é","c":{}}"#;
        let json: Json = serde_json::from_str(text).unwrap();
        let mut out = Scratch::new();
        json.write(&mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), text);
        assert!(serde_json::from_str::<Json>(r#"{"a":1,"a":2}"#).is_err());
    }
}
