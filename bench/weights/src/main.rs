//! Opens and hashes a sealed file of random bytes through the host's store, as an enclave does before it serves, and compares the
//! time with that of the cryptography alone: AES-256-GCM and SHA-256 over the same chunks, on as many threads, in the same run.
//! There are two such limits. In one the cryptographic library hashes chunk after chunk; the target is a part of it. In the other
//! chunks are hashed in pairs, as the enclave does.
//! Then it seals the file with `cleanroom-authority seal` and with `age`, in turn.
//!
//! The store and the enclave are processes of their own with a Unix socket between them, so the peak memory of the enclave's is
//! its own. The enclave has 1 to all processors; the store shares them. The target holds for the half of the processors,
//! where the store has the other half.
//!
//! Another process asks for as much memory before each opening, twice. An enclave's memory is set aside for it before it boots.
//! A virtual machine may get its memory only when it uses it, page by page, and then the opening would show how fast the machine
//! under this one is. How long both took stands below the table, and what the limit is with the kernel's part of it.
//!
//! Ends with exit code 1 when a target is missed.

mod limit;
mod memory;
mod open;
mod seal;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use memory::Speed;
use open::Opened;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How much of the speed of the cryptography alone the enclave must reach.
const SPEED_TARGET: f64 = 0.85;
/// Memory beside the weights that it may use, bytes.
const MEMORY_TARGET: u64 = 64 << 20;
/// How much faster than `age` sealing must be.
const SEAL_TARGET: f64 = 1.0;

