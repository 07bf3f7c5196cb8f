//! The forms in which people pass documents on, and how one is told from another.
//!
//! A document begins with an array of four or a tag, so two readings of one text can be told apart: the bytes that hexadecimal
//! and base64 make of it never both begin that way. What does not begin like a document in any reading is not judged.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

/// Documents are at least this long. Shorter members of a JSON object are something else.
const MIN_MEMBER_LENGTH: usize = 256;
/// How often a form may be wrapped in another, such as base64 in a member of JSON.
const MAX_WRAPPINGS: usize = 3;

/// What was found instead of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotUnderstood {
    /// Nothing at all.
    Nothing,
    /// More than any form of a document takes.
    TooLong { expected: u64 },
    /// Bytes that are not text and do not begin like a document.
    Bytes { first: u8 },
    /// Text in none of the forms.
    Text,
    /// Text that decodes to bytes which do not begin like a document.
    Decoded { form: &'static str, first: Option<u8> },
    /// JSON in which nothing is a document.
    NoMember,
    /// JSON in which several things could be the document.
    Members(usize),
    /// PEM that is not one whole block.
    Pem,
    /// A data URI that is not base64.
    DataUri,
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => formatter.write_str("nothing in it"),
            Self::TooLong { expected } => write!(formatter, "more than {expected} bytes"),
            Self::Bytes { first } => {
                write!(formatter, "bytes that are not text and begin with {first:#04x}, not 0x84 or 0xd2")
            }
            Self::Text => formatter.write_str("text that is neither hexadecimal nor base64"),
            Self::Decoded { form, first: Some(first) } => {
                write!(formatter, "{form} of bytes that begin with {first:#04x}, not 0x84 or 0xd2")
            }
            Self::Decoded { form, first: None } => write!(formatter, "{form} of no bytes"),
            Self::NoMember => formatter.write_str("JSON, of which no member is a document"),
            Self::Members(count) => {
                write!(formatter, "JSON, of which {count} members could be the document; pass on one of them")
            }
            Self::Pem => formatter.write_str("PEM that is not one whole block"),
            Self::DataUri => formatter.write_str("a data URI without `;base64,`"),
        }
    }
}

/// The document in a file's contents. Bytes that begin like one are taken as they are, for the verifier to judge.
pub(super) fn document(contents: Vec<u8>) -> Result<Vec<u8>, NotUnderstood> {
    let text = match text_of(&contents) {
        Some(text) => text,
        None if begins_like_a_document(&contents) => return Ok(contents),
        None => {
            return Err(match contents.first() {
                Some(first) => NotUnderstood::Bytes { first: *first },
                None => NotUnderstood::Nothing,
            });
        }
    };
    wrapped(&text, MAX_WRAPPINGS)
}

/// An array of four, in any encoding of its head, or a tag: whatever else it is, the verifier says it.
fn begins_like_a_document(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x84 | 0x98..=0x9f | 0xc0..=0xdb))
}

/// UTF-8, or UTF-16 with its mark, as PowerShell writes it.
fn text_of(contents: &[u8]) -> Option<String> {
    let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
        String::from_utf16(&units).ok().filter(|_| rest.is_empty())
    };
    match contents {
        [] => None,
        [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes),
        _ => {
            let text = std::str::from_utf8(contents).ok()?;
            Some(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())
        }
    }
}

fn wrapped(text: &str, wrappings: usize) -> Result<Vec<u8>, NotUnderstood> {
    let text = text.trim();
    let scheme = text.split_at_checked(5).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("data:"));
    if let Some((_, rest)) = scheme {
        return data_uri(rest);
    }
    if text.starts_with("-----BEGIN") {
        return pem(text);
    }
    if text.starts_with(['{', '[', '"'])
        && let Ok(value) = serde_json::from_str::<Value>(text)
    {
        return member(&value, wrappings);
    }
    encoded(text)
}

fn data_uri(rest: &str) -> Result<Vec<u8>, NotUnderstood> {
    let (kind, data) = rest.split_once(',').ok_or(NotUnderstood::DataUri)?;
    if !kind.to_ascii_lowercase().ends_with(";base64") {
        return Err(NotUnderstood::DataUri);
    }
    // The three characters of base64 that a URI may escape.
    let data = ["%2B", "%2b"].iter().fold(data.to_owned(), |data, escape| data.replace(escape, "+"));
    let data = ["%2F", "%2f"].iter().fold(data, |data, escape| data.replace(escape, "/"));
    encoded(&data.replace("%3D", "=").replace("%3d", "="))
}

