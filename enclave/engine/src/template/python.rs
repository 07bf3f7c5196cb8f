//! Python functions that published chat templates expect: `tojson`, which writes as `json.dumps`, and
//! `strftime_now`.

use minijinja::{
    Error, ErrorKind,
    value::{Kwargs, Value, ValueKind},
};

use super::guard::Guard;
use crate::scratch::ScratchText;

/// Levels of lists and mappings that are written.
const MAX_DEPTH: usize = 32;

/// How JSON is written: the arguments of Python's `json.dumps`, with the defaults that Transformers gives it.
struct Style<'g> {
    guard: &'g Guard,
    indent: Option<usize>,
    ascii: bool,
    sorted: bool,
    between: Box<str>,
    after_key: Box<str>,
}

/// The filter `tojson`. No character is escaped for HTML.
pub(super) fn tojson(value: &Value, arguments: &Kwargs, guard: &Guard) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let (between, after_key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([between, after_key]) => (between.as_str(), after_key.as_str()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "expected two separators")),
    };
    let style = Style {
        guard,
        indent,
        ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        between: between.into(),
        after_key: after_key.into(),
    };
    arguments.assert_all_used()?;
    let mut out = ScratchText::default();
    write(value, &style, 0, &mut out)?;
    Ok(Value::from(out.as_str()))
}

