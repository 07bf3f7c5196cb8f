//! Verifies one attestation document with cleanroom and with three other verifiers, in interleaved rounds, and prints medians
//! beside the physical limit, which is verifying its five P-384 signatures. Ends with exit code 1 when a target is missed.

mod clock;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use cleanroom_attestation::chain::ChainCache;
use cleanroom_attestation::document::Document;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, appraise};
use nitro_attest::UnparsedAttestationDoc;
use nsm_nitro_enclave_utils::api::nsm::AttestationDoc;
use nsm_nitro_enclave_utils::time::Time;
use nsm_nitro_enclave_utils::verify::AttestationDocVerifierExt as _;

/// Odd, so that a median is a figure of one round.
const ROUNDS: usize = 401;
/// How long each contender runs in each round, about: short, because a processor's clock wanders from one second to the next,
/// and only what ran close together can be compared.
const SLICE: Duration = Duration::from_millis(13);

fn main() -> ExitCode {
    match run(std::env::args().nth(1).map(PathBuf::from)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-verify: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: Option<PathBuf>) -> Result<bool, Box<dyn Error>> {
    let path = path.map_or_else(default_document, Ok)?;
    let bytes = fs::read(&path)?;
    let document = Document::parse(&bytes)?;
    let at = document.timestamp();
    // One of the others reads the system's clock and takes no time.
    clock::set(at.as_seconds());
    let policy = policy(&document)?;
    let root = document.cabundle()[0].to_vec();
    let (signed, signature) = (document.signed_bytes(), *document.signature());
    let key = public_key(document.certificate())?;
    let raw = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key);

    let expected = Expectation::default();
    let ours =
        |cache: Option<&mut ChainCache>| appraise(&bytes, &policy, &expected, at, cache).accepted().is_ok();
    let (mut authorities, mut chains) = (ChainCache::new(), ChainCache::new());
    let mut contenders: Vec<(&str, Box<dyn FnMut() -> bool + '_>)> = vec![
        ("cleanroom, no cache", Box::new(|| ours(None))),
        (
            "cleanroom, authorities cached",
            Box::new(|| {
                authorities.forget_leaves();
                ours(Some(&mut authorities))
            }),
        ),
        ("cleanroom, authorities and leaf cached", Box::new(|| ours(Some(&mut chains)))),
        (
            "attestation-doc-validation 0.10.1",
            Box::new(|| attestation_doc_validation::validate_attestation_doc(&bytes).is_ok()),
        ),
        ("nitro_attest 0.2.0", Box::new(|| nitro_attest(&bytes, at))),
        ("nsm-nitro-enclave-utils 0.1.3", Box::new(|| nsm_utils(&bytes, &root, at))),
        ("one P-384 verification (the limit)", Box::new(|| raw.verify(&signed, &signature).is_ok())),
    ];
    println!(
        "{} ({} bytes), {ROUNDS} interleaved rounds, processor time; medians of the times, and of the ratios in each round\n",
        path.display(),
        bytes.len()
    );

    let mut times = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for round in 0..=ROUNDS {
        for ((name, verify), times) in contenders.iter_mut().zip(&mut times) {
            let time = time(verify).ok_or_else(|| format!("{name} refuses the document"))?;
            // The first round warms caches up.
            if round > 0 {
                times.push(time);
            }
        }
    }
    let names: Vec<&str> = contenders.iter().map(|(name, _)| *name).collect();
    Ok(report(&names, &times))
}

/// Prints the figures; whether every target is met. `times` has the seconds of each round for each of `names`.
fn report(names: &[&str], times: &[Vec<f64>]) -> bool {
    let [uncached, authorities, chains, first, second, third, limit] = times else { return false };
    let fastest =
        [first, second, third].into_iter().min_by(|a, b| median(a).total_cmp(&median(b))).unwrap_or(first);
    println!("{:<40} {:>12} {:>16} {:>14}", "", "microseconds", "x fastest other", "x one verify");
    for (name, times) in names.iter().zip(times) {
        let (faster, verifications) = (ratio(fastest, times), ratio(times, limit));
        println!("{name:<40} {:>12.1} {faster:>16.2} {verifications:>14.2}", median(times) * 1e6);
    }
    println!();
    let mut met = true;
    let mut target = |holds: bool, text: String| {
        met &= holds;
        println!("{}  {text}", if holds { "ok  " } else { "MISS" });
    };
    for (name, times, wanted) in [
        ("no cache", uncached, 3.5),
        ("authorities cached", authorities, 9.0),
        ("leaf cached too", chains, 17.0),
    ] {
        let ratio = ratio(fastest, times);
        target(
            ratio >= wanted,
            format!("{name}: {ratio:.2} times as fast as the fastest other (target {wanted})"),
        );
    }
    for (name, times, verifications, most) in
        [("no cache", uncached, 5.0, 1.05), ("leaf cached too", chains, 1.0, 1.03)]
    {
        let ratio = ratio(times, limit) / verifications;
        target(
            ratio <= most,
            format!("{name}: {ratio:.3} of {verifications} raw verifications (target {most})"),
        );
    }
    met
}

