//! What a lease service counts, in the Prometheus text format. Nothing about partners or requests' content.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use cleanroom_attestation::release::UnixMillis;
use serde_json::Value;

/// Answers so far.
#[derive(Default)]
pub(crate) struct Metrics {
    /// By endpoint and result; results are codes of this program.
    answers: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Metrics {
    pub(crate) fn count(&self, endpoint: &'static str, result: &'static str) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((endpoint, result)).or_default() += 1;
    }

    /// The page that Prometheus reads. `status` is what `status::summary` says.
    pub(crate) fn page(&self, status: &Value) -> String {
        let mut page = String::new();
        let mut gauge = |name: &str, help: &str, value: u64| {
            let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
        };
        let usable = u64::from(status["leases"] == "granted");
        gauge(
            "cleanroom_authority_leases_granted",
            "1 while an up-to-date enclave would get a lease.",
            usable,
        );
        gauge(
            "cleanroom_authority_root_version",
            "Version of the root.",
            status["root"]["version"].as_u64().unwrap_or(0),
        );
        let release = status["release"]["version"].as_u64().unwrap_or(0);
        gauge("cleanroom_authority_release_version", "Version of the release.", release);
        let denials = status["denials_in_force"].as_array().map_or(0, |denials| denials.len() as u64);
        gauge("cleanroom_authority_denials_in_force", "Denials that the release does not lift.", denials);
        for what in ["root", "release"] {
            let expires = status[what]["expires"].as_str().and_then(|time| time.parse().ok());
            let UnixMillis(millis) = expires.unwrap_or(UnixMillis(0));
            let name = format!("cleanroom_authority_{what}_expiry_seconds");
            gauge(&name, "Unix time at which it expires.", millis / 1000);
        }
        page += "# HELP cleanroom_authority_answers_total Answers by endpoint and result.\n";
        page += "# TYPE cleanroom_authority_answers_total counter\n";
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        for ((endpoint, result), count) in answers.iter() {
            let labels = format!("endpoint=\"{endpoint}\",result=\"{result}\"");
            let _ = writeln!(page, "cleanroom_authority_answers_total{{{labels}}} {count}");
        }
        page
    }
}
