//! What a receipt costs the enclave, how large the proofs of a large log are, and how fast an audit reads it, beside the limit:
//! the signatures and hashes alone. Other people's readers read the same log. Ends with exit code 1 when a target is missed.
//!
//! `bench-log [LEAVES]` does all of it. `bench-log audit FOLDER` audits one store and prints its memory; the program starts itself so,
//! because a process's largest memory never becomes less.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::log::{
    BootRecord, Checkpoint, Edge, Entry, Frontier, NoteKey, boot_of, leaf_hash, origin,
};
use cleanroom_attestation::receipt::{Commitment, Finish, Part, Receipt, Salt, SignedReceipt};
use cleanroom_partner::audit::{Against, Store, audit};
use rustix::time::{ClockId, clock_gettime};

/// Leaves of the log unless somebody says otherwise.
const LEAVES: u64 = 10_000_000;
/// How long each of the contenders for a receipt runs in each round.
const SLICE: Duration = Duration::from_millis(20);
/// Odd, so that a median is a figure of one round.
const ROUNDS: usize = 51;
/// Entries that are appended at a time: what one batch of the control connection holds, about.
const BATCH: u64 = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [what, folder] if what == "audit" => audited(folder).map(|()| true),
        [] => run(LEAVES),
        [leaves] => leaves.parse().map_err(Into::into).and_then(run),
        _ => Err("expected nothing, or the number of leaves".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-log: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(leaves: u64) -> Result<bool, Box<dyn Error>> {
    let mut targets = Targets { met: true };
    let pair = Ed25519KeyPair::generate().map_err(|_| "no key")?;
    receipts(&pair, &mut targets)?;
    let folder = tempfile::tempdir()?;
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    write_log(&small, &pair, leaves / 10)?;
    let written = Instant::now();
    let boot = write_log(&large, &pair, leaves)?;
    println!("\na log of {leaves} leaves, written to files in {:.1} s\n", written.elapsed().as_secs_f64());
    proofs(&large.join(boot.to_string()), &pair, leaves, &mut targets)?;
    audits(&small, &large, leaves, &mut targets)?;
    Ok(targets.met)
}

/// The targets so far.
struct Targets {
    met: bool,
}

impl Targets {
    fn check(&mut self, holds: bool, text: String) {
        self.met &= holds;
        println!("{}  {text}", if holds { "ok  " } else { "MISS" });
    }
}

fn public(pair: &Ed25519KeyPair) -> Result<Vec<u8>, Box<dyn Error>> {
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| "no public key")?;
    Ok(der.as_ref().to_vec())
}