const USAGE: &str = "usage: bench-weights AUTHORITY [MIB [ROUNDS]]   (the program cleanroom-authority; default: 4096 MiB, 3 rounds)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--enclave", socket, threads] => open::enclave(Path::new(socket), threads).map(|()| true),
        ["--memory", bytes, threads] => memory::twice(bytes, threads).map(|()| true),
        ["--store", socket, file] => open::store(Path::new(socket), Path::new(file)).map(|()| true),
        [authority, rest @ ..] if rest.len() <= 2 && !authority.starts_with('-') => {
            let number =
                |index: usize, default: u64| rest.get(index).map_or(Ok(default), |text| text.parse());
            match (number(0, 4096), number(1, 3)) {
                (Ok(mib), Ok(rounds)) if mib > 0 && rounds > 0 => run(Path::new(authority), mib, rounds),
                _ => Err(USAGE.into()),
            }
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-weights: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(authority: &Path, mib: u64, rounds: u64) -> Outcome<bool> {
    let processors = std::thread::available_parallelism()?.get();
    println!("{}, {processors} processors, load {}", processor()?, load()?);
    let folder = tempfile::Builder::new().prefix("weights-").tempdir_in(".")?;
    let plain = folder.path().join("weights");
    let bytes = mib << 20;
    seal::random_file(&plain, bytes)?;
    println!("{bytes} random bytes, {rounds} interleaved rounds, the best of each\n");

    let sealed = seal::once(authority, &plain, folder.path())?;
    let mut met = opening(&sealed, bytes, rounds, processors)?;
    std::fs::remove_file(&sealed)?;
    met &= sealing(authority, &plain, folder.path(), bytes, rounds)?;
    Ok(met)
}

/// What the cryptography alone reaches, GB/s.
#[derive(Default)]
struct Limits {
    cipher: f64,
    /// One message at a time, by the library.
    hash: f64,
    /// Two at a time, by the project's own code. As the library where the processor cannot.
    pairs: f64,
}

impl Limits {
    /// The better of what was measured before and what is measured now.
    fn measure(&mut self, threads: usize) -> Outcome<()> {
        self.cipher = self.cipher.max(limit::cipher(threads)?);
        self.hash = self.hash.max(limit::hash(threads));
        self.pairs = self.pairs.max(limit::hash_in_pairs(threads).unwrap_or(self.hash));
        Ok(())
    }

    /// Cipher and hash, one after the other, with one message at a time and with two.
    fn of_both(&self) -> [f64; 2] {
        [self.hash, self.pairs].map(|hash| 1.0 / (1.0 / self.cipher + 1.0 / hash))
    }
}

fn opening(sealed: &Path, bytes: u64, rounds: u64, processors: usize) -> Outcome<bool> {
    let (mut met, mut speeds) = (true, Vec::new());
    println!(
        "GB/s      AES-256-GCM       SHA-256           both: the limit                 of the limit     memory"
    );
    println!(
        "threads                 library  in pairs   library  in pairs   opened   library  in pairs   beside"
    );
    for threads in 1..=processors {
        let (mut limits, mut best) = (Limits::default(), None::<Opened>);
        let mut memory = Speed { found: f64::MAX, used: 0.0 };
        for _ in 0..rounds {
            limits.measure(threads)?;
            memory = memory.and(memory::measure(bytes, threads)?);
            let opened = open::measure(sealed, threads)?;
            if best.as_ref().is_none_or(|best| opened.seconds < best.seconds) {
                best = Some(opened);
            }
        }
        let best = best.ok_or("no round")?;
        let [one_by_one, in_pairs] = limits.of_both();
        let speed = bytes as f64 / best.seconds / 1e9;
        let beside = best.peak_bytes.saturating_sub(bytes);
        println!(
            "{threads:>7}   {:>11.2}   {:>7.2}  {:>8.2}   {one_by_one:>7.2}  {in_pairs:>8.2}   {speed:>6.2}   {:>7.2}  {:>8.2}   {:.1} MiB",
            limits.cipher,
            limits.hash,
            limits.pairs,
            speed / one_by_one,
            speed / in_pairs,
            beside as f64 / f64::from(1 << 20),
        );
        speeds.push((threads, memory, one_by_one, speed));
        if threads == processors.div_ceil(2) && speed / one_by_one < SPEED_TARGET {
            println!("MISSED: {SPEED_TARGET} of the library's limit with {threads} threads");
            met = false;
        }
        if beside > MEMORY_TARGET {
            println!("MISSED: at most {} MiB beside the weights", MEMORY_TARGET >> 20);
            met = false;
        }
    }
    println!(
        "\nGB/s      memory, as found  memory that was in use  the library's limit with that  opened, of this"
    );
    for (threads, Speed { found, used }, limit, opened) in speeds {
        let with = 1.0 / (1.0 / limit + 1.0 / used);
        println!("{threads:>7}   {found:>16.2}  {used:>22.2}  {with:>29.2}  {:>15.2}", opened / with);
    }
    Ok(met)
}

fn sealing(authority: &Path, plain: &Path, folder: &Path, bytes: u64, rounds: u64) -> Outcome<bool> {
    let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
    for _ in 0..rounds {
        // The system keeps in memory what a file is made of, until the disk has it.
        memory::measure(bytes, 1)?;
        ours = ours.min(seal::timed_seal(authority, plain, folder)?);
        memory::measure(bytes, 1)?;
        theirs = theirs.min(seal::timed_age(plain, folder)?);
    }
    let speed = |seconds: f64| bytes as f64 / seconds / 1e9;
    let ratio = theirs / ours;
    println!(
        "\nsealing, and its identity      cleanroom-authority seal {:.2} GB/s\nencrypting alone               age {:.2} GB/s, so seal is {ratio:.2} times as fast",
        speed(ours),
        speed(theirs)
    );
    if ratio < SEAL_TARGET {
        println!("MISSED: as fast as age");
    }
    Ok(ratio >= SEAL_TARGET)
}

fn processor() -> Outcome<String> {
    let information = std::fs::read_to_string("/proc/cpuinfo")?;
    let name = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(name.map_or("a processor without a name", |(_, name)| name.trim()).to_owned())
}

fn load() -> Outcome<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(load.split_whitespace().next().unwrap_or("unknown").to_owned())
}

/// This program, for its children.
fn this_program() -> Outcome<PathBuf> {
    Ok(std::env::current_exe()?)
}
