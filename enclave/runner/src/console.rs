//! The console, and the measures that keep content off it and out of files.
//!
//! An enclave's console belongs to the parent. So what may appear on it is a closed list, `LINES`, and an event that is not on the list
//! is not shown, whoever reports it. Where a line has values, only the listed ones are shown, and only if they look like a
//! number, a digest or a name.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// A line that the console may show: its words, and the values after them.
struct Line {
    words: &'static str,
    values: &'static [&'static str],
}

/// All of them.
const LINES: &[Line] = &[
    Line { words: "model loaded", values: &["model", "digest"] },
    Line { words: "the model did not arrive whole", values: &["reason"] },
    Line { words: "commitments made, locked and read back", values: &[] },
    Line { words: "serving", values: &[] },
    Line { words: "connection refused", values: &["reason"] },
    Line { words: "connections closed", values: &["shed"] },
    Line { words: "not accepted", values: &["what", "code"] },
    Line { words: "the model is revoked: erasing its weights", values: &[] },
    Line { words: "drained", values: &[] },
];

/// How the last line of an enclave begins. After it comes a [`Halt`](crate::Halt) or another typed reason: none of them holds anything
/// that a partner sent.
const HALTED: &str = "halted: ";

/// The longest value and the longest reason, in bytes.
const VALUE_MAX: usize = 128;
const REASON_MAX: usize = 512;

/// Forbids core dumps and reading this process's memory through `/proc`, keeps panics short, and sends the listed events to standard
/// error.
///
/// # Errors
/// What the kernel answers. An enclave that cannot protect its memory does not start.
pub fn init() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // A panic says where it happened. What it was about could be what it was working on.
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("", 0), |at| (at.file(), at.line()));
        show(&format!("{HALTED}a defect at {file}:{line}"));
    }));
    tracing_subscriber::registry().with(ClosedList { show }).init();
    Ok(())
}

/// A console that is gone is no reason to stop.
fn show(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Passes listed events on, as lines.
struct ClosedList<F> {
    show: F,
}

impl<S: Subscriber, F: Fn(&str) + 'static> Layer<S> for ClosedList<F> {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        if let Some(line) = seen.line() {
            (self.show)(&line);
        }
    }
}

/// What an event says, as text.
#[derive(Default)]
struct Seen {
    words: String,
    values: Vec<(&'static str, String)>,
}

impl Seen {
    /// The line for the console, if there may be one.
    fn line(&self) -> Option<String> {
        if self.words.starts_with(HALTED) {
            let printable = self.words.chars().map(|each| if each.is_control() { ' ' } else { each });
            return Some(printable.take(REASON_MAX).collect());
        }
        let Line { words, values } = LINES.iter().find(|line| line.words == self.words)?;
        let mut line = (*words).to_owned();
        for name in *values {
            if let Some((_, value)) = self.values.iter().find(|(seen, value)| seen == name && is_plain(value))
            {
                // Writing to a string does not fail.
                let _ = write!(line, " {name}={value}");
            }
        }
        Some(line)
    }
}

/// Whether a value looks like a number, a digest or a name.
fn is_plain(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    value.len() <= VALUE_MAX && value.bytes().all(plain)
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.words = text,
            name => self.values.push((name, text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What the console shows of what `report` reports.
    fn shown(report: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let layer = ClosedList { show: move |line: &str| sink.lock().unwrap().push(line.to_owned()) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), report);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn listed_lines_are_shown_with_their_values() {
        let lines = shown(|| {
            tracing::info!(model = %"demo", digest = %"0af3", "model loaded");
            tracing::info!(reason = "timeout", "connection refused");
            tracing::info!(shed = 3, "connections closed");
            tracing::error!("halted: {}", "the reason");
        });
        let expected = [
            "model loaded model=demo digest=0af3",
            "connection refused reason=timeout",
            "connections closed shed=3",
            "halted: the reason",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_not_listed_is_not_shown() {
        let secret = "The grid code of substation 7 is 4711.";
        let lines = shown(|| {
            tracing::error!("{secret}");
            tracing::info!(prompt = secret, "serving");
            tracing::info!(reason = secret, "connection refused");
            tracing::info!(target: "hyper", body = secret, "received");
        });
        assert_eq!(lines, ["serving", "connection refused"]);
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let lines = shown(|| tracing::error!("halted: a\n\x1b[31m{}", "x".repeat(1000)));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].len() <= REASON_MAX && !lines[0].contains(char::is_control));
    }
}
