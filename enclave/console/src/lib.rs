//! The lines that an enclave's console may show: a closed list, in types.
//!
//! An enclave's console belongs to the host, so nothing of a prompt, an answer, a key or the weights may ever be on it. No
//! crate of the enclave writes text there. Each says a [`Line`], whose values are numbers, digests, names from signed or
//! measured documents, and codes. `docs/observability.md` lists all lines.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::Id;

/// The longest code and the longest reason of an end, in bytes.
const CODE_MAX: usize = 128;
const REASON_MAX: usize = 512;

/// One line of the console.
pub enum Line<'a> {
    /// The weights are sealed, and no key is there.
    Sealed,
    /// A broker's share of the key was taken.
    ShareTaken {
        /// Whose share it is.
        broker: &'a Id,
        /// How many more are needed.
        still_needed: usize,
    },
    /// The shares make the key of the weights.
    KeyThere,
    /// The host asked the enclave to end before the key was there.
    EndedWithoutKey,
    /// The host's store of the model does not answer as a store does.
    StoreUnusable {
        /// What happened to the connection.
        reason: io::ErrorKind,
    },
    /// A range of the model did not arrive, or is not what it should be.
    RangeAskedAgain {
        /// How often it has failed.
        failures: u32,
    },
    /// The model is ready.
    ModelLoaded {
        /// Its name.
        model: &'a ModelId,
        /// Its identity.
        digest: &'a Sha256Digest,
    },
    /// The registers of the security module commit to the model, and are locked.
    Committed,
    /// Partners may connect.
    Serving,
    /// A connection did not become a session.
    ConnectionRefused {
        /// The code of the reason.
        reason: Code<'a>,
    },
    /// The listener has ended.
    ConnectionsClosed {
        /// Connections that were closed since the start, because too many were in their handshake.
        shed: u64,
    },
    /// A document or a question of the host was refused.
    NotAccepted {
        /// What it was.
        what: Code<'a>,
        /// The code of the reason.
        code: Code<'a>,
    },
    /// The host's file of a safeguard policy is none.
    PolicyUnreadable {
        /// The code of the reason.
        reason: Code<'a>,
    },
    /// A broker's part of a day's secret was taken.
    DayTaken {
        /// Whose part it is.
        broker: &'a Id,
    },
    /// A record is opened, and the log has said so.
    RecordOpened {
        /// The record.
        record: &'a Sha256Digest,
    },
    /// A release revokes the model.
    ModelRevoked,
    /// An engine of its own process failed a request.
    EngineFailed {
        /// The code of what it did.
        reason: Code<'a>,
    },
    /// An engine of its own process has ended, and is started again.
    EngineEnded {
        /// The code of how it ended.
        how: Code<'a>,
        /// When it is started again.
        again_after: Duration,
    },
    /// Everything that ran has ended.
    Drained,
    /// The end, and why.
    Halted(&'a dyn Reason),
    /// A panic: where it happened, and nothing of what it was about.
    Defect {
        /// The source file.
        file: &'a str,
        /// The line.
        line: u32,
    },
}

impl Line<'_> {
    /// Puts the line on the console. A console that is gone is no reason to stop.
    pub fn say(&self) {
        let _ = writeln!(io::stderr(), "{self}");
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed => {
                formatter.write_str("the weights are sealed: waiting for the shares of their key")
            }
            Self::ShareTaken { broker, still_needed } => {
                write!(formatter, "a share was taken broker={broker} still_needed={still_needed}")
            }
            Self::KeyThere => formatter.write_str("the key of the weights is there"),
            Self::EndedWithoutKey => {
                formatter.write_str("asked to end before the key of the weights was there")
            }
            Self::StoreUnusable { reason } => {
                write!(formatter, "the model's store cannot be used reason={reason:?}")
            }
            Self::RangeAskedAgain { failures } => {
                write!(formatter, "a range of the model is asked for again failures={failures}")
            }
            Self::ModelLoaded { model, digest } => {
                write!(formatter, "model loaded model={model} digest={digest}")
            }
            Self::Committed => formatter.write_str("commitments made, locked and read back"),
            Self::Serving => formatter.write_str("serving"),
            Self::ConnectionRefused { reason } => write!(formatter, "connection refused reason={reason}"),
            Self::ConnectionsClosed { shed } => write!(formatter, "connections closed shed={shed}"),
            Self::NotAccepted { what, code } => write!(formatter, "not accepted what={what} code={code}"),
            Self::PolicyUnreadable { reason } => {
                write!(formatter, "the safeguard policy cannot be read reason={reason}")
            }
            Self::DayTaken { broker } => write!(formatter, "a secret of the day was taken broker={broker}"),
            Self::RecordOpened { record } => {
                write!(formatter, "a record is opened, and the log says so record={record}")
            }
            Self::ModelRevoked => formatter.write_str("the model is revoked: erasing its weights"),
            Self::EngineFailed { reason } => write!(formatter, "the engine failed a request reason={reason}"),
            Self::EngineEnded { how, again_after } => {
                let milliseconds = again_after.as_millis();
                write!(formatter, "the engine has ended how={how} again_after_ms={milliseconds}")
            }
            Self::Drained => formatter.write_str("drained"),
            Self::Halted(reason) => {
                let text = format!("halted: {reason}");
                let mut length = 0;
                let fits = |each: &char| {
                    length += each.len_utf8();
                    length <= REASON_MAX
                };
                let printable = text.chars().map(|each| if each.is_control() { ' ' } else { each });
                formatter.write_str(&printable.take_while(fits).collect::<String>())
            }
            Self::Defect { file, line } => write!(formatter, "halted: a defect at {file}:{line}"),
        }
    }
}