/// The time of the enclave for a receipt: its payload, its envelope, its signature, which is verified before it leaves, and its leaf.
fn receipts(pair: &Ed25519KeyPair, targets: &mut Targets) -> Result<(), Box<dyn Error>> {
    let key = public(pair)?;
    let boot = boot_of(&key);
    let salt = Salt::from_bytes([7; 32]);
    let sha256 = Sha256Digest::of(&[b"something"]);
    let (request, response) = (
        Commitment::to(b"request", Part::Request, &salt),
        Commitment::to(b"response", Part::Response, &salt),
    );
    let mut tree = Frontier::new();
    let mut one = || {
        let receipt = Receipt {
            version: 1,
            id: "chatcmpl-0f3a".parse().expect("an id"),
            boot,
            index: tree.size(),
            session: Sha384Digest::of(&[b"session"]),
            partner: sha256,
            number: tree.size() + 1,
            previous_sha256: (tree.size() > 0).then_some(sha256),
            model: ModelId::new("demo").expect("a model"),
            model_sha256: sha256,
            release_sha256: Some(sha256),
            lease_sha256: Some(sha256),
            request: request.clone(),
            response: response.clone(),
            finish: Finish::Finished,
            code: None,
            safeguard: None,
            record_sha256: None,
            started_ms: 1_800_000_000_000,
            ended_ms: 1_800_000_000_900,
        };
        let signed = SignedReceipt::sign(receipt, &key, |message| pair.sign(message).as_ref().to_vec());
        let signed = signed.expect("a receipt");
        tree.push(leaf_hash(&Entry::Receipt { sha256: signed.digest() }.to_bytes()));
        black_box(signed.to_json());
    };
    let message = [7; 1100];
    let raw = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref());
    let signature = pair.sign(&message);
    let mut limit = || {
        black_box(pair.sign(&message));
        raw.verify(&message, signature.as_ref()).expect("its own signature");
    };
    let (mut ours, mut least) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (time, than) = (per_call(&mut one), per_call(&mut limit));
        if round > 0 {
            ours.push(time);
            least.push(than);
        }
    }
    let ratio = median(ours.iter().zip(&least).map(|(ours, least)| ours / least).collect());
    let (ours, least) = (median(ours), median(least));
    println!("one core, processor time, medians of {ROUNDS} interleaved rounds\n");
    println!("{:<56} {:>8.1} µs", "a receipt: signed, verified, appended, as JSON", ours * 1e6);
    println!("{:<56} {:>8.1} µs", "one Ed25519 signature and its verification (the limit)", least * 1e6);
    println!("{:<56} {:>8.0}", "receipts per second and core", 1.0 / ours);
    targets.check(
        ratio <= 1.6,
        format!("a receipt takes {ratio:.2} of its signature and verification (target 1.6)"),
    );
    targets
        .check(1.0 / ours >= 5000.0, format!("{:.0} receipts per second and core (target 5000)", 1.0 / ours));
    Ok(())
}

/// Writes a store with one boot whose log has so many leaves, and gives the boot.
fn write_log(folder: &Path, pair: &Ed25519KeyPair, leaves: u64) -> Result<Sha256Digest, Box<dyn Error>> {
    let key = public(pair)?;
    let boot = boot_of(&key);
    let place = folder.join(boot.to_string());
    fs::create_dir_all(&place)?;
    let record = BootRecord::new(
        &key,
        ModelId::new("demo").map_err(|_| "no model")?,
        Sha256Digest::of(&[b"m"]),
        1,
        b"document",
    );
    let mut edge = Edge::default();
    let mut next = vec![Entry::Boot(record).to_bytes()];
    let mut made = 1_u64;
    loop {
        let last = made >= leaves;
        for (tile, bytes) in edge.append(&next) {
            // A partial tile is of use in the last version of a log alone.
            if tile.is_whole() || last {
                let path = place.join(tile.to_string());
                fs::create_dir_all(path.parent().unwrap_or(&place))?;
                fs::write(path, bytes)?;
            }
        }
        if last {
            break;
        }
        let until = leaves.min(made + BATCH);
        next = (made..until)
            .map(|number| Entry::Receipt { sha256: Sha256Digest::of(&[&number.to_be_bytes()]) }.to_bytes())
            .collect();
        made = until;
    }
    let checkpoint = Checkpoint { origin: origin(&boot), size: edge.size(), root: edge.root() };
    let signature = pair.sign(checkpoint.text().as_bytes());
    let note_key = NoteKey::of_boot(&key).ok_or("no key of a note")?;
    fs::write(place.join("checkpoint"), checkpoint.signed(&note_key, signature.as_ref()))?;
    fs::write(folder.join("boots"), format!("{boot}\n"))?;
    Ok(boot)
}

