//! SHA-256 and SHA-384 digests as types, so that the two never mix and neither is ever a bare byte vector.

mod written;

use core::fmt;
use core::str::FromStr;

pub(crate) use self::written::Written;

use crate::crypto::backend::digest as backend;

macro_rules! digest_type {
    ($name:ident, $hasher:ident, $bytes:literal, $algorithm:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The digest's length in bytes.
            pub const LENGTH: usize = $bytes;

            /// The digest of the concatenation of `parts`. The caller makes the concatenation unambiguous.
            #[must_use]
            pub fn of(parts: &[&[u8]]) -> Self {
                let mut hasher = $hasher::new();
                for part in parts {
                    hasher.update(part);
                }
                hasher.finish()
            }

            /// A digest that was computed elsewhere.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The digest's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Reads a digest as people and other tools write it. Hexadecimal may be in either case, start
            /// with `0x` or the algorithm's name, and have colons or spaces between bytes. Base64 may use
            /// either alphabet. For files and options that people write. What programs write and sign has one
            /// form, which `parse` reads.
            ///
            /// # Errors
            ///
            /// [`DigestError::Written`] when the text is anything else, or could be the digest of another algorithm.
            pub fn from_written(text: &str) -> Result<Self, DigestError> {
                Written::from_written(text)
            }

            /// Whether every byte is zero, which no hash of anything known is. A register that measured nothing is zero,
            /// so what zero means depends on the register.
            #[must_use]
            pub fn is_zero(&self) -> bool {
                self.0.iter().all(|byte| *byte == 0)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = DigestError;

            fn try_from(bytes: &[u8]) -> Result<Self, DigestError> {
                let array = bytes
                    .try_into()
                    .map_err(|_| DigestError::Length { expected: $bytes, actual: bytes.len() })?;
                Ok(Self(array))
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                let mut bytes = [0; $bytes];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) if text.len() == $bytes * 2 => Err(DigestError::Hexadecimal),
                    Err(_) => Err(DigestError::Digits { expected: $bytes * 2, actual: text.chars().count() }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; $bytes * 2];
                hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
                formatter.write_str(core::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{self}")
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[doc = concat!("Computes a [`", stringify!($name), "`] piece by piece.")]
        #[derive(Clone)]
        pub struct $hasher(backend::Context);

        impl $hasher {
            /// Nothing hashed yet.
            #[must_use]
            pub fn new() -> Self {
                Self(backend::Context::new(&backend::$algorithm))
            }

            /// Appends `bytes`.
            pub fn update(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }

            /// The digest of all that was appended.
            #[must_use]
            pub fn finish(self) -> $name {
                let digest = self.0.finish();
                let mut bytes = [0; $bytes];
                bytes.copy_from_slice(digest.as_ref());
                $name(bytes)
            }
        }

        impl Default for $hasher {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}

digest_type!(
    Sha256Digest,
    Sha256,
    32,
    SHA256,
    "A SHA-256 digest (FIPS 180-4), 32 bytes; lower-case hexadecimal as text."
);
digest_type!(
    Sha384Digest,
    Sha384,
    48,
    SHA384,
    "A SHA-384 digest (FIPS 180-4), 48 bytes; lower-case hexadecimal as text."
);

/// Why some text or bytes are not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The digest has another length than its algorithm gives.
    #[error("expected a digest of {expected} bytes, got {actual}")]
    Length {
        /// Bytes that the algorithm gives.
        expected: usize,
        /// Bytes that came.
        actual: usize,
    },
    /// The text has another length than the digest's hexadecimal digits.
    #[error("expected {expected} hexadecimal digits, got {actual} characters")]
    Digits {
        /// Digits that the algorithm gives.
        expected: usize,
        /// Characters that came.
        actual: usize,
    },
    /// The text is not hexadecimal.
    #[error("expected hexadecimal digits, got something else")]
    Hexadecimal,
    /// The text is in none of the forms that people and other tools write.
    #[error(
        "expected {} hexadecimal digits ({expected} bytes, also with 0x or colons) or base64 of them, got {given}",
        expected * 2
    )]
    Written {
        /// Bytes that the algorithm gives.
        expected: usize,
        /// A description of the value that came.
        given: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // FIPS 180-4 examples for the message "abc".
        assert_eq!(
            Sha256Digest::of(&[b"a", b"bc"]).to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            Sha384Digest::of(&[b"abc"]).to_string(),
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
        );
    }

    #[test]
    fn text_must_be_whole() {
        assert_eq!("00".parse::<Sha256Digest>(), Err(DigestError::Digits { expected: 64, actual: 2 }));
        let prefixed = format!("0x{}", "0".repeat(64));
        assert_eq!(prefixed.parse::<Sha256Digest>(), Err(DigestError::Digits { expected: 64, actual: 66 }));
        assert_eq!("zz".repeat(32).parse::<Sha256Digest>(), Err(DigestError::Hexadecimal));
        let digest = Sha256Digest::of(&[b"x"]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}