/// The median over all rounds of how many times as long `times` took as `than` did in the same round.
fn ratio(times: &[f64], than: &[f64]) -> f64 {
    median(&times.iter().zip(than).map(|(time, than)| time / than).collect::<Vec<_>>())
}

/// Seconds of processor time per call over about a [`SLICE`]; `None` if a call says no.
fn time(verify: &mut dyn FnMut() -> bool) -> Option<f64> {
    let start = clock::thread_time();
    let mut calls = 0_u32;
    while clock::thread_time() - start < SLICE {
        verify().then_some(())?;
        calls += 1;
    }
    Some((clock::thread_time() - start).as_secs_f64() / f64::from(calls))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn nitro_attest(bytes: &[u8], at: Timestamp) -> bool {
    let at =
        i64::try_from(at.as_seconds()).ok().and_then(|at| time::OffsetDateTime::from_unix_timestamp(at).ok());
    at.is_some_and(|at| UnparsedAttestationDoc::from(bytes).parse_and_verify(at).is_ok())
}

fn nsm_utils(bytes: &[u8], root: &[u8], at: Timestamp) -> bool {
    AttestationDoc::from_cose(bytes, root, Time::new(Box::new(move || at.as_millis()))).is_ok()
}

/// A policy that accepts exactly this document's image.
fn policy(document: &Document<'_>) -> Result<Policy, Box<dyn Error>> {
    let pcrs = document.pcrs().enclave().ok_or("the document is not an enclave's")?;
    let pcr = |index| pcrs.get(index).map(ToString::to_string).ok_or("the document lacks a register");
    let (pcr0, pcr1, pcr2) = (pcr(0)?, pcr(1)?, pcr(2)?);
    let text = format!(
        "version = 1\n[[trust_anchor]]\nname = \"aws\"\n[[image]]\nname = \"a\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n"
    );
    Ok(Policy::from_toml(&text)?)
}

/// The uncompressed P-384 point of a certificate: what follows the head of its public key's bit string.
fn public_key(certificate: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    const HEAD: &[u8] = b"\x2b\x81\x04\x00\x22\x03\x62\x00";
    let start =
        certificate.windows(HEAD.len()).position(|window| window == HEAD).ok_or("not a P-384 certificate")?;
    Ok(certificate
        .get(start + HEAD.len()..start + HEAD.len() + 97)
        .ok_or("the certificate is cut off")?
        .to_vec())
}

/// The newest document of an enclave that is not in debug mode, in the folder of documents that AWS signed.
fn default_document() -> Result<PathBuf, Box<dyn Error>> {
    let named = std::env::var_os("CLEANROOM_AWS_VECTORS").map(PathBuf::from);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let beside = ["../shared/vectors", "../../shared/vectors"].map(|beside| repository.join(beside));
    let folder = named.into_iter().chain(beside).find(|folder| folder.join("index.json").is_file());
    let folder = folder
        .ok_or("no documents of AWS at hand: name one, or set CLEANROOM_AWS_VECTORS to their folder")?;
    let index: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("index.json"))?)?;
    let documents = index["documents"].as_array().ok_or("index.json lists no documents")?;
    // The others read the root of the commercial partition only, and maps of either length.
    let suitable = documents.iter().rev().find(|document| {
        document["kind"] == "enclave"
            && document["debug_pcr0_1_2_zero"] == false
            && !document["region"].as_str().unwrap_or_default().contains("gov")
    });
    let file = suitable.and_then(|document| document["file"].as_str()).ok_or("no suitable document")?;
    Ok(folder.join(file))
}