fn pem(text: &str) -> Result<Vec<u8>, NotUnderstood> {
    let mut lines = text.lines().map(str::trim);
    let label = lines.next().and_then(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    let end = format!("-----END {}-----", label.ok_or(NotUnderstood::Pem)?);
    let mut body = String::new();
    for line in lines.by_ref() {
        if line == end {
            // Something after the block would be a second document, or nothing that belongs there.
            let rest = lines.all(str::is_empty);
            return if rest { encoded(&body) } else { Err(NotUnderstood::Pem) };
        }
        body.push_str(line);
    }
    Err(NotUnderstood::Pem)
}

/// The one document in a JSON value.
fn member(value: &Value, wrappings: usize) -> Result<Vec<u8>, NotUnderstood> {
    let mut found = Vec::new();
    collect(value, wrappings, &mut found);
    found.sort_unstable();
    found.dedup();
    match found.len() {
        1 => found.pop().ok_or(NotUnderstood::NoMember),
        0 => Err(NotUnderstood::NoMember),
        count => Err(NotUnderstood::Members(count)),
    }
}

fn collect(value: &Value, wrappings: usize, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::String(text) => {
            if let Some(wrappings) = wrappings.checked_sub(1) {
                let document = wrapped(text, wrappings).ok();
                found.extend(document.filter(|document| document.len() >= MIN_MEMBER_LENGTH));
            }
        }
        Value::Array(items) => {
            // Bytes as numbers, the way languages without a type for bytes write them.
            let bytes: Option<Vec<u8>> =
                items.iter().map(|item| item.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            match bytes.filter(|bytes| bytes.len() >= MIN_MEMBER_LENGTH && begins_like_a_document(bytes)) {
                Some(bytes) => found.push(bytes),
                None => items.iter().for_each(|item| collect(item, wrappings, found)),
            }
        }
        Value::Object(members) => members.values().for_each(|member| collect(member, wrappings, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Hexadecimal, also with `0x`, colons and white space, or base64 of either alphabet, with or without padding.
fn encoded(text: &str) -> Result<Vec<u8>, NotUnderstood> {
    let text: String = text.chars().filter(|character| !character.is_whitespace()).collect();
    if text.is_empty() {
        return Err(NotUnderstood::Nothing);
    }
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(&text);
    let readings = [("hexadecimal", hex::decode(digits.replace(':', "")).ok()), ("base64", base64(&text))];
    let mut other = NotUnderstood::Text;
    for (form, bytes) in readings {
        match bytes {
            Some(bytes) if begins_like_a_document(&bytes) => return Ok(bytes),
            Some(bytes) if other == NotUnderstood::Text => {
                other = NotUnderstood::Decoded { form, first: bytes.first().copied() };
            }
            _ => {}
        }
    }
    Err(other)
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose;

    /// Bytes that begin like a document and use every value, so that both alphabets of base64 differ.
    fn sample() -> Vec<u8> {
        let mut bytes = b"\x84\x44\xa1\x01\x38\x22\xa0".to_vec();
        bytes.extend(0..=u8::MAX);
        // Not a multiple of three, so that there is padding.
        bytes.extend([0xfb, 0xff]);
        assert_ne!(bytes.len() % 3, 0);
        bytes
    }

    #[test]
    fn every_form_is_the_same_document() {
        let bytes = sample();
        let digits = hex::encode(&bytes);
        let standard = general_purpose::STANDARD.encode(&bytes);
        let url = general_purpose::URL_SAFE.encode(&bytes);
        let lines: Vec<&str> = (0..standard.len())
            .step_by(64)
            .map(|start| &standard[start..standard.len().min(start + 64)])
            .collect();
        let utf16 = |text: &str, mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            let units = text.encode_utf16().flat_map(unit);
            mark.into_iter().chain(units).collect::<Vec<u8>>()
        };
        let colons: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        let numbers = serde_json::to_string(&bytes).unwrap();
        for (form, contents) in [
            ("bytes", bytes.clone()),
            ("hexadecimal", digits.clone().into_bytes()),
            ("hexadecimal, in capitals and lines", digits.to_uppercase().replace("A0", "a0\n").into_bytes()),
            ("0x", format!("0x{digits}\n").into_bytes()),
            ("colons", colons.join(":").into_bytes()),
            ("base64", standard.clone().into_bytes()),
            ("base64 in lines", lines.join("\r\n").into_bytes()),
            ("base64 without padding", standard.trim_end_matches('=').as_bytes().to_vec()),
            ("base64url", url.clone().into_bytes()),
            ("base64url without padding", url.trim_end_matches('=').as_bytes().to_vec()),
            ("a byte order mark", format!("\u{feff}{standard}").into_bytes()),
            ("UTF-16, little end first", utf16(&standard, [0xff, 0xfe], u16::to_le_bytes)),
            ("UTF-16, big end first", utf16(&digits, [0xfe, 0xff], u16::to_be_bytes)),
            ("PEM", format!("-----BEGIN X Y-----\n{}\n-----END X Y-----\n\n", lines.join("\n")).into_bytes()),
            ("data URI", format!("data:application/cbor;base64,{standard}").into_bytes()),
            ("escaped data URI", format!("data:;base64,{}", standard.replace('+', "%2B")).into_bytes()),
            ("a JSON string", format!("\"{standard}\"").into_bytes()),
            ("a JSON member", format!("{{\"id\": 7, \"a\": {{\"document\": \"{url}\"}}}}").into_bytes()),
            ("a JSON member twice", format!("{{\"a\": \"{url}\", \"b\": \"{digits}\"}}").into_bytes()),
            (
                "JSON in JSON",
                format!("{{\"body\": \"{{\\\"document\\\": \\\"{digits}\\\"}}\"}}").into_bytes(),
            ),
            ("numbers", numbers.clone().into_bytes()),
            ("numbers in an object", format!("{{\"type\": \"Buffer\", \"data\": {numbers}}}").into_bytes()),
        ] {
            assert_eq!(document(contents).as_ref(), Ok(&bytes), "{form}");
        }
    }

    #[test]
    fn what_begins_like_a_document_is_the_verifiers_to_judge() {
        for bytes in
            [&b"\x84"[..], b"\xd2\x84\xff", b"\x84\x44\xa1", b"\x98\x04\xff", b"\x9f\xff", b"\xd8\x3d\xd2"]
        {
            assert_eq!(document(bytes.to_vec()).as_deref(), Ok(bytes));
        }
    }

    /// Files come from strangers. Whatever is in them, reading ends, and what it gives begins like a document.
    #[test]
    fn no_contents_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let starts =
            ["", "0x", "data:;base64,", "-----BEGIN X-----\n", "{\"a\": \"", "[", "\u{feff}", "\u{e9}"];
        for round in 0..20_000 {
            let start = starts[round % starts.len()].as_bytes();
            let alphabet: &[u8] = match round % 3 {
                0 => b"0123456789abcdefABCDEF: \n",
                1 => b"hE84ABC+/-_=\"[]{},\\- \n",
                _ => &[],
            };
            let length = (next() % 400) as usize;
            let body = (0..length).map(|_| match alphabet {
                [] => next() as u8,
                some => some[next() as usize % some.len()],
            });
            let contents: Vec<u8> = start.iter().copied().chain(body).collect();
            if let Ok(bytes) = document(contents) {
                assert!(begins_like_a_document(&bytes));
            }
        }
        let deep = "[".repeat(1 << 20);
        assert!(document(deep.into_bytes()).is_err());
    }

    #[test]
    fn what_is_not_understood_is_told_as_what_it_is() {
        let other = sample().iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
        let two =
            format!("[\"{}\", \"{}\"]", hex::encode(sample()), hex::encode([sample(), vec![0]].concat()));
        let (standard, whole) = (general_purpose::STANDARD, hex::encode(sample()));
        for (contents, expected) in [
            (b"".to_vec(), NotUnderstood::Nothing),
            (b" \n".to_vec(), NotUnderstood::Nothing),
            (b"hello, world!".to_vec(), NotUnderstood::Text),
            (b"\x7fELF\xff".to_vec(), NotUnderstood::Bytes { first: 0x7f }),
            (
                hex::encode(&other).into_bytes(),
                NotUnderstood::Decoded { form: "hexadecimal", first: Some(0x85) },
            ),
            (
                standard.encode(&other).into_bytes(),
                NotUnderstood::Decoded { form: "base64", first: Some(0x85) },
            ),
            (b"{\"a\": 1}".to_vec(), NotUnderstood::NoMember),
            (b"{\"a\": \"hEShATgioA==\"}".to_vec(), NotUnderstood::NoMember),
            (two.into_bytes(), NotUnderstood::Members(2)),
            (b"{\"a\": ".to_vec(), NotUnderstood::Text),
            (b"-----BEGIN X-----\nhEShATgioA==\n".to_vec(), NotUnderstood::Pem),
            (format!("-----BEGIN X-----\n{whole}\n-----END X-----\nmore").into_bytes(), NotUnderstood::Pem),
            (format!("data:text/plain,{whole}").into_bytes(), NotUnderstood::DataUri),
        ] {
            let found = document(contents.clone());
            assert_eq!(found, Err(expected), "{}", String::from_utf8_lossy(&contents));
        }
    }
}
