//! Measures the cost of release control: loads a release with 10,000 partners, answers questions, and fails
//! when a bound is broken.
//!
//! `cargo run --release -p cleanroom-attestation --example release_cost`

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    Algorithm, BootMillis, Decision, Envelope, Lease, LeaseRequest, Nonce, Payload as _, PayloadType, Phase,
    PublicKey, Question, TrustedState, UnixMillis, Verified,
};

const PARTNERS: usize = 10_000;
const LOAD_LIMIT: Duration = Duration::from_millis(100);
const MEMORY_LIMIT_KIB: u64 = 16 << 10;
const DECISION_LIMIT: Duration = Duration::from_micros(2);
const NOW: BootMillis = BootMillis(1_000);
/// 2027-01-01T00:00:00Z.
const TODAY: UnixMillis = UnixMillis(1_798_761_600_000);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let offline = Ed25519KeyPair::from_seed_unchecked(&[1; 32])?;
    let online = Ed25519KeyPair::from_seed_unchecked(&[2; 32])?;
    let files = std::env::temp_dir().join(format!("release-cost-{}", std::process::id()));
    match std::env::args().nth(1) {
        // In a process of its own, whose memory nothing else has used.
        Some(folder) => measure(Path::new(&folder), &online),
        None => {
            fs::create_dir(&files)?;
            fs::write(
                files.join("root"),
                seal(PayloadType::Root, root(&offline, &online)?.as_bytes(), &offline)?,
            )?;
            fs::write(files.join("release"), seal(PayloadType::Release, release()?.as_bytes(), &offline)?)?;
            let status = Command::new(std::env::current_exe()?).arg(&files).status();
            fs::remove_dir_all(&files)?;
            if status?.success() { Ok(()) } else { Err("over a limit".into()) }
        }
    }
}

fn measure(folder: &Path, online: &Ed25519KeyPair) -> Result<(), Failure> {
    let (root, sealed) = (fs::read(folder.join("root"))?, fs::read(folder.join("release"))?);
    let mut state = TrustedState::new(&root)?;
    let before = memory_kib("VmRSS:")?;
    state.accept_release(&sealed)?;
    let memory = memory_kib("VmHWM:")?.saturating_sub(before);

    // The best of several, because other programs share the machine.
    let mut load = Duration::MAX;
    for _ in 0..9 {
        let mut again = TrustedState::new(&root)?;
        let begun = Instant::now();
        again.accept_release(&sealed)?;
        load = load.min(begun.elapsed());
    }
    println!(
        "load {PARTNERS} partners  {load:.1?}, at most {memory} KiB (envelope of {} KiB)",
        sealed.len() >> 10
    );

    let nonce = Nonce::from_bytes([7; 32]);
    let release_sha256 = state.release().map(Verified::digest).ok_or("no release")?;
    state.begin_lease(nonce, NOW)?;
    let root_sha256 = state.root().digest();
    let request = LeaseRequest { nonce, root_version: 1, root_sha256, release_sha256 };
    let lease: Lease = state.draft_lease(&request, TODAY)?;
    state.accept_lease(&seal(PayloadType::Lease, &lease.to_payload(), online)?, NOW)?;

    let keys: Vec<Sha256Digest> = (0..PARTNERS).map(partner_key).collect();
    let (model_sha256, rounds) = (model_digest(7), 100_u32);
    let begun = Instant::now();
    for _ in 0..rounds {
        for partner_key in &keys {
            let question = Question {
                partner_key,
                model: "model-7",
                model_sha256: &model_sha256,
                phase: Phase::Continue,
            };
            if let Decision::Refuse(refusal) = black_box(state.decide(black_box(&question), NOW, TODAY)) {
                return Err(refusal.into());
            }
        }
    }
    let decision = begun.elapsed() / (rounds * u32::try_from(keys.len())?);
    println!("decision             {decision:.1?}");

    if load > LOAD_LIMIT || memory > MEMORY_LIMIT_KIB || decision > DECISION_LIMIT {
        return Err(
            format!("over a limit: {LOAD_LIMIT:?}, {MEMORY_LIMIT_KIB} KiB, {DECISION_LIMIT:?}").into()
        );
    }
    Ok(())
}

fn root(offline: &Ed25519KeyPair, online: &Ed25519KeyPair) -> Result<String, Failure> {
    let spki = |pair: &Ed25519KeyPair| PublicKey::from_raw(Algorithm::Ed25519, pair.public_key().as_ref());
    let (offline, online) = (spki(offline)?, spki(online)?);
    Ok(format!(
        r#"{{"room":"cost","version":1,"expires":"2030-01-01T00:00:00Z","minimum_release":1,
        "keys":[{{"name":"off","authority":"a","spki":"{offline}"}},{{"name":"on","authority":"a","spki":"{online}"}}],
        "roles":{{"root":{{"threshold":1,"keys":["off"]}},"release":{{"threshold":1,"keys":["off"]}},
        "deny":{{"threshold":1,"keys":["off"]}},"lease":{{"threshold":1,"keys":["on"]}},
        "witness":{{"threshold":0,"keys":[]}}}}}}"#
    ))
}

fn partner_key(number: usize) -> Sha256Digest {
    Sha256Digest::of(&[b"partner", &number.to_be_bytes()])
}

fn model_digest(number: usize) -> Sha256Digest {
    Sha256Digest::of(&[b"model", &number.to_be_bytes()])
}

/// As people write it: indented, eight models for every partner.
fn release() -> Result<String, Failure> {
    let pcr = "ab".repeat(48);
    let names: Vec<String> = (0..8).map(|number| format!("model-{number}")).collect();
    let models: Vec<_> = (0..8)
        .map(|number| serde_json::json!({"id": names[number], "sha256": model_digest(number), "state": "active"}))
        .collect();
    let partners: Vec<_> = (0..PARTNERS)
        .map(|number| {
            serde_json::json!({"id": format!("partner-{number}"), "keys": [partner_key(number)], "models": names,
                "limits": {"requests_per_minute": 60, "tokens_per_day": 1_000_000, "concurrency": 4},
                "expires": "2030-01-01T00:00:00Z"})
        })
        .collect();
    let release = serde_json::json!({"room": "cost", "version": 1, "expires": "2030-01-01T00:00:00Z",
        "supersedes_denials": [], "images": [{"name": "cost", "pcr0": pcr, "pcr1": pcr, "pcr2": pcr}],
        "models": models, "partners": partners, "egress": [], "witnesses": [],
        "lease": {"seconds": 60, "issuers": 1}, "audit": {"checkpoint_seconds": 0, "witnesses": 0}});
    Ok(serde_json::to_string_pretty(&release)?)
}

fn seal(payload_type: PayloadType, payload: &[u8], key: &Ed25519KeyPair) -> Result<Vec<u8>, Failure> {
    let mut envelope = Envelope::unsigned(payload_type, payload)?;
    let signature = key.sign(envelope.pae());
    envelope
        .attach(&PublicKey::from_raw(Algorithm::Ed25519, key.public_key().as_ref())?, signature.as_ref())?;
    Ok(envelope.to_json())
}

fn memory_kib(field: &str) -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .ok_or("no such line in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