fn write(value: &Value, style: &Style<'_>, depth: usize, out: &mut ScratchText) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "too deep for JSON"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => push(&value.to_string(), true, style, out),
        ValueKind::String => write_text(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let elements: Vec<Value> = value.try_iter()?.collect();
            list(('[', ']'), elements.len(), style, depth, out, |index, out| match elements.get(index) {
                Some(element) => write(element, style, depth + 1, out),
                None => Ok(()),
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sorted {
                keys.sort();
            }
            list(('{', '}'), keys.len(), style, depth, out, |index, out| {
                let Some(key) = keys.get(index) else { return Ok(()) };
                match key.as_str() {
                    Some(text) => write_text(text, style, out),
                    None => write_text(&key.to_string(), style, out),
                }
                out.push_str(&style.after_key);
                write(&value.get_item(key)?, style, depth + 1, out)
            })?;
        }
        _ => return Err(Error::new(ErrorKind::InvalidOperation, "this value has no JSON")),
    }
    Ok(())
}

fn list(
    (open, close): (char, char),
    count: usize,
    style: &Style<'_>,
    depth: usize,
    out: &mut ScratchText,
    each: impl Fn(usize, &mut ScratchText) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |depth: usize, out: &mut ScratchText| {
        if let Some(indent) = style.indent {
            out.push('\n');
            (0..indent.min(16) * depth).for_each(|_| out.push(' '));
        }
    };
    out.push(open);
    for index in 0..count {
        if index > 0 {
            out.push_str(&style.between);
        }
        new_line(depth + 1, out);
        each(index, out)?;
    }
    if count > 0 {
        new_line(depth, out);
    }
    out.push(close);
    Ok(())
}

fn write_text(text: &str, style: &Style<'_>, out: &mut ScratchText) {
    out.push('"');
    for character in text.chars() {
        let written = style.guard.restore(character);
        let is_stand_in = written != character;
        match written {
            '"' => push("\\\"", is_stand_in, style, out),
            '\\' => push("\\\\", is_stand_in, style, out),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..' ' => push(&unit(u32::from(written)), is_stand_in, style, out),
            '\u{80}'.. if style.ascii => {
                let mut units = [0; 2];
                let units = written.encode_utf16(&mut units);
                units.iter().for_each(|of| push(&unit(u32::from(*of)), is_stand_in, style, out));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// Appends a text that a character or a number has become. It comes from a message if that does.
fn push(text: &str, is_from_message: bool, style: &Style<'_>, out: &mut ScratchText) {
    for character in text.chars() {
        out.push(if is_from_message { style.guard.stand_in(character) } else { character });
    }
}

/// An escape of four digits.
fn unit(unit: u32) -> String {
    let digits = [12, 8, 4, 0].map(|shift| char::from_digit(unit >> shift & 15, 16).unwrap_or('0'));
    ['\\', 'u'].into_iter().chain(digits).collect()
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const DAY: u64 = 24 * 60 * 60;

/// A moment in UTC as Python's `strftime` writes it; none for a directive that is not one of the usual.
pub(super) fn strftime(format: &str, unix_seconds: u64) -> Option<String> {
    let (days, seconds) = (unix_seconds / DAY, unix_seconds % DAY);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = date(days)?;
    let month_name = MONTHS.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    // The first of January 1970 was a Thursday.
    let day_name = DAYS.get(usize::try_from((days + 4) % 7).ok()?)?;
    let day_of_year = days - days_before(year)? + 1;
    let hour_of_twelve = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = characters.next()?;
        // Without leading zeros, as the C library has it.
        let bare = directive == '-';
        if bare {
            directive = characters.next()?;
        }
        let padded = |number: u64, width: usize| match bare {
            true => number.to_string(),
            false => format!("{number:0width$}"),
        };
        let text = match directive {
            'Y' => year.to_string(),
            'y' => padded(year % 100, 2),
            'm' => padded(month, 2),
            'd' => padded(day, 2),
            'e' => format!("{day:2}"),
            'j' => padded(day_of_year, 3),
            'H' => padded(hour, 2),
            'I' => padded(hour_of_twelve, 2),
            'M' => padded(minute, 2),
            'S' => padded(second, 2),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => (*month_name).to_owned(),
            'b' | 'h' => month_name.get(..3)?.to_owned(),
            'A' => (*day_name).to_owned(),
            'a' => day_name.get(..3)?.to_owned(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        };
        out.push_str(&text);
    }
    Some(out)
}

/// Days from 1 January 1970 to 1 January of `year`, which is 1970 or later.
fn days_before(year: u64) -> Option<u64> {
    let before = year.checked_sub(1)?;
    let leap_days = before / 4 - before / 100 + before / 400;
    (year * 365 + leap_days).checked_sub(1970 * 365 + 477)
}

/// Year, month and day of the day that is `days` after 1 January 1970. Month and day count from 1.
fn date(days: u64) -> Option<(u64, u64, u64)> {
    /// Some ten thousand years.
    const MOST: u64 = 4_000_000;
    if days > MOST {
        return None;
    }
    // A year is never longer than 366 days, and the guess is never too late.
    let mut year = 1970 + days / 366;
    while days_before(year + 1)? <= days {
        year += 1;
    }
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut day = days - days_before(year)?;
    for (month, length) in (1..).zip(lengths) {
        if day < length {
            return Some((year, month, day + 1));
        }
        day -= length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Of `date -u -d @N`.
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 Thu 001"),
            (951_782_400, "2000-02-29 00:00:00 Tue 060"),
            (1_709_164_799, "2024-02-28 23:59:59 Wed 059"),
            (1_735_689_599, "2024-12-31 23:59:59 Tue 366"),
            (1_764_374_400, "2025-11-29 00:00:00 Sat 333"),
            (4_107_542_400, "2100-03-01 00:00:00 Mon 060"),
        ] {
            assert_eq!(strftime("%F %T %a %j", seconds).as_deref(), Some(expected));
        }
        let at = 1_764_374_400 + 13 * 3600 + 5 * 60;
        assert_eq!(strftime("%d %B %Y", at).as_deref(), Some("29 November 2025"));
        assert_eq!(
            strftime("%A, %-d %b %y %I:%M %p %%", at).as_deref(),
            Some("Saturday, 29 Nov 25 01:05 PM %")
        );
        assert_eq!(strftime("%Q", at), None);
        assert_eq!(strftime("%", at), None);
    }
}
