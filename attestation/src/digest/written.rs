//! Digests as people and other tools write them.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{DigestError, Sha256Digest, Sha384Digest};

/// A digest that can be read from any form in which it is commonly written.
pub(crate) trait Written: Sized {
    /// See [`Sha256Digest::from_written`].
    fn from_written(text: &str) -> Result<Self, DigestError>;
}

impl Written for Sha256Digest {
    fn from_written(text: &str) -> Result<Self, DigestError> {
        decode(text, "sha256").map(Self::from_bytes)
    }
}

impl Written for Sha384Digest {
    fn from_written(text: &str) -> Result<Self, DigestError> {
        decode(text, "sha384").map(Self::from_bytes)
    }
}

/// Hexadecimal in either case, with or without `0x`, with or without a colon or space after each byte; or base64 of either
/// alphabet, with or without padding. The algorithm may stand in front, with a colon or hyphen.
///
/// A text of hexadecimal digits alone is never taken for base64: 64 of them are a SHA-256, although they are also base64 of
/// 48 bytes.
fn decode<const N: usize>(text: &str, algorithm: &str) -> Result<[u8; N], DigestError> {
    let refused = || DigestError::Written { expected: N, given: describe(text) };
    let digits = without_algorithm(text.trim(), algorithm);
    let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(digits);
    let whole = ungrouped(digits);
    let digits = whole.as_deref().unwrap_or(digits);
    let bytes = if is_hexadecimal(digits) { hex::decode(digits).ok() } else { base64(digits) };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(refused)
}

fn without_algorithm<'t>(text: &'t str, algorithm: &str) -> &'t str {
    match text.split_at_checked(algorithm.len()) {
        Some((name, rest)) if name.eq_ignore_ascii_case(algorithm) => {
            rest.strip_prefix([':', '-']).unwrap_or(text)
        }
        _ => text,
    }
}

/// The digits of `aa:bb:cc` or `aa bb cc` without what is between them.
fn ungrouped(text: &str) -> Option<String> {
    let separator = text.chars().find(|character| matches!(character, ':' | ' '))?;
    let groups: Vec<&str> = text.split(separator).collect();
    groups.iter().all(|group| group.len() == 2 && is_hexadecimal(group)).then(|| groups.concat())
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let engine = |alphabet: &Alphabet| {
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        GeneralPurpose::new(alphabet, config)
    };
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine(alphabet).decode(text).ok()
}

/// What came instead of a digest, for people. Nothing of it is repeated but what it is.
fn describe(text: &str) -> String {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let count = digits.chars().count();
    match digits {
        "" => "nothing".to_owned(),
        _ if text.starts_with("arn:") => {
            "a role's ARN; `cleanroom measure --role` computes its register".to_owned()
        }
        _ if text.starts_with("i-") => {
            "an instance id; `cleanroom measure --instance` computes its register".to_owned()
        }
        _ if text.starts_with("-----BEGIN") => "a PEM block".to_owned(),
        _ if is_hexadecimal(digits) => {
            let of = match count {
                64 => " (a SHA-256 has as many)",
                96 => " (a SHA-384 has as many)",
                _ => "",
            };
            format!("{count} hexadecimal digits{of}")
        }
        _ => format!("{count} characters that are neither"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 48] = {
        let mut bytes = [0; 48];
        let mut index = 0;
        while index < bytes.len() {
            // Both alphabets of base64 differ for these bytes.
            bytes[index] = 0xff - index as u8;
            index += 1;
        }
        bytes
    };

    #[test]
    fn every_common_form_is_the_same_digest() {
        let digits = hex::encode(BYTES);
        let grouped = |separator: &str| BYTES.map(|byte| format!("{byte:02X}")).join(separator);
        let standard = base64::engine::general_purpose::STANDARD.encode(BYTES);
        let url = standard.replace('+', "-").replace('/', "_");
        assert_ne!(standard, url);
        for text in [
            digits.clone(),
            digits.to_uppercase(),
            format!("0x{digits}"),
            format!("0X{digits}"),
            format!("  {digits}\n"),
            format!("sha384:{digits}"),
            format!("SHA384:{digits}"),
            format!("sha384-{standard}"),
            grouped(":"),
            grouped(" "),
            standard,
            url,
        ] {
            assert_eq!(Sha384Digest::from_written(&text), Ok(Sha384Digest::from_bytes(BYTES)), "{text}");
        }
        // 32 bytes have padding in base64, which may be left out.
        let short: [u8; 32] = *BYTES.first_chunk().unwrap();
        let padded = base64::engine::general_purpose::STANDARD.encode(short);
        for text in [padded.clone(), padded.trim_end_matches('=').to_owned()] {
            assert_eq!(Sha256Digest::from_written(&text), Ok(Sha256Digest::from_bytes(short)), "{text}");
        }
    }

    #[test]
    fn what_could_be_another_digest_is_refused() {
        // 64 hexadecimal digits are base64 of 48 bytes as well, and a SHA-256 in the wrong place.
        let sha256 = "fd718ca7a75c04f1ccbe25c1393590ed864b9f1e6a16bb07552e07c328c7bac0";
        let error = Sha384Digest::from_written(sha256).unwrap_err().to_string();
        assert!(error.contains("96 hexadecimal digits (48 bytes"), "{error}");
        assert!(error.ends_with("got 64 hexadecimal digits (a SHA-256 has as many)"), "{error}");
        assert!(Sha384Digest::from_written(&format!("sha256:{}", "0".repeat(96))).is_err());
    }

    #[test]
    fn lengths_are_told_of_what_was_given() {
        let given = |text: &str| {
            let error = Sha384Digest::from_written(text).unwrap_err().to_string();
            error.split_once("got ").unwrap().1.to_owned()
        };
        assert_eq!(given(""), "nothing");
        assert_eq!(given(&"a".repeat(95)), "95 hexadecimal digits");
        assert_eq!(given(&format!("0x{}", "a".repeat(98))), "98 hexadecimal digits");
        assert_eq!(given("not a digest!"), "13 characters that are neither");
        assert!(given("i-0abc0abc0abc0abc0").contains("cleanroom measure --instance"));
        assert!(given("arn:aws:iam::1:role/x").contains("cleanroom measure --role"));
        assert_eq!(given("-----BEGIN CERTIFICATE-----"), "a PEM block");
        assert_eq!(given("aa:bb:c"), "7 characters that are neither");
    }
}
