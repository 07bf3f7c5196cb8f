//! Distinguished names (RFC 5280 section 4.1.2.4): comparison is by bytes elsewhere; here they become text.

use core::fmt::Write as _;

use super::der::{Malformed, Reader, tag};

/// `id-at`, the arc of the attribute types (RFC 5280 appendix A.1), without its last number.
const ATTRIBUTE: [u8; 2] = [0x55, 0x04];
const COMMON_NAME: u8 = 3;

/// The common name, if there is exactly one and it is UTF-8.
pub(super) fn common_name(name: &[u8]) -> Option<&str> {
    let mut found = None;
    for attribute in attributes(name).ok()? {
        if attribute.id.strip_prefix(&ATTRIBUTE) == Some(&[COMMON_NAME])
            && found.replace(attribute.value).is_some()
        {
            return None;
        }
    }
    core::str::from_utf8(found?).ok()
}

/// The name for people: attributes in their order, `C=US, O=Amazon`. Control characters are escaped.
pub(crate) fn text(name: &[u8]) -> String {
    let Ok(attributes) = attributes(name) else { return format!("(malformed) {}", hex::encode(name)) };
    let mut text = String::new();
    for attribute in attributes {
        if !text.is_empty() {
            text.push_str(", ");
        }
        let kind = match attribute.id.strip_prefix(&ATTRIBUTE) {
            Some([COMMON_NAME]) => "CN".to_owned(),
            Some([6]) => "C".to_owned(),
            Some([7]) => "L".to_owned(),
            Some([8]) => "ST".to_owned(),
            Some([10]) => "O".to_owned(),
            Some([11]) => "OU".to_owned(),
            _ => dotted(attribute.id),
        };
        let value = String::from_utf8_lossy(attribute.value);
        // Writing to a string does not fail.
        let _ = write!(text, "{kind}={}", value.escape_debug());
    }
    text
}

/// An object identifier in dotted decimal; in hexadecimal when it is malformed.
pub(super) fn dotted(id: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number: u64 = 0;
    for byte in id {
        if number >> 57 != 0 {
            return hex::encode(id);
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let root = (number / 40).min(2);
                numbers.push(root);
                number -= root * 40;
            }
            numbers.push(number);
            number = 0;
        }
    }
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

struct Attribute<'a> {
    id: &'a [u8],
    value: &'a [u8],
}

fn attributes(name: &[u8]) -> Result<Vec<Attribute<'_>>, Malformed> {
    let mut outer = Reader::new(name);
    let mut sets = outer.sequence()?;
    let mut attributes = Vec::new();
    while !sets.is_empty() {
        let mut set = Reader::new(sets.expect(tag::SET)?);
        while !set.is_empty() {
            let mut pair = set.sequence()?;
            let id = pair.expect(tag::OBJECT_IDENTIFIER)?;
            let (tag::UTF8_STRING | tag::PRINTABLE_STRING | tag::IA5_STRING, value) = pair.any()? else {
                return Err(Malformed);
            };
            pair.finish()?;
            attributes.push(Attribute { id, value });
        }
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(attributes: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
        let element = |tag: u8, contents: &[u8]| {
            let length = u8::try_from(contents.len()).unwrap();
            assert!(length < 0x80);
            [&[tag, length], contents].concat()
        };
        let sets: Vec<u8> = attributes
            .iter()
            .flat_map(|(id, form, value)| {
                let pair = [element(tag::OBJECT_IDENTIFIER, id), element(*form, value)].concat();
                element(tag::SET, &element(tag::SEQUENCE, &pair))
            })
            .collect();
        element(tag::SEQUENCE, &sets)
    }

    const CN: &[u8] = &[0x55, 4, 3];

    #[test]
    fn common_name_is_the_only_one() {
        let other: (&[u8], u8, &[u8]) = (&[0x55, 4, 10], tag::UTF8_STRING, b"Amazon");
        let first: (&[u8], u8, &[u8]) = (CN, tag::UTF8_STRING, b"one");
        assert_eq!(common_name(&name(&[other, first])), Some("one"));
        assert_eq!(common_name(&name(&[other])), None);
        assert_eq!(common_name(&name(&[first, first])), None);
        assert_eq!(common_name(&name(&[(CN, tag::UTF8_STRING, b"\xff")])), None);
        assert_eq!(common_name(&name(&[(CN, tag::OCTET_STRING, b"one")])), None);
        assert_eq!(common_name(b"\x30\x05"), None);
    }

    #[test]
    fn text_is_readable_and_harmless() {
        let country: (&[u8], u8, &[u8]) = (&[0x55, 4, 6], tag::PRINTABLE_STRING, b"US");
        let rest: [(&[u8], u8, &[u8]); 6] = [
            (&[0x55, 4, 8], tag::UTF8_STRING, b"WA"),
            (&[0x55, 4, 7], tag::UTF8_STRING, b"Seattle"),
            (&[0x55, 4, 10], tag::UTF8_STRING, b"Amazon"),
            (&[0x55, 4, 11], tag::UTF8_STRING, b"AWS"),
            (&[0x2a, 0x86, 0x48, 0x01], tag::IA5_STRING, b"x"),
            (CN, tag::UTF8_STRING, b"a\x1b[2J"),
        ];
        assert_eq!(text(&name(&[country])), "C=US");
        assert_eq!(text(&name(&rest)), "ST=WA, L=Seattle, O=Amazon, OU=AWS, 1.2.840.1=x, CN=a\\u{1b}[2J");
        assert_eq!(text(b"\x31\x00"), "(malformed) 3100");
    }

    #[test]
    fn object_identifiers() {
        assert_eq!(dotted(&[0x55, 0x1d, 0x1e]), "2.5.29.30");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03]), "1.2.840.10045.4.3.3");
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
        assert_eq!(dotted(&[0x09]), "0.9");
        assert_eq!(dotted(&[0xff; 12]), "ff".repeat(12));
    }
}
