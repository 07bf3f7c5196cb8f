//! A line of the log that is not repeated at every look.

use std::time::Duration;

use tokio::time::Instant;

/// How often the same complaint is repeated.
const REPEAT: Duration = Duration::from_secs(60);

/// What was complained about last.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Option<(String, Instant)>);

impl Complaint {
    /// Whether `text` is worth a line: it is another than before, or a minute has passed.
    pub(crate) fn is_due(&mut self, text: &str) -> bool {
        let due = self.0.as_ref().is_none_or(|(last, since)| last != text || since.elapsed() >= REPEAT);
        if due {
            self.0 = Some((text.to_owned(), Instant::now()));
        }
        due
    }

    /// All is well again, so the next complaint is new.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}
