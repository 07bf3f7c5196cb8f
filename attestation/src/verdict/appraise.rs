//! The appraisal itself: which checks are made, in which order, and what follows from them.

use subtle::ConstantTimeEq as _;

use super::axis::Axis;
use super::check::Rejection;
use super::checks::{Checks, Ended, GenuineError};
use super::conclusion::{Conclusion, Verdict};
use super::evidence::{AcceptedEvidence, AcceptedSession};
use super::expectation::{Expectation, MIN_SESSION_NONCE_LENGTH};
use crate::chain::{self, Certificates, Chain, ChainCache, Clock, TrustAnchor};
use crate::channel::boot_measurement::Registers;
use crate::digest::Sha384Digest;
use crate::document::{Document, EnclavePcrs, Pcrs, REGISTERS, TpmPcrs};
use crate::policy::{Freshness, ImageMeasurement, ImageReference, Policy, TpmImageReference};
use crate::time::Timestamp;

/// Appraises a document: structure, chain and signature first, then everything that the policy and the session ask.
///
/// `at` is the verifier's time; the library reads no clock. Certificates may begin up to the policy's `max_skew` after it.
/// With a `cache`, chains that were validated before are not validated again, but their validity windows are; the answer is
/// the same with and without one. What comes back is a [`Verdict`] in every case.
#[must_use]
pub fn appraise(
    document: &[u8],
    policy: &Policy,
    expected: &Expectation<'_>,
    at: Timestamp,
    cache: Option<&mut ChainCache>,
) -> Verdict {
    let mut checks = Checks::new(policy, at);
    match authenticate(document, policy, at, cache, &mut checks) {
        Ok(genuine) => appraise_genuine(&genuine, policy, expected, at, checks),
        Err(ended) => checks.conclude_ended(ended),
    }
}

/// A document that its security module signed, under a root of the policy.
struct Genuine<'d, 'p> {
    document: Document<'d>,
    chain: Chain,
    anchor: &'p TrustAnchor,
}

/// The checks without which nothing in a document can be believed. The first that fails is the last that is made.
fn authenticate<'d, 'p>(
    bytes: &'d [u8],
    policy: &'p Policy,
    at: Timestamp,
    cache: Option<&mut ChainCache>,
    checks: &mut Checks,
) -> Result<Genuine<'d, 'p>, Ended> {
    let document = Document::parse(bytes);
    let document = checks.require(document, "document", "a well-formed attestation document", |_| {
        format!("one of {} bytes", bytes.len())
    })?;

    checks.compare_clocks(document.timestamp());

    let certificates = Certificates { bundle: document.cabundle(), leaf: document.certificate() };
    let clock = Clock { at, max_skew: policy.freshness().max_skew };
    let validated = chain::validate(&certificates, policy.anchors(), clock, cache);
    let (chain, anchor) =
        checks.require(validated, "certificates", "a chain to a trusted root", |(_, anchor)| {
            format!("root `{}` ({}), valid at {at}", anchor.name(), anchor.tier())
        })?;

    let genuine = Genuine { document, chain, anchor };
    checks.require(
        genuine.check_name(),
        "module id",
        "the module that the leaf certificate names",
        |()| genuine.document.module_id().to_owned(),
    )?;
    checks.require(genuine.check_signature(), "signature", "one by the leaf certificate's key", |()| {
        "one by the leaf certificate's key".to_owned()
    })?;
    checks.require(
        genuine.check_time(),
        "time stamp",
        "a time when the leaf certificate is valid",
        |()| genuine.document.timestamp().to_string(),
    )?;
    Ok(genuine)
}

impl Genuine<'_, '_> {
    /// AWS names leaves after the module with region and partition behind it:
    /// `i-0123456789abcdef0-enc0123456789abcdef.us-east-1.aws`. A module id has no full stop.
    fn check_name(&self) -> Result<(), GenuineError> {
        let name = self.chain.common_name.as_deref().unwrap_or_default();
        let module_id = self.document.module_id();
        match name.strip_prefix(module_id) {
            Some(rest) if rest.is_empty() || rest.starts_with('.') => Ok(()),
            _ => Err(GenuineError::Name { name: name.to_owned(), module_id: module_id.to_owned() }),
        }
    }

