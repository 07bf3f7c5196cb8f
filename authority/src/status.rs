//! `status`: shows what is in force.

use std::path::PathBuf;

use clap::Args;
use cleanroom_attestation::release::{
    LeaseRefusal, LeaseRequest, Nonce, Target, TrustedState, UnixMillis, Verified,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::Outcome;
use crate::chain::{self, RootArguments};
use crate::failure::Failure;
use crate::service;

pub(crate) const EXAMPLES: &str = "\
Examples:
  cleanroom-authority status --root roots --release release.json --denials denials
  cleanroom-authority status --service http://lease.bank.example:8700";

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    root: RootArguments,
    /// The release.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// The folder of denials.
    #[arg(long, value_name = "FOLDER")]
    denials: Option<PathBuf>,
    /// The time to judge dates by, as 2027-01-31T12:00:00Z. Default: now.
    #[arg(long, value_name = "TIME")]
    at: Option<UnixMillis>,
    /// Ask this lease service, as http://HOST:PORT, instead of reading files.
    #[arg(long, value_name = "URL", conflicts_with_all = ["release", "denials", "at"])]
    service: Option<String>,
}

impl Status {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let json = match &self.service {
            Some(url) => service::status(url)?,
            None if !self.root.is_given() => {
                return Err(Failure::usage("expected --root FILE or --service URL"));
            }
            None => {
                let state = self.root.state_with(self.release.as_deref(), self.denials.as_deref())?;
                summary(&state, self.at.unwrap_or_else(chain::now))
            }
        };
        Ok(Outcome { text: text(&json), json })
    }
}

/// What is in force at `at`.
pub(crate) fn summary(state: &TrustedState, at: UnixMillis) -> Value {
    let root = state.root();
    let release = state.release().map(|release| {
        let models: Vec<Value> = release
            .models
            .iter()
            .map(|model| {
                let halted = state.model(model.id.as_str()).is_some_and(|known| known.denied);
                json!({ "id": model.id, "state": model.state, "halted": halted })
            })
            .collect();
        json!({ "version": release.version, "sha256": release.digest(), "expires": release.expires,
            "models": models, "partners": release.partners.len(), "lease": release.lease })
    });
    let denials: Vec<Value> = state
        .denials_in_force()
        .map(|(digest, halted)| json!({ "denial": digest, "halt": halted }))
        .collect();
    let leases = would_lease(state, at).map_or_else(LeaseRefusal::code, |()| "granted");
    json!({
        "at": at,
        "room": root.room,
        "root": { "version": root.version, "sha256": root.digest(), "expires": root.expires },
        "release": release,
        "denials_in_force": denials,
        "leases": leases,
    })
}

/// Whether an enclave that holds the same documents would get a lease.
pub(crate) fn would_lease(state: &TrustedState, at: UnixMillis) -> Result<(), LeaseRefusal> {
    let release_sha256 = state.release().map(Verified::digest).ok_or(LeaseRefusal::NoRelease)?;
    let (nonce, root) = (Nonce::from_bytes([1; 32]), state.root());
    let request =
        LeaseRequest { nonce, root_version: root.version, root_sha256: root.digest(), release_sha256 };
    state.draft_lease(&request, at).map(drop)
}

fn text(status: &Value) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut text = format!(
        "{} at {}\n  root     version {}, until {}\n",
        word(at(status, "/room")),
        word(at(status, "/at")),
        at(status, "/root/version"),
        word(at(status, "/root/expires"))
    );
    let release = at(status, "/release");
    if release.is_null() {
        text += "  release  none\n";
    } else {
        text += &format!(
            "  release  version {}, until {}, {} partners\n",
            at(release, "/version"),
            word(at(release, "/expires")),
            at(release, "/partners")
        );
        for model in at(release, "/models").as_array().into_iter().flatten() {
            let halted = if *at(model, "/halted") == Value::Bool(true) { ", HALTED" } else { "" };
            text += &format!("  model    {} {}{halted}\n", word(at(model, "/id")), word(at(model, "/state")));
        }
    }
    for denial in at(status, "/denials_in_force").as_array().into_iter().flatten() {
        let halt = at(denial, "/halt");
        // A service of a later version may know other targets.
        let target = Target::deserialize(halt).map_or_else(|_| word(halt), |target| target.to_string());
        text += &format!("  HALTED   {target} ({})\n", word(at(denial, "/denial")));
    }
    text += &format!("  leases   {}\n", word(at(status, "/leases")));
    if let Some(problem) = at(status, "/problem").as_str() {
        text += &format!("  PROBLEM  {problem}\n");
    }
    text
}

/// The value at a JSON pointer (RFC 6901); null where there is none.
fn at<'a>(json: &'a Value, path: &str) -> &'a Value {
    json.pointer(path).unwrap_or(&Value::Null)
}
