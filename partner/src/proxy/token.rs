//! The word that clients must know when the proxy listens where others can connect.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_program::file::{SecretError, read_secret};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::outcome::{Failure, usage};

/// Where Anthropic's clients put an API key.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The shortest and the longest token, in characters.
const LENGTH: (usize, usize) = (16, 1024);

/// What each client must send as its API key. Only its digest is kept. Clones are the same token.
#[derive(Clone)]
pub struct Token(Arc<RwLock<Sha256Digest>>);

impl Token {
    /// Reads a token from a file that its owner alone can read.
    ///
    /// # Errors
    /// [`Failure`] names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let (shortest, longest) = LENGTH;
        // The end of the line is no part of it.
        let text = read_secret(path, longest + 2).map_err(|error| match error {
            SecretError::File(error) => Failure::unreadable(path, &error.source),
            SecretError::Exposed { .. } => usage("token-exposed", error.to_string()),
            SecretError::TooLarge { .. } => usage("token", error.to_string()),
        })?;
        let token = text.strip_suffix(b"\n").unwrap_or(&text);
        let token = token.strip_suffix(b"\r").unwrap_or(token);
        if !(shortest..=longest).contains(&token.len()) || !token.iter().all(u8::is_ascii_graphic) {
            let message = format!(
                "{}: expected one line of {shortest} to {longest} visible characters without spaces, such as \
                 `openssl rand -hex 32` prints",
                path.display()
            );
            return Err(usage("token", message));
        }
        Ok(Self(Arc::new(RwLock::new(Sha256Digest::of(&[token])))))
    }

    /// From now on this token counts, and the one that was there does not. Gives whether they differ.
    pub fn replace(&self, other: &Self) -> bool {
        let other = other.digest();
        let mut own = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *own, other) != other
    }

    fn digest(&self) -> Sha256Digest {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request has it, as `Authorization: Bearer` or `X-Api-Key`.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked(b"bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
        });
        let expected = self.digest();
        let keys = headers.get_all(API_KEY).iter().map(http::HeaderValue::as_bytes);
        // Digests are of one length, so the comparison tells nothing about the token, its length included.
        bearers.chain(keys).any(|given| {
            let given = Sha256Digest::of(&[given]);
            verify_slices_are_equal(given.as_bytes(), expected.as_bytes()).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read(text: &str, mode: u32) -> Result<Token, &'static str> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Token::read(&path).map_err(|failure| failure.code)
    }

    #[test]
    fn a_token_is_one_long_word_of_its_owner() {
        for text in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            assert!(read(text, 0o600).is_ok(), "{text:?}");
        }
        assert_eq!(read("0123456789abcdef", 0o644).err(), Some("token-exposed"));
        assert_eq!(read("0123456789abcdef", 0o640).err(), Some("token-exposed"));
        for text in
            ["", "\n", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\n\n", &"x".repeat(1025)]
        {
            assert_eq!(read(text, 0o600).err(), Some("token"), "{text:?}");
        }
        assert_eq!(
            Token::read(Path::new("/nowhere/token")).err().map(|failure| failure.code),
            Some("unreadable")
        );
    }

    #[test]
    fn a_token_that_was_replaced_counts_no_more() {
        let [token, other] = ["0123456789abcdef", "fedcba9876543210"].map(|text| read(text, 0o600).unwrap());
        let of_proxy = token.clone();
        assert!(token.replace(&other) && !token.replace(&other));
        let has = |word: &'static str| {
            let value = http::HeaderValue::from_static(word);
            of_proxy.is_in(&HeaderMap::from_iter([(API_KEY, value)]))
        };
        assert!(has("fedcba9876543210") && !has("0123456789abcdef"));
    }

    #[test]
    fn either_header_may_have_it_and_nothing_else_does() {
        let token = read("0123456789abcdef\n", 0o600).unwrap();
        let has = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            token.is_in(&headers)
        };
        assert!(has("authorization", "Bearer 0123456789abcdef"));
        assert!(has("authorization", "bearer 0123456789abcdef"));
        assert!(has("x-api-key", "0123456789abcdef"));
        assert!(!token.is_in(&HeaderMap::new()));
        for (name, value) in [
            ("authorization", "0123456789abcdef"),
            ("authorization", "Basic 0123456789abcdef"),
            ("authorization", "Bearer 0123456789abcdeg"),
            ("authorization", "Bearer 0123456789abcdef0"),
            ("authorization", "Bearer 0123456789abcde"),
            ("authorization", "Bearer "),
            ("authorization", ""),
            ("x-api-key", ""),
            ("cookie", "0123456789abcdef"),
        ] {
            assert!(!has(name, value), "{name}: {value}");
        }
    }
}