    fn check_signature(&self) -> Result<(), GenuineError> {
        let signed = self.document.signed_bytes();
        let key = self.chain.key.as_ref();
        if key.is_some_and(|key| key.verifies(&signed, self.document.signature())) {
            Ok(())
        } else {
            Err(GenuineError::Signature)
        }
    }

    fn check_time(&self) -> Result<(), GenuineError> {
        let timestamp = self.document.timestamp();
        if self.chain.leaf_is_valid_at(timestamp) {
            return Ok(());
        }
        let (not_before, not_after) = self.chain.leaf_window();
        Err(GenuineError::Time { timestamp, not_before, not_after })
    }
}

/// Everything that is asked about a document once it is known to be genuine.
fn appraise_genuine(
    genuine: &Genuine<'_, '_>,
    policy: &Policy,
    expected: &Expectation<'_>,
    at: Timestamp,
    mut checks: Checks,
) -> Verdict {
    let Genuine { document, anchor, .. } = genuine;
    let debug = check_debug(&mut checks, document.pcrs(), policy);
    let image = check_image(&mut checks, document.pcrs(), policy);
    check_deployment(&mut checks, document.pcrs(), policy);
    check_model(&mut checks, document.pcrs(), expected);
    check_freshness(&mut checks, document, policy.freshness(), expected, at);
    check_session(&mut checks, document, expected);
    checks.conclude(anchor.tier(), debug, || {
        let evidence = evidence(genuine, debug, image);
        match missing_for_session(expected) {
            Some(missing) => Conclusion::Document(Box::new(evidence), missing),
            None => Conclusion::Session(Box::new(AcceptedSession(evidence))),
        }
    })
}

/// Whether the enclave runs in debug mode. Only a policy that expects that lets it pass.
fn check_debug(checks: &mut Checks, pcrs: &Pcrs, policy: &Policy) -> bool {
    // Debug mode is a notion of enclaves alone.
    let Some(pcrs) = pcrs.enclave() else { return false };
    let debug = pcrs.is_debug();
    let expected = policy.images().iter().any(|image| *image.measurement() == ImageMeasurement::Debug);
    checks.check(!debug || expected, Axis::Platform, "debug-enclave", "debug mode", || {
        let actual = if debug { "DEBUG: PCR 0, 1 or 2 is zero or absent" } else { "no" };
        ("an enclave that is not in debug mode".to_owned(), actual.to_owned())
    });
    debug
}

/// The name of the image that the registers belong to.
fn check_image(checks: &mut Checks, pcrs: &Pcrs, policy: &Policy) -> String {
    match pcrs {
        Pcrs::NitroEnclave(pcrs) => check_enclave_image(checks, pcrs, policy.images()),
        Pcrs::NitroTpm(pcrs) => check_tpm_image(checks, pcrs, policy.tpm_images()),
    }
}

fn check_enclave_image(checks: &mut Checks, pcrs: &EnclavePcrs, images: &[ImageReference]) -> String {
    if pcrs.is_debug() {
        let image = images.iter().find(|image| *image.measurement() == ImageMeasurement::Debug);
        let name = image.map_or("(none)", ImageReference::name).to_owned();
        checks.check(image.is_some(), Axis::Image, "image-debug", "image", || {
            (
                "an image entry with `debug = true`".to_owned(),
                format!("DEBUG, nothing measured; entry `{name}`"),
            )
        });
        return name;
    }
    let references = images.iter().filter_map(|image| match image.measurement() {
        ImageMeasurement::Measured { pcr0, pcr1, pcr2 } => {
            Some((image.name(), vec![(0, *pcr0), (1, *pcr1), (2, *pcr2)]))
        }
        ImageMeasurement::Debug => None,
    });
    check_registers(checks, references, |index| pcrs.get(index), mismatch)
}

fn check_tpm_image(checks: &mut Checks, pcrs: &TpmPcrs, images: &[TpmImageReference]) -> String {
    let references = images
        .iter()
        .map(|image| (image.name(), image.pcrs().iter().map(|(index, value)| (*index, *value)).collect()));
    check_registers(checks, references, |index| pcrs.get(index), |_| TPM_MISMATCH)
}

