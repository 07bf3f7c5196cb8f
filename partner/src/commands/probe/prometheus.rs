//! What was found, in Prometheus' text format.

use std::fmt::Write as _;

use super::{Found, State};

/// The metrics of all probes. Each has the probed address as a label.
pub(super) fn text(found: &[Found]) -> String {
    let mut text = String::new();
    family(&mut text, "cleanroom_probe_up", "1 when the clean room is proven, 0 otherwise", found, |found| {
        vec![(String::new(), u8::from(found.state == State::Proven).to_string())]
    });
    family(
        &mut text,
        "cleanroom_probe_result",
        "Always 1: the end of the probe, with the code of the failure and the tier",
        found,
        |found| {
            let code = found.code.as_deref().unwrap_or("proven");
            let tier = found.proven.as_ref().map_or("none", |proven| proven.tier.as_str());
            vec![(format!(",code=\"{}\",tier=\"{tier}\"", escaped(code)), "1".to_owned())]
        },
    );
    family(
        &mut text,
        "cleanroom_probe_duration_seconds",
        "From the first packet to the verdict",
        found,
        |found| vec![(String::new(), format!("{:.6}", found.seconds))],
    );
    family(&mut text, "cleanroom_probe_time_seconds", "When the probe ended, in Unix time", found, |found| {
        let millis = found.time.as_millis();
        vec![(String::new(), format!("{}.{:03}", millis / 1000, millis % 1000))]
    });
    family(
        &mut text,
        "cleanroom_probe_seconds_left",
        "How long it still held when the probe ended: evidence, certificate, lease, release, partner",
        found,
        |found| {
            let left = found.seconds_left().into_iter();
            left.map(|(of, seconds)| (format!(",of=\"{of}\""), seconds.to_string())).collect()
        },
    );
    text
}

/// One metric with its lines: for each probe, further labels and values.
fn family(
    text: &mut String,
    name: &str,
    help: &str,
    found: &[Found],
    lines: impl Fn(&Found) -> Vec<(String, String)>,
) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
    for found in found {
        for (labels, value) in lines(found) {
            let address = escaped(&found.address);
            let _ = writeln!(text, "{name}{{address=\"{address}\"{labels}}} {value}");
        }
    }
}

/// A label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::failed;
    use super::*;

    #[test]
    fn labels_are_escaped_and_a_failure_has_no_times() {
        let mut found = failed(State::Unreachable, "a message is no label");
        found.address = "unix:/a\"b\\c".to_owned();
        let text = text(&[found]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let address = r#"{address="unix:/a\"b\\c""#;
        assert_eq!(
            lines,
            [
                format!("cleanroom_probe_up{address}}} 0"),
                format!("cleanroom_probe_result{address},code=\"other-code\",tier=\"none\"}} 1"),
                format!("cleanroom_probe_duration_seconds{address}}} 0.250000"),
                format!("cleanroom_probe_time_seconds{address}}} 1769860800.500"),
            ]
        );
    }
}
