//! A verdict as an EAT Attestation Result (draft-ietf-rats-ear-04, a draft) in a conceptual message wrapper (CMW, RFC 9999).
//!
//! The result is a JWT (RFC 7519) with the document as raw evidence in it. Around it stands a CMW record of JSON: `[media type,
//! base64url, 8]`. An 8 says that something is an attestation result, a 4 that it is evidence.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::verdict::{Axis, AxisStatus, Outcome, Verdict};
use serde_json::{Map, Value, json};

/// The profile: which version of the draft this is.
const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// The media type of the result (RFC 9782), and that of the security module's document, which is a `COSE_Sign1` (RFC 9052).
const RESULT_TYPE: &str = "application/eat+jwt; eat_profile=\"tag:ietf.org,2026:rats/ear#04\"";
const EVIDENCE_TYPE: &str = "application/cose; cose-type=\"cose-sign1\"";
/// The kinds of conceptual messages.
const EVIDENCE: u8 = 4;
const RESULT: u8 = 8;

/// Values of trustworthiness claims (draft-ietf-rats-ar4si).
mod claim {
    pub(super) const AFFIRMED: i8 = 2;
    /// What was loaded at the start is approved.
    pub(super) const APPROVED_BOOT: i8 = 3;
    pub(super) const CONTRAINDICATED: i8 = 96;
    /// Hardware that the verifier does not know, though it should.
    pub(super) const UNRECOGNIZED: i8 = 97;
    pub(super) const CRYPTO_FAILED: i8 = 99;
}

/// The tiers of claims, from the best to the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Affirming,
    Warning,
    Contraindicated,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        }
    }

    /// The tier of a claim's value.
    const fn of(value: i8) -> Self {
        match value {
            ..=31 => Self::Affirming,
            32..=95 => Self::Warning,
            96.. => Self::Contraindicated,
        }
    }
}

/// The wrapped result, JSON on one line. `sign` makes an ES384 signature (RFC 7518: r and s, 48 bytes each) with the verifier's key,
/// whose name is `key`. Gives nothing when `sign` gives nothing.
pub fn ear(
    verdict: &Verdict,
    document: &[u8],
    key: &Sha256Digest,
    sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<String> {
    let header = json!({ "alg": "ES384", "typ": "JWT", "kid": key });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims(verdict, document)));
    let signature = sign(signed.as_bytes())?;
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    Some(format!("{}\n", json!([RESULT_TYPE, URL_SAFE_NO_PAD.encode(token), RESULT])))
}

/// The claims of the result.
fn claims(verdict: &Verdict, document: &[u8]) -> Value {
    let vector = trustworthiness(verdict);
    let asked = match verdict.outcome() {
        Outcome::Pass => Status::Affirming,
        // Something was not asked about.
        Outcome::Partial => Status::Warning,
        Outcome::Fail => Status::Contraindicated,
    };
    let status = vector.iter().map(|(_, value)| Status::of(*value)).fold(asked, Status::max).as_str();
    let axes: Map<String, Value> =
        Axis::ALL.into_iter().map(|axis| (axis.as_str().to_owned(), json!(verdict.axis(axis)))).collect();
    let mut appraisal = json!({
        "ear_status": status,
        "ear_appraisal_policy_ids": [format!("urn:cleanroom:policy:sha256:{}", verdict.policy_sha256())],
        "ear_verifier_claims": {
            "cleanroom_outcome": verdict.outcome(),
            "cleanroom_axes": axes,
            "cleanroom_rejection": verdict.accepted().err().map_or("", |rejection| rejection.code()),
        },
    });
    if let Some(members) = appraisal.as_object_mut().filter(|_| !vector.is_empty()) {
        let vector: Map<String, Value> =
            vector.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        members.insert("ear_trustworthiness_vector".to_owned(), vector.into());
    }
    json!({
        "eat_profile": PROFILE,
        "iat": verdict.judged_at().as_seconds(),
        "ear_verifier_id": {
            "developer": "cleanroom",
            "build": concat!("cleanroom ", env!("CARGO_PKG_VERSION")),
        },
        "ear_status": status,
        "ear_raw_evidence": [EVIDENCE_TYPE, URL_SAFE_NO_PAD.encode(document), EVIDENCE],
        "submods": { "enclave": appraisal },
    })
}

/// The claims that the verdict's answers make. A question that was not asked makes none.
fn trustworthiness(verdict: &Verdict) -> Vec<(&'static str, i8)> {
    let mut vector = Vec::new();
    let mut say = |name, axis, passed, failed| match verdict.axis(axis) {
        AxisStatus::Passed => vector.push((name, passed)),
        AxisStatus::Failed => vector.push((name, failed)),
        AxisStatus::NotAsked => {}
    };
    // A development root stands for no hardware, also where the policy names it.
    let hardware =
        if verdict.tier() == Some(Tier::Development) { claim::UNRECOGNIZED } else { claim::AFFIRMED };
    say("hardware", Axis::Platform, hardware, claim::CRYPTO_FAILED);
    say("executables", Axis::Image, claim::APPROVED_BOOT, claim::CONTRAINDICATED);
    say("instance-identity", Axis::Deployment, claim::AFFIRMED, claim::CONTRAINDICATED);
    say("file-system", Axis::Model, claim::AFFIRMED, claim::CONTRAINDICATED);
    if verdict.debug() {
        // The operator reads the console.
        vector.push(("runtime-opaque", claim::CONTRAINDICATED));
    }
    vector
}
