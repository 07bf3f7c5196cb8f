//! The last text of an answer, for classifiers that read windows of it.

use zeroize::Zeroizing;

/// The last characters of a text, at least as many bytes as were asked for, once there are so many. They are
/// erased on drop.
#[derive(Default)]
pub(crate) struct Tail {
    text: Zeroizing<String>,
    longest: usize,
}

impl Tail {
    /// Nothing yet, of which windows of up to `longest` bytes will be wanted.
    pub(crate) fn new(longest: usize) -> Self {
        Self { text: Zeroizing::default(), longest }
    }

    /// The bytes that it takes, at most.
    pub(crate) const fn most_bytes(longest: usize) -> usize {
        2 * longest + 4
    }

    pub(crate) fn push(&mut self, character: char) {
        // It never grows in place, which would leave a copy behind.
        let most = Self::most_bytes(self.longest);
        if self.text.capacity() < most {
            self.text = Zeroizing::new(String::with_capacity(most));
        }
        if self.text.len() + character.len_utf8() > most {
            let gone = self.text.len() - self.last(self.longest).len();
            self.text.drain(..gone);
        }
        self.text.push(character);
    }

    /// The last characters, at most so many bytes.
    pub(crate) fn last(&self, bytes: usize) -> &str {
        let mut start = self.text.len().saturating_sub(bytes);
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        self.text.get(start..).unwrap_or_default()
    }
}
