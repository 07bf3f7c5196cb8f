//! Measures one enclave image with cleanroom and with AWS's own crate, in interleaved rounds, and prints the least time of each
//! beside the physical limit. Ratios are medians of the ratios within each round: a processor's clock wanders between rounds.
//! Ends with exit code 1 when PCRs differ or a target is missed.
//!
//! Every byte of an image enters two PCRs, PCR 0 and one of PCR 1 and PCR 2, so the limit is two SHA-384 over the file, one on each of
//! two processors. On processors with nothing in common that takes as long as one; on those that share a cache, a clock or a
//! core it takes longer, and by how much is measured here rather than assumed.
//!
//! Every measurement runs in a process of its own, so that the peak memory of each is its own too.

mod images;

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA384};
use aws_nitro_enclaves_image_format::utils::eif_reader::EifReader;
use cleanroom_attestation::measurement::Measurer;
use cleanroom_partner::commands::measure;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What each process can be asked to do with an image; the limit comes directly after what it limits.
const CONTENDERS: [(&str, &str); 5] = [
    ("cleanroom", "cleanroom measure (two threads)"),
    ("side-by-side", "SHA-384 twice, side by side (the limit)"),
    ("sha384", "SHA-384 of the file, once"),
    ("single", "cleanroom, one thread"),
    ("aws", "aws-nitro-enclaves-image-format 0.8.1"),
];

/// How much longer than hashing the bytes on both processors at once the measurement may take: the CRC-32 and one wait for the
/// first piece are in it.
const OVERHEAD_LIMIT: f64 = 1.05;
/// Peak memory that the measurement may use, KiB.
const MEMORY_LIMIT: u64 = 16 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--child", contender, image] => child(contender, Path::new(image)).map(|()| true),
        [] => run(1024, 7),
        [mib, rounds] => match (mib.parse(), rounds.parse()) {
            (Ok(mib), Ok(rounds)) if rounds > 0 => run(mib, rounds),
            _ => Err("usage: bench-measure [MIB ROUNDS]".into()),
        },
        _ => Err("usage: bench-measure [MIB ROUNDS]".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mib: u64, rounds: usize) -> Outcome<bool> {
    let directory = tempfile::tempdir()?;
    let compared = images::compare_small(directory.path())?;
    println!(
        "the same PCRs, and written the same bytes, as AWS's crate on {compared} small images (unsigned, and signed with P-256, P-384, P-521)"
    );

    let image = images::large(directory.path(), mib)?;
    let length = std::fs::metadata(&image)?.len();
    println!("image of {length} bytes, {rounds} interleaved rounds, the least time of each");
    let load = load()?;
    println!(
        "load of the machine before the run: {load:.1} on {} processors\n",
        std::thread::available_parallelism()?
    );
    let mut results: [Vec<Value>; CONTENDERS.len()] = Default::default();
    for _ in 0..rounds {
        for ((contender, _), results) in CONTENDERS.iter().zip(&mut results) {
            results.push(in_child(contender, &image)?);
        }
    }

    let summaries = results.each_ref().map(|results| Summary::of(results));
    let [ours, limit, once, _, aws] = &results;
    println!("{:<40} {:>9} {:>9} {:>10} {:>8} {:>9}", "", "seconds", "cpu s", "MiB/s", "x limit", "peak MiB");
    for (((_, name), summary), results) in CONTENDERS.iter().zip(&summaries).zip(&results) {
        println!(
            "{name:<40} {:>9.3} {:>9.2} {:>10.0} {:>8.2} {:>9.1}",
            summary.seconds,
            summary.cpu_seconds,
            length as f64 / summary.seconds / f64::from(1 << 20),
            ratio(results, limit),
            summary.peak_kib as f64 / 1024.0,
        );
    }
    println!();
    let mut met = true;
    let mut target = |holds: bool, text: String| {
        met &= holds;
        println!("{}  {text}", if holds { "ok  " } else { "MISS" });
    };
    let pcrs: Vec<&Value> =
        results.iter().flatten().map(|result| &result["pcrs"]).filter(|pcrs| !pcrs.is_null()).collect();
    target(
        pcrs.len() == 3 * rounds && pcrs.windows(2).all(|pair| pair[0] == pair[1]),
        "all give the same PCRs".into(),
    );
    let faster = ratio(aws, ours);
    target(faster >= 1.0, format!("{faster:.2} times as fast as AWS's crate"));
    let overhead = ratio(ours, limit);
    target(
        overhead <= OVERHEAD_LIMIT,
        format!(
            "{overhead:.2} of hashing on both processors at once (target {OVERHEAD_LIMIT:.2}); {:.2} of hashing once on one",
            ratio(ours, once)
        ),
    );
    let [Summary { peak_kib, .. }, ..] = summaries;
    target(peak_kib < MEMORY_LIMIT, format!("peak memory {:.1} MiB (target 16)", peak_kib as f64 / 1024.0));
    Ok(met)
}