/// Why an enclave ends. The text of a type with this trait holds nothing that a partner sent.
pub trait Reason: fmt::Display {}

/// A code: letters, digits and `-_.:/`. Other text is not shown.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a>(&'a str);

impl<'a> Code<'a> {
    /// `text` if it is a code, `?` otherwise.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        let is_code = !text.is_empty() && text.len() <= CODE_MAX && text.bytes().all(plain);
        Self(if is_code { text } else { "?" })
    }
}

impl fmt::Display for Code<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ends(String);

    impl fmt::Display for Ends {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(&self.0)
        }
    }

    impl Reason for Ends {}

    /// One line of each kind, with the kind that comes after it. A new kind does not compile before it has a place here.
    fn every(show: &mut dyn FnMut(&Line<'_>)) {
        let (broker, digest) = ("north".parse::<Id>().unwrap(), Sha256Digest::from_bytes([7; 32]));
        let (model, ends) = ("demo".parse::<ModelId>().unwrap(), Ends("the reason".to_owned()));
        let code = Code::of("a-code");
        let mut line = Some(Line::Sealed);
        while let Some(this) = line {
            show(&this);
            line = match this {
                Line::Sealed => Some(Line::ShareTaken { broker: &broker, still_needed: 1 }),
                Line::ShareTaken { .. } => Some(Line::KeyThere),
                Line::KeyThere => Some(Line::EndedWithoutKey),
                Line::EndedWithoutKey => Some(Line::StoreUnusable { reason: io::ErrorKind::TimedOut }),
                Line::StoreUnusable { .. } => Some(Line::RangeAskedAgain { failures: 1 }),
                Line::RangeAskedAgain { .. } => Some(Line::ModelLoaded { model: &model, digest: &digest }),
                Line::ModelLoaded { .. } => Some(Line::Committed),
                Line::Committed => Some(Line::Serving),
                Line::Serving => Some(Line::ConnectionRefused { reason: code }),
                Line::ConnectionRefused { .. } => Some(Line::ConnectionsClosed { shed: 3 }),
                Line::ConnectionsClosed { .. } => Some(Line::NotAccepted { what: code, code }),
                Line::NotAccepted { .. } => Some(Line::PolicyUnreadable { reason: code }),
                Line::PolicyUnreadable { .. } => Some(Line::DayTaken { broker: &broker }),
                Line::DayTaken { .. } => Some(Line::RecordOpened { record: &digest }),
                Line::RecordOpened { .. } => Some(Line::ModelRevoked),
                Line::ModelRevoked => Some(Line::EngineFailed { reason: code }),
                Line::EngineFailed { .. } => {
                    Some(Line::EngineEnded { how: code, again_after: Duration::from_millis(500) })
                }
                Line::EngineEnded { .. } => Some(Line::Drained),
                Line::Drained => Some(Line::Halted(&ends)),
                Line::Halted(_) => Some(Line::Defect { file: "a.rs", line: 1 }),
                Line::Defect { .. } => None,
            };
        }
    }

    #[test]
    fn every_line_is_one_short_line_of_the_page() {
        let page = include_str!("../../../docs/observability.md");
        every(&mut |line| {
            let text = line.to_string();
            assert!(!text.contains(char::is_control) && text.len() <= REASON_MAX, "{text}");
            // Names of values are in the page, and values are not.
            let form: Vec<_> =
                text.split(' ').map(|word| word.split_inclusive('=').next().unwrap()).collect();
            let form = match line {
                Line::Halted(_) => "halted: ".to_owned(),
                Line::Defect { .. } => "halted: a defect at ".to_owned(),
                _ => form.join(" "),
            };
            assert!(page.contains(&format!("| `{form}")), "docs/observability.md has no line `{form}`");
        });
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let line = Line::Halted(&Ends(format!("a\n\x1b[31m{}", "ä".repeat(1000)))).to_string();
        assert!(line.starts_with("halted: a  [31mä"), "{line}");
        assert!(line.len() <= REASON_MAX && !line.contains(char::is_control));
    }

    #[test]
    fn what_is_no_code_is_not_shown() {
        for text in ["", "The grid code of substation 7 is 4711.", "a\nb", &"x".repeat(CODE_MAX + 1)] {
            assert_eq!(Code::of(text).to_string(), "?");
        }
        assert_eq!(Code::of("unproven/no-lease").to_string(), "unproven/no-lease");
    }
}
