//! Strings: lengths, patterns and formats.

use super::keywords::Keywords;
use super::{Compiler, SchemaError};
use crate::constraint::grammar::{Builder, StateId};
use crate::constraint::numbers::{digits_up_to, two_digits};
use crate::constraint::pattern::Pattern;

/// Formats that are any text.
const ANY_TEXT: [&str; 6] = ["text", "password", "binary", "path", "file-path", "directory-path"];

/// Formats as patterns. Each describes a part of what the format allows, of a usual length.
const FORMATS: [(&str, &str); 10] = [
    ("email", EMAIL),
    ("idn-email", EMAIL),
    ("hostname", r"^([A-Za-z0-9]{1,32}(-[A-Za-z0-9]{1,16})?\.){1,3}[A-Za-z]{2,12}$"),
    ("ipv4", IPV4),
    ("ipvanyaddress", IPV4),
    ("ipv6", r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$"),
    (
        "uri",
        r"^https?://([A-Za-z0-9]{1,32}(-[A-Za-z0-9]{1,16})?\.){1,3}[A-Za-z]{2,12}(:[1-9]\d{0,3})?(/[A-Za-z0-9._~-]{1,64}){0,6}/?(\?[A-Za-z0-9._~=&-]{1,128})?$",
    ),
    ("duration", r"^P(\d{1,4}D|(\d{1,4}D)?T(\d{1,4}H(\d{1,4}M(\d{1,4}S)?)?|\d{1,4}M(\d{1,4}S)?|\d{1,4}S))$"),
    ("base64", r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    ("base64url", r"^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2}(==)?|[A-Za-z0-9_-]{3}=?)?$"),
];
const EMAIL: &str = r"^[A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,16}){0,2}@([A-Za-z0-9]{1,32}(-[A-Za-z0-9]{1,16})?\.){1,3}[A-Za-z]{2,12}$";
const IPV4: &str = r"^((25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)$";

impl<'a> Compiler<'a> {
    /// A string with these keywords, and then `next`.
    pub(super) fn string(
        &mut self,
        keywords: &mut Keywords<'a>,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        let (least, most) = keywords.counts("minLength", "maxLength")?;
        let free = (least, most) == (0, None);
        let (pattern, format) = (keywords.take("pattern"), keywords.take("format"));
        let format =
            format.map(|format| format.text().ok_or(SchemaError::Value("format", "a string"))).transpose()?;
        let of_format = || FORMATS.iter().find(|(name, _)| format == Some(name)).map(|(_, pattern)| *pattern);
        let pattern = match pattern {
            Some(pattern) => Some(pattern.text().ok_or(SchemaError::Value("pattern", "a string"))?),
            None => of_format(),
        };
        if let Some(pattern) = pattern {
            let pattern = Pattern::parse(pattern)?;
            let (shortest, longest) = pattern.lengths();
            if shortest < least || most.is_some_and(|most| longest.is_none_or(|longest| longest > most)) {
                return Err(SchemaError::Value(
                    "minLength",
                    "as maxLength a length that the pattern or format beside it keeps to",
                ));
            }
            let quote = self.builder.byte(b'"', next)?;
            let text = pattern.states(&mut self.builder, quote)?;
            return self.builder.byte(b'"', text);
        }
        // `text` is the word for no format, as Anthropic's client sends it.
        if let Some(format) = format.filter(|format| !ANY_TEXT.contains(format)) {
            if !free {
                return Err(SchemaError::Value("format", "no minLength and no maxLength beside it"));
            }
            let quote = self.builder.byte(b'"', next)?;
            let text = match Some(format) {
                Some("date") => date(&mut self.builder, quote)?,
                Some("time") => time(&mut self.builder, quote)?,
                Some("date-time") => {
                    let time = time(&mut self.builder, quote)?;
                    let separator = self.builder.byte(b'T', time)?;
                    date(&mut self.builder, separator)?
                }
                Some("uuid") => uuid(&mut self.builder, quote)?,
                _ => {
                    return Err(SchemaError::Value(
                        "format",
                        "date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6, uri, base64 or base64url",
                    ));
                }
            };
            return self.builder.byte(b'"', text);
        }
        if free {
            return self.builder.call(self.string, next);
        }
        let content = self.builder.characters(least, most, next)?;
        self.builder.byte(b'"', content)
    }
}

/// A day that exists in every year (RFC 3339, section 5.6).
fn date(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let mut day = |last| -> Result<StateId, SchemaError> {
        let day = two_digits(builder, 1, last, next)?;
        builder.byte(b'-', day)
    };
    let (short, usual, long) = (day(28)?, day(30)?, day(31)?);
    let digit = |number: u8| b'0' + number;
    let early: Vec<_> = (1..=9)
        .map(|month| {
            let days = match month {
                2 => short,
                4 | 6 | 9 => usual,
                _ => long,
            };
            (digit(month), digit(month), days)
        })
        .collect();
    let early = builder.ranges(&early)?;
    let late = builder.ranges(&[(b'0', b'0', long), (b'1', b'1', usual), (b'2', b'2', long)])?;
    let month = builder.ranges(&[(b'0', b'0', early), (b'1', b'1', late)])?;
    let month = builder.byte(b'-', month)?;
    let mut year = month;
    for _ in 0..3 {
        year = builder.ranges(&[(b'0', b'9', year)])?;
    }
    builder.ranges(&[(b'1', b'9', year)])
}

/// A time with its offset (RFC 3339, section 5.6), without leap seconds.
fn time(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let minutes = two_digits(builder, 0, 59, next)?;
    let colon = builder.byte(b':', minutes)?;
    let hours = two_digits(builder, 0, 23, colon)?;
    let offset = builder.ranges(&[(b'+', b'+', hours), (b'-', b'-', hours), (b'Z', b'Z', next)])?;
    let fraction = digits_up_to(builder, 5, offset)?;
    let fraction = builder.ranges(&[(b'0', b'9', fraction)])?;
    let point = builder.byte(b'.', fraction)?;
    let end = builder.split(vec![offset, point])?;
    let seconds = two_digits(builder, 0, 59, end)?;
    let colon = builder.byte(b':', seconds)?;
    let minutes = two_digits(builder, 0, 59, colon)?;
    let colon = builder.byte(b':', minutes)?;
    two_digits(builder, 0, 23, colon)
}

fn uuid(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let mut state = next;
    for (index, length) in [12, 4, 4, 4, 8].into_iter().enumerate() {
        if index > 0 {
            state = builder.byte(b'-', state)?;
        }
        for _ in 0..length {
            state = builder.ranges(&[(b'0', b'9', state), (b'a', b'f', state)])?;
        }
    }
    Ok(state)
}