/// Compares with the reference that agrees best, so that the report names the differences that matter.
fn check_registers<'p, 'd>(
    checks: &mut Checks,
    references: impl Iterator<Item = (&'p str, Vec<(u8, Sha384Digest)>)>,
    actual: impl Fn(u8) -> Option<&'d Sha384Digest>,
    code: impl Fn(u8) -> &'static str,
) -> String {
    let differences = |values: &[(u8, Sha384Digest)]| {
        values.iter().filter(|(index, value)| actual(*index) != Some(value)).count()
    };
    let best = references.min_by_key(|(_, values)| differences(values));
    let Some((image, values)) = best else {
        checks.check(false, Axis::Image, "image-platform", "image", || {
            ("an image of a kind that the policy names".to_owned(), "another kind".to_owned())
        });
        return String::new();
    };
    for (index, value) in &values {
        let actual = actual(*index);
        checks.check(actual == Some(value), Axis::Image, code(*index), name(*index), || {
            (format!("{value} (image `{image}`)"), register(actual))
        });
    }
    image.to_owned()
}

fn check_deployment(checks: &mut Checks, pcrs: &Pcrs, policy: &Policy) {
    let Some(deployment) = policy.deployment() else { return };
    for (index, values) in deployment.registers() {
        let actual = pcrs.enclave().and_then(|pcrs| pcrs.get(index));
        let accepted = actual.is_some_and(|actual| values.contains(actual));
        checks.check(accepted, Axis::Deployment, mismatch(index), name(index), || {
            let expected = match values {
                [value] => value.to_string(),
                values => format!("one of {} values of the policy", values.len()),
            };
            (expected, register(actual))
        });
    }
}

fn check_model(checks: &mut Checks, pcrs: &Pcrs, expected: &Expectation<'_>) {
    if let Some(value) = &expected.pcr16 {
        check_commitment(checks, pcrs, Axis::Model, Registers::model, value);
    }
}

fn check_freshness(
    checks: &mut Checks,
    document: &Document<'_>,
    freshness: &Freshness,
    expected: &Expectation<'_>,
    at: Timestamp,
) {
    let timestamp = document.timestamp();
    if let Some(max_age) = freshness.max_age {
        let ahead = timestamp.since(at).unwrap_or_default();
        checks.check(
            ahead <= freshness.max_skew,
            Axis::Freshness,
            "timestamp-in-future",
            "time stamp",
            || {
                let expected =
                    format!("at most {} after {at}", humantime::format_duration(freshness.max_skew));
                (expected, timestamp.to_string())
            },
        );
        let age = at.since(timestamp).unwrap_or_default();
        checks.check(age <= max_age, Axis::Freshness, "evidence-too-old", "age", || {
            (
                format!("at most {}", humantime::format_duration(max_age)),
                humantime::format_duration(age).to_string(),
            )
        });
    }
    if let Some(nonce) = expected.nonce {
        let actual = document.nonce();
        // An empty nonce is what a document has that nobody challenged.
        let equal = !nonce.is_empty() && actual.is_some_and(|actual| bool::from(actual.ct_eq(nonce)));
        checks
            .check(equal, Axis::Freshness, "nonce-mismatch", "nonce", || (bytes(Some(nonce)), bytes(actual)));
    }
}

fn check_session(checks: &mut Checks, document: &Document<'_>, expected: &Expectation<'_>) {
    let fields = [
        ("user-data-mismatch", "user data", expected.user_data, document.user_data()),
        ("public-key-mismatch", "public key", expected.public_key, document.public_key()),
    ];
    for (code, what, expected, actual) in fields {
        if expected.is_some() {
            checks.check(actual == expected, Axis::Session, code, what, || (bytes(expected), bytes(actual)));
        }
    }
    if let Some(value) = &expected.pcr17 {
        check_commitment(checks, document.pcrs(), Axis::Session, Registers::receipt_key, value);
    }
}

/// Checks the register that `which` gives for the platform. `committed` is the value that the commitment gives a register.
fn check_commitment(
    checks: &mut Checks,
    pcrs: &Pcrs,
    axis: Axis,
    which: fn(Registers) -> u8,
    committed: &Sha384Digest,
) {
    let registers = match pcrs {
        Pcrs::NitroEnclave(_) => Registers::Enclave,
        Pcrs::NitroTpm(_) => Registers::NitroTpm,
    };
    let index = which(registers);
    let (actual, code) = match pcrs {
        Pcrs::NitroEnclave(pcrs) => (pcrs.get(index), mismatch(index)),
        Pcrs::NitroTpm(pcrs) => (pcrs.get(index), TPM_MISMATCH),
    };
    let expected = registers.closed(committed);
    checks.check(actual == Some(&expected), axis, code, name(index), || {
        (expected.to_string(), register(actual))
    });
}

/// The code for a register of a `NitroTPM` that differs.
const TPM_MISMATCH: &str = "nitrotpm-pcr-mismatch";

/// The code for an enclave's register that differs.
const fn mismatch(index: u8) -> &'static str {
    match index {
        0 => "pcr0-mismatch",
        1 => "pcr1-mismatch",
        2 => "pcr2-mismatch",
        3 => "pcr3-mismatch",
        4 => "pcr4-mismatch",
        8 => "pcr8-mismatch",
        16 => "pcr16-mismatch",
        17 => "pcr17-mismatch",
        _ => "pcr-mismatch",
    }
}