/// The median over all rounds of how many times as long the one took as the other did in the same round.
fn ratio(one: &[Value], other: &[Value]) -> f64 {
    let mut ratios: Vec<f64> =
        one.iter().zip(other).map(|(one, other)| number(one, "seconds") / number(other, "seconds")).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}

fn number(result: &Value, field: &str) -> f64 {
    result[field].as_f64().unwrap_or(f64::NAN)
}

struct Summary {
    seconds: f64,
    cpu_seconds: f64,
    peak_kib: u64,
}

impl Summary {
    /// The round that took the least time, and the highest peak of all.
    fn of(results: &[Value]) -> Self {
        let (seconds, cpu_seconds) = results
            .iter()
            .map(|result| (number(result, "seconds"), number(result, "cpu_seconds")))
            .min_by(|one, other| one.0.total_cmp(&other.0))
            .unwrap_or((f64::NAN, f64::NAN));
        let peak_kib =
            results.iter().filter_map(|result| result["peak_kib"].as_u64()).max().unwrap_or(u64::MAX);
        Self { seconds, cpu_seconds, peak_kib }
    }
}

fn in_child(contender: &str, image: &Path) -> Outcome<Value> {
    let output = Command::new(std::env::current_exe()?).arg("--child").arg(contender).arg(image).output()?;
    if !output.status.success() {
        return Err(format!("{contender}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn child(contender: &str, image: &Path) -> Outcome<()> {
    let start = Instant::now();
    let pcrs = match contender {
        "cleanroom" => images::pcrs(&measure::measure(&mut File::open(image)?, |_| ())?),
        "single" => {
            let mut measurer = Measurer::new();
            in_pieces(image, |piece| Ok(measurer.update(piece)?))?;
            images::pcrs(&measurer.finish()?)
        }
        "aws" => {
            let path = image.to_str().ok_or("the path is not UTF-8")?.to_owned();
            let mut reader = EifReader::from_eif(path)?;
            if !reader.check_crc() {
                return Err("AWS's crate finds a wrong CRC".into());
            }
            images::aws_pcrs(&reader.get_measurements()?)
        }
        "sha384" => {
            sha384(image)?;
            Value::Null
        }
        "side-by-side" => {
            let other = image.to_owned();
            let other = std::thread::spawn(move || sha384(&other).map_err(|error| error.to_string()));
            sha384(image)?;
            other.join().map_err(|_| "a thread panicked")??;
            Value::Null
        }
        other => return Err(format!("unknown contender {other}").into()),
    };
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "pcrs": pcrs, "seconds": seconds, "cpu_seconds": cpu_seconds()?, "peak_kib": peak_kib()? })
    );
    Ok(())
}

fn sha384(image: &Path) -> Outcome<()> {
    let mut context = Context::new(&SHA384);
    in_pieces(image, |piece| {
        context.update(piece);
        Ok(())
    })?;
    let _ = context.finish();
    Ok(())
}

fn in_pieces(image: &Path, mut take: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
    let mut file = File::open(image)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => take(&buffer[..length])?,
        }
    }
}

/// The peak of this process's resident memory.
fn peak_kib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time of all threads of this process, and of the system on their behalf.
fn cpu_seconds() -> Outcome<f64> {
    /// Linux counts these fields in hundredths of a second on every architecture that is left.
    const TICKS: f64 = 100.0;
    let status = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = status.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok((user + system) / TICKS),
        _ => Err("no times in /proc/self/stat".into()),
    }
}

/// How many threads wanted to run, on average over the last minute.
fn load() -> Outcome<f64> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(load.split_whitespace().next().unwrap_or_default().parse()?)
}