/// The sizes of proofs, and other people's readers on the same files.
fn proofs(
    log: &Path,
    pair: &Ed25519KeyPair,
    leaves: u64,
    targets: &mut Targets,
) -> Result<(), Box<dyn Error>> {
    let key = NoteKey::of_boot(&public(pair)?).ok_or("no key of a note")?;
    let samples: Vec<u64> =
        (0..64).map(|sample| leaves / 64 * sample + sample).chain([0, leaves - 1]).collect();
    let begun = Instant::now();
    let seen = bench_readers::read(|path| fs::read(log.join(path)).ok(), &key, &samples)?;
    let hashes = |count: usize| format!("{count} hashes, {} bytes", count * Sha256Digest::LENGTH);
    println!("the longest inclusion proof of {} leaves          {}", samples.len(), hashes(seen.inclusion));
    println!("the longest consistency proof from as many sizes   {}", hashes(seen.consistency));
    let height = leaves.next_power_of_two().trailing_zeros() as usize;
    targets.check(
        seen.inclusion <= height && seen.consistency <= height + 1,
        format!(
            "no inclusion proof is longer than {height} hashes, no consistency proof longer than {}",
            height + 1
        ),
    );
    targets.check(
        true,
        format!(
            "signed_note 0.2.0 and tlog_tiles 0.2.0 read checkpoint, tiles and proofs, and say the same ({:.2} s)",
            begun.elapsed().as_secs_f64()
        ),
    );
    Ok(())
}

/// Audits both logs, each in a process of its own.
fn audits(small: &Path, large: &Path, leaves: u64, targets: &mut Targets) -> Result<(), Box<dyn Error>> {
    let mut memory = Vec::new();
    let mut speed = 0.0;
    for (folder, leaves) in [(small, leaves / 10), (large, leaves)] {
        let output = Command::new(std::env::current_exe()?).arg("audit").arg(folder).output()?;
        let text = String::from_utf8(output.stdout)?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let &[seconds, kilobytes] = numbers.as_slice() else {
            return Err(format!("the audit failed: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
        };
        speed = leaves as f64 / seconds;
        println!(
            "audit of {leaves:>9} leaves: {seconds:>6.2} s of one core, {speed:>9.0} leaves per second, {:>6.1} MiB at most",
            kilobytes / 1024.0
        );
        memory.push(kilobytes);
    }
    let limit = hashing();
    println!("the two hashes that each leaf needs, alone: {:.0} leaves per second (the limit)", 1.0 / limit);
    targets.check(
        speed * limit >= 0.15,
        format!("the audit runs at {:.2} of the hashes alone (target 0.15)", speed * limit),
    );
    if let [small, large] = memory[..] {
        // 64 bytes for each 256 entries.
        let grows = (large - small) * 1024.0 / (leaves as f64 * 0.9);
        targets.check(grows <= 1.0, format!("memory grows by {grows:.2} bytes for each leaf (target 1)"));
    }
    Ok(())
}

/// Audits a store, and prints seconds of processor time and the largest memory in KiB.
fn audited(folder: &str) -> Result<(), Box<dyn Error>> {
    let store = Store::named(folder)?;
    let begun = processor_time();
    let report = audit(&store, &Against::default(), |_, _| {})?;
    let time = processor_time() - begun;
    if !report.is_sound() {
        return Err(format!("the audit finds something wrong: {:?}", report.problems).into());
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    println!("{} {}", time.as_secs_f64(), most.ok_or("no VmHWM in /proc/self/status")?.trim());
    Ok(())
}

/// Seconds of one core for the two hashes that each leaf of the log costs: its own, and one of a node.
fn hashing() -> f64 {
    let entry = Entry::Receipt { sha256: Sha256Digest::of(&[b"x"]) }.to_bytes();
    let hash = |parts: [&[u8]; 2]| {
        let mut context = Context::new(&SHA256);
        parts.into_iter().for_each(|part| context.update(part));
        context.finish()
    };
    let node = [7; 64];
    let mut both = || {
        black_box(hash([&[0], &entry]));
        black_box(hash([&[1], &node]));
    };
    median((0..ROUNDS).map(|_| per_call(&mut both)).collect())
}

/// Seconds of processor time per call over about a [`SLICE`].
fn per_call(work: &mut dyn FnMut()) -> f64 {
    let begun = processor_time();
    let mut calls = 0_u32;
    while processor_time() - begun < SLICE {
        for _ in 0..16 {
            work();
        }
        calls += 16;
    }
    (processor_time() - begun).as_secs_f64() / f64::from(calls)
}

/// Processor time of this thread. What else runs on the machine does not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