/// What a report calls the register of this index, 0 to 31.
fn name(index: u8) -> &'static str {
    const NAMES: [&str; REGISTERS] = [
        "PCR 0", "PCR 1", "PCR 2", "PCR 3", "PCR 4", "PCR 5", "PCR 6", "PCR 7", "PCR 8", "PCR 9", "PCR 10",
        "PCR 11", "PCR 12", "PCR 13", "PCR 14", "PCR 15", "PCR 16", "PCR 17", "PCR 18", "PCR 19", "PCR 20",
        "PCR 21", "PCR 22", "PCR 23", "PCR 24", "PCR 25", "PCR 26", "PCR 27", "PCR 28", "PCR 29", "PCR 30",
        "PCR 31",
    ];
    NAMES.get(usize::from(index)).copied().unwrap_or("PCR")
}

fn register(value: Option<&Sha384Digest>) -> String {
    value.map_or_else(|| "(absent)".to_owned(), ToString::to_string)
}

/// Hexadecimal for people: at most 64 bytes.
fn bytes(value: Option<&[u8]>) -> String {
    let Some(value) = value else { return "(absent)".to_owned() };
    match value.split_at_checked(64) {
        _ if value.is_empty() => "(empty)".to_owned(),
        None | Some((_, [])) => hex::encode(value),
        Some((start, _)) => format!("{}… ({} bytes)", hex::encode(start), value.len()),
    }
}

/// What a channel needs and this session did not ask, if anything.
fn missing_for_session(expected: &Expectation<'_>) -> Option<Rejection> {
    let nonce = expected.nonce.is_some_and(|nonce| nonce.len() >= MIN_SESSION_NONCE_LENGTH);
    let questions = [
        (nonce, Axis::Freshness, "nonce"),
        (expected.pcr16.is_some(), Axis::Model, "PCR 16"),
        (expected.user_data.is_some(), Axis::Session, "user data"),
        (expected.public_key.is_some(), Axis::Session, "public key"),
        (expected.pcr17.is_some(), Axis::Session, "PCR 17"),
    ];
    let (_, axis, what) = questions.into_iter().find(|(asked, ..)| !asked)?;
    Some(Rejection {
        code: "session-not-asked",
        axis,
        what,
        expected: "an expectation, without which no channel is bound".to_owned(),
        actual: "none".to_owned(),
        explained: false,
        clock: None,
    })
}

fn evidence(genuine: &Genuine<'_, '_>, debug: bool, image: String) -> AcceptedEvidence {
    let Genuine { document, chain, anchor } = genuine;
    AcceptedEvidence {
        module_id: document.module_id().to_owned(),
        timestamp: document.timestamp(),
        pcrs: document.pcrs().clone(),
        anchor: anchor.name().to_owned(),
        tier: anchor.tier(),
        debug,
        image,
        root_sha256: chain.root,
        leaf_sha256: chain.leaf,
        not_after: chain.not_after(),
        nonce: document.nonce().map(<[u8]>::to_vec),
        user_data: document.user_data().map(<[u8]>::to_vec),
        public_key: document.public_key().map(<[u8]>::to_vec),
    }
}
