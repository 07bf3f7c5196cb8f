//! The verdict on a clean room that answers at an address.

use cleanroom_attestation::channel::{ALPN, ModelId};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::engine::Engine;
use cleanroom_attestation::verdict::Verdict;
use cleanroom_channel::tls::Established;
use serde::Serialize;

use super::ear::{self, EarFile};
use super::listing::{listing, outcome};
use crate::address::Address;
use crate::channel::{Refused, RelyingParty};
use crate::commands::relying_party::{no_session, runtime};
use crate::dial::Dialer;
use crate::outcome::{Failure, Outcome};
use crate::output::{Listing, Mark, Terminal, left, printable};
use crate::permission::{Kept, Permitted, WitnessTerms};
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
    /// The engine that `--engine` names; absent when the evidence does not commit to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<ShownEngine<'a>>,
    verdict: &'a Verdict,
}

/// An engine, as people know it.
#[derive(Serialize)]
struct ShownEngine<'a> {
    kind: &'a str,
    name: &'a str,
    version: &'a str,
}

/// The code for a clean room whose model is behind another engine, or behind none.
const OTHER_ENGINE: &str = "engine-mismatch";

/// Sets up an attested session, up to the point where data could be sent, and reports what was proven.
pub(super) fn run(
    address: &Address,
    dialer: &Dialer,
    (party, model): (&RelyingParty, &ModelId),
    engine: Option<&(Engine, Sha256Digest)>,
    ear: Option<&EarFile>,
    terminal: &mut Terminal,
) -> Result<Outcome, Failure> {
    let appraised =
        runtime()?.block_on(session::appraise(party, dialer)).map_err(|error| no_session(&error))?;
    let (verdict, established) = (appraised.verdict(), appraised.established());
    let accepted = appraised.accepted();
    // Only evidence that was accepted commits to anything.
    let proven = engine.filter(|(_, identity)| accepted.is_ok() && *identity == appraised.model_digest());
    let missing = (engine.is_some() && proven.is_none()).then_some(OTHER_ENGINE);
    let code = accepted.as_ref().err().map(Refused::code).or(missing);
    let report = Report {
        address: address.to_string(),
        model: model.as_str(),
        accepted: code.is_none(),
        code,
        cipher_suite: format!("{:#06x}", established.cipher_suite),
        group: format!("{:#06x}", established.group),
        partner_leaf_sha384: established.partner_leaf.to_string(),
        enclave_leaf_sha384: established.enclave_leaf.to_string(),
        release: appraised.permitted().and_then(|permitted| permitted.as_ref().ok()),
        engine: proven.map(|(engine, _)| ShownEngine {
            kind: &engine.kind,
            name: &engine.name,
            version: &engine.version,
        }),
        verdict,
    };
    let mut listing = listing(verdict);
    if let Some(permitted) = appraised.permitted() {
        terms(&mut listing, permitted);
    }
    if let Some((expected, _)) = engine {
        let name = printable(&format!("{} {} ({})", expected.name, expected.version, expected.kind));
        listing.heading("engine");
        match proven {
            Some(_) => listing.check(
                Mark::Ok,
                name,
                "the model's identity commits to it, to its arguments and to the weights",
            ),
            None => listing.check(
                Mark::Fail,
                name,
                format!(
                    "{OTHER_ENGINE}\nthe model's identity is not that of these weights behind this engine"
                ),
            ),
        }
    }
    channel(&mut listing, established, accepted.as_ref().err());
    ear::write(ear, verdict, &appraised.shown().document)?;
    terminal.report(&report, &listing)?;
    Ok(if code.is_none() { outcome(verdict) } else { Outcome::Refused })
}

/// Release, lease and partner, with the time that is left for each.
fn terms(listing: &mut Listing, permitted: &Result<Permitted, Refused>) {
    match permitted {
        Err(refused) => {
            listing.heading("release, lease, partner");
            listing.check(Mark::Fail, refused.code(), printable(&refused.to_string()));
        }
        Ok(permitted) => {
            listing.heading("release");
            let release = format!("version {} of {}", permitted.release_version, permitted.room);
            listing.check(Mark::Ok, release, left(permitted.release_seconds_left));
            if let Some(policy) = &permitted.safeguards_sha256 {
                listing.check(Mark::Ok, "prompts and answers are judged", format!("policy {policy}"));
            }
            if let Some(Kept { keep, days }) = &permitted.retention {
                let what = format!("{} exchanges are kept sealed", keep.name());
                listing.check(
                    Mark::Ok,
                    what,
                    format!("for {days} days, opened only together (docs/retention.md)"),
                );
            }
            if let Some(WitnessTerms { keys, needed, within_seconds }) = &permitted.witnesses {
                let what = format!("{needed} of {} witnesses must cosign the log", keys.len());
                listing.check(Mark::Ok, what, format!("at most {within_seconds} seconds behind it"));
            }
            listing.heading("lease");
            listing.check(Mark::Ok, "signed for this enclave", left(permitted.lease_seconds_left));
            listing.heading("partner");
            listing.check(Mark::Ok, permitted.partner.as_str(), left(permitted.partner_seconds_left));
        }
    }
}

fn channel(listing: &mut Listing, established: &Established, refused: Option<&Refused>) {
    listing.heading("channel");
    listing.check(
        Mark::Ok,
        "TLS 1.3",
        format!("cipher suite {:#06x}, mutual certificates", established.cipher_suite),
    );
    listing.check(Mark::Ok, "key exchange", format!("X25519MLKEM768 ({:#06x})", established.group));
    listing.check(Mark::Ok, "protocol", String::from_utf8_lossy(ALPN));
    match refused {
        None => {
            listing.check(
                Mark::Ok,
                "session",
                "the evidence is of this connection; the receipt key signed it",
            );
        }
        Some(refused) => listing.check(Mark::Fail, "session", format!("{}\n{refused}", refused.code())),
    }
    listing.note("Nothing but the challenge was sent.");
}
