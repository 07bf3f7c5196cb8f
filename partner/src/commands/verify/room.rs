//! The verdict on a clean room that answers at an address.

use std::time::Duration;

use cleanroom_attestation::channel::{ALPN, ModelId};
use cleanroom_attestation::verdict::Verdict;
use cleanroom_channel::tls::Established;
use serde::Serialize;

use super::page::{outcome, page};
use crate::address::Address;
use crate::channel::{Refused, RelyingParty};
use crate::commands::party::{no_session, runtime};
use crate::dial::Dialer;
use crate::outcome::{Failure, Outcome};
use crate::output::{Mark, Page, Terminal, printable};
use crate::permission::Permitted;
use crate::session;

#[derive(Serialize)]
struct Report<'a> {
    address: String,
    model: &'a str,
    accepted: bool,
    /// The code of the first reason against a session.
    code: Option<&'static str>,
    cipher_suite: String,
    group: String,
    partner_leaf_sha384: String,
    enclave_leaf_sha384: String,
    /// What the authorities permit; absent when the policy pins no release root or something of it does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<&'a Permitted>,
    verdict: &'a Verdict,
}

/// Sets up an attested session, up to the point where data could be sent, and reports what was proven.
pub(super) fn run(
    address: &Address,
    dialer: &Dialer,
    party: &RelyingParty,
    model: &ModelId,
    terminal: &mut Terminal,
) -> Result<Outcome, Failure> {
    let appraised =
        runtime()?.block_on(session::appraise(party, dialer)).map_err(|error| no_session(&error))?;
    let (verdict, established) = (appraised.verdict(), appraised.established());
    let accepted = appraised.accepted();
    let report = Report {
        address: address.to_string(),
        model: model.as_str(),
        accepted: accepted.is_ok(),
        code: accepted.as_ref().err().map(Refused::code),
        cipher_suite: format!("{:#06x}", established.cipher_suite),
        group: format!("{:#06x}", established.group),
        partner_leaf_sha384: established.partner_leaf.to_string(),
        enclave_leaf_sha384: established.enclave_leaf.to_string(),
        release: appraised.permitted().and_then(|permitted| permitted.as_ref().ok()),
        verdict,
    };
    let mut page = page(verdict);
    if let Some(permitted) = appraised.permitted() {
        terms(&mut page, permitted);
    }
    channel(&mut page, established, accepted.as_ref().err());
    terminal.report(&report, &page)?;
    Ok(if accepted.is_ok() { outcome(verdict) } else { Outcome::Refused })
}

/// Release, lease and partner, with the time that is left for each.
fn terms(page: &mut Page, permitted: &Result<Permitted, Refused>) {
    let left = |seconds| format!("{} left", humantime::format_duration(Duration::from_secs(seconds)));
    match permitted {
        Err(refused) => {
            page.heading("release, lease, partner");
            page.check(Mark::Fail, refused.code(), printable(&refused.to_string()));
        }
        Ok(permitted) => {
            page.heading("release");
            let release = format!("version {} of {}", permitted.release_version, permitted.room);
            page.check(Mark::Ok, release, left(permitted.release_seconds_left));
            page.heading("lease");
            page.check(Mark::Ok, "signed for this enclave", left(permitted.lease_seconds_left));
            page.heading("partner");
            page.check(Mark::Ok, permitted.partner.as_str(), left(permitted.partner_seconds_left));
        }
    }
}

fn channel(page: &mut Page, established: &Established, refused: Option<&Refused>) {
    page.heading("channel");
    page.check(
        Mark::Ok,
        "TLS 1.3",
        format!("cipher suite {:#06x}, mutual certificates", established.cipher_suite),
    );
    page.check(Mark::Ok, "key exchange", format!("X25519MLKEM768 ({:#06x})", established.group));
    page.check(Mark::Ok, "protocol", String::from_utf8_lossy(ALPN));
    match refused {
        None => {
            page.check(Mark::Ok, "session", "the evidence is of this connection; the receipt key signed it");
        }
        Some(refused) => page.check(Mark::Fail, "session", format!("{}\n{refused}", refused.code())),
    }
    page.note("Nothing but the challenge was sent.");
}
