//! Text that nothing may print.

use zeroize::Zeroizing;

/// Text of a prompt: UTF-8, exactly as long as needed, no `Debug`, no `Display`, erased on drop.
#[derive(Clone, Default)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// A copy of `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The parts one after the other, with nothing between them.
    #[must_use]
    pub fn concat(parts: &[Self]) -> Self {
        // Reserved at once: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.0.len()).sum()));
        parts.iter().for_each(|part| text.push_str(part.as_str()));
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_with_nothing_between() {
        let parts = [SecretString::new("ab"), SecretString::new(""), SecretString::new("ç")];
        assert_eq!(SecretString::concat(&parts).as_str(), "abç");
    }
}
