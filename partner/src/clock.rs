//! The one clock that the program judges by.

use std::time::{SystemTime, UNIX_EPOCH};

use cleanroom_attestation::time::Timestamp;

/// Reads a time as people write it: RFC 3339 in UTC or with an offset, or Unix time in seconds, also with a
/// fraction, or in milliseconds when it has 13 digits.
///
/// # Errors
/// A sentence with examples, when the text is anything else or lies before 1970.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    let expected = || {
        "expected a time like 2026-01-31T12:00:00Z, 2026-01-31T13:00:00+01:00 or 1769860800 (Unix time in seconds, or in \
         milliseconds with 13 digits), 1970 or later"
            .to_owned()
    };
    unix(text.trim()).or_else(|| rfc3339(text.trim())).ok_or_else(expected)
}

fn unix(text: &str) -> Option<Timestamp> {
    let text = text.strip_prefix('@').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let number: u64 = whole.parse().ok()?;
    match whole.len() {
        1..=11 => {
            let millis = fraction
                .bytes()
                .chain(*b"000")
                .take(3)
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            Some(Timestamp::from_millis(number.checked_mul(1000)?.checked_add(millis)?))
        }
        13 if !text.contains('.') => Some(Timestamp::from_millis(number)),
        _ => None,
    }
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    if let Ok(time) = Timestamp::from_rfc3339(text) {
        return Some(time);
    }
    // `2026-01-31T13:00:00+01:00` is an hour before 13:00:00Z.
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 23 || minutes > 59 || !local.contains(['T', 't', ' ']) {
        return None;
    }
    let local = Timestamp::from_rfc3339(&format!("{local}Z")).ok()?.as_millis();
    let offset = (hours * 60 + minutes) * 60_000;
    let utc = match sign {
        "+" => local.checked_sub(offset),
        "-" => local.checked_add(offset),
        _ => None,
    };
    utc.map(Timestamp::from_millis)
}

/// The verifier's clock.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let noon = 1_769_860_800_000;
        for text in [
            "2026-01-31T12:00:00Z",
            " 2026-01-31T12:00:00.000Z\n",
            "2026-01-31T13:00:00+01:00",
            "2026-01-31T06:30:00-05:30",
            "2026-02-01T02:00:00+14:00",
            "1769860800",
            "@1769860800",
            "1769860800.0",
            "1769860800000",
        ] {
            assert_eq!(parse(text).map(Timestamp::as_millis), Ok(noon), "{text}");
        }
        assert_eq!(parse("1769860800.4079").map(Timestamp::as_millis), Ok(noon + 407));
        assert_eq!(parse("0").map(Timestamp::as_millis), Ok(0));
        for text in [
            "",
            "now",
            "yesterday",
            "-1",
            "1e9",
            "1769860800000000",
            "176986080000",
            "1769860800000.5",
            "2026-01-31",
            "2026-01-31+01:00",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00+1:00",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+01:60",
            "2026-01-31T12:00:00Z+01:00",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
