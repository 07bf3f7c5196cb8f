//! Boots an image under every fault that it must notice, and checks that it halts with the reason and never
//! serves.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use clap::Parser;
use cleanroom_boot_tests::trial::{Bench, Outcome, Parent};
use cleanroom_boot_tests::{Error, MachineArguments};
use cleanroom_host::launcher::qemu::{MachineSettings, Respond};
use cleanroom_software_nsm::SoftwareNsm;
use cleanroom_software_nsm::serve::system_time_ms;

/// How long an enclave may take to halt. The heartbeat alone has ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Boots an image under faults; exit status 0 when every one ends in a halt with its reason.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// The model that the image's configuration names.
    #[arg(long)]
    model: PathBuf,
    /// The least memory that is tried, in MiB.
    #[arg(long, default_value = "24")]
    memory_from: u32,
    /// The most memory that is tried, in MiB.
    #[arg(long, default_value = "56")]
    memory_to: u32,
    /// The step from one to the other, in MiB.
    #[arg(long, default_value = "4")]
    memory_step: u32,
    /// Only the faults whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "boot-faults: {error}");
            ExitCode::from(2)
        }
    }
}

/// One fault and the words that the console must have for it.
struct Fault {
    name: &'static str,
    reason: &'static str,
    security_module: Module,
    parent: Parent,
    append: &'static str,
}

/// What the enclave finds at `/dev/nsm`.
#[derive(Clone, Copy)]
enum Module {
    Sound,
    None,
    /// Answers every request with this.
    Says(fn() -> Vec<u8>),
    /// Was asked this before the enclave booted.
    Asked(fn() -> Request),
}

const SOUND: Fault =
    Fault { name: "", reason: "", security_module: Module::Sound, parent: Parent::Helpful, append: "" };

fn faults() -> Vec<Fault> {
    let module = |name, reason, security_module| Fault { name, reason, security_module, ..SOUND };
    let touched = "expected PCR 16 to be zero and unlocked at boot";
    vec![
        module("no security module", "expected the security module at /dev/nsm", Module::None),
        module(
            "security module fails",
            "randomness from the security module, got an error",
            Module::Says(|| encode(&Response::Error(ErrorCode::InternalError))),
        ),
        module(
            "security module talks no CBOR",
            "randomness from the security module, got an error",
            Module::Says(|| vec![0xff; 300]),
        ),
        module(
            "security module answers another question",
            "randomness from the security module, got an answer to another question",
            Module::Says(|| encode(&Response::LockPCR)),
        ),
        module(
            "no randomness",
            "randomness from the security module, got another number of them",
            Module::Says(|| encode(&Response::GetRandom { random: Vec::new() })),
        ),
        module(
            "constant randomness",
            "randomness from the security module, got one byte over and over",
            Module::Says(|| encode(&Response::GetRandom { random: vec![0; 256] })),
        ),
        module(
            "PCR 16 extended",
            touched,
            Module::Asked(|| Request::ExtendPCR { index: 16, data: vec![1; 48] }),
        ),
        module("PCR 16 locked", touched, Module::Asked(|| Request::LockPCR { index: 16 })),
        Fault {
            name: "wrong clock source",
            reason: "expected one of the clock sources",
            append: "tsc=unstable no-kvmclock",
            ..SOUND
        },
        Fault {
            name: "parent is silent",
            reason: "the parent did not answer the heartbeat",
            parent: Parent::Silent,
            ..SOUND
        },
        Fault {
            name: "parent is absent",
            reason: "the parent did not answer the heartbeat",
            parent: Parent::Absent,
            ..SOUND
        },
    ]
}

async fn run(arguments: &Arguments) -> Result<bool, Error> {
    let folder = tempfile::tempdir()?;
    let mut bench = Bench::new(&arguments.machine.image, folder.path())?;
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut good = true;
    if wanted("no fault") {
        let settings = arguments.machine.settings();
        let (outcome, said, took) =
            boot(&bench, &settings, Module::Sound, Parent::Helpful, arguments).await?;
        good &= verdict("no fault", outcome == Outcome::Served, outcome, took, &said)?;
    }
    for fault in faults().into_iter().filter(|fault| wanted(fault.name)) {
        let settings = MachineSettings { append: fault.append.to_owned(), ..arguments.machine.settings() };
        let (outcome, said, took) =
            boot(&bench, &settings, fault.security_module, fault.parent, arguments).await?;
        let halted = outcome == Outcome::Ended && said.contains("halted: ") && said.contains(fault.reason);
        good &= verdict(fault.name, halted, outcome, took, &said)?;
    }
    if wanted("memory") {
        good &= memory(&bench, arguments).await?;
    }
    if wanted("ramdisk") {
        good &= cut_ramdisks(&mut bench, arguments).await?;
    }
    Ok(good)
}

/// Gives the machine more and more memory, from too little to boot to enough to serve. Nothing may serve that
/// PID 1 has not found whole, and what does not serve says why: the launcher, as long as kernel and ramdisks
/// destroy each other (a machine that is started all the same does anything but serve), and the image itself
/// from there on.
async fn memory(bench: &Bench, arguments: &Arguments) -> Result<bool, Error> {
    let (mut good, mut refused, mut ended, mut served) = (true, 0, 0, 0);
    let mut memory_mib = arguments.memory_from;
    while memory_mib <= arguments.memory_to {
        let name = format!("memory {memory_mib} MiB");
        let settings = MachineSettings { memory_mib, ..arguments.machine.settings() };
        let fits = bench.fits(memory_mib);
        let (outcome, said, took) = boot(bench, &settings, Module::Sound, Parent::Helpful, arguments).await?;
        let sound = match outcome {
            Outcome::Served => fits.is_ok() && found_whole(&said),
            Outcome::Ended => fits.is_err() || reason(&said).is_some(),
            Outcome::Neither => fits.is_err(),
        };
        match &fits {
            Err(refusal) => {
                refused += 1;
                say(&format!("       {name}: the launcher refuses: {refusal}; started all the same:"))?;
            }
            Ok(()) if outcome == Outcome::Served => served += 1,
            Ok(()) => ended += 1,
        }
        good &= verdict(&name, sound, outcome, took, &said)?;
        memory_mib += arguments.memory_step;
    }
    say(&format!(
        "memory: {refused} sizes refused by the launcher, {ended} ended with their reason, {served} served"
    ))?;
    Ok(good && refused > 0 && served > 0)
}

/// Cuts the ramdisks off at several places, under a security module that attests the whole image. Only the
/// whole may serve, and a cut inside the application must be named.
async fn cut_ramdisks(bench: &mut Bench, arguments: &Arguments) -> Result<bool, Error> {
    let (first, all) = bench.ramdisk_lengths();
    let application = all - first;
    // Inside PID 1; after the first ramdisk; inside the application; before its last file's end; whole.
    let cuts = [
        first / 2,
        first,
        first + application / 4,
        first + application / 2,
        all - 64 * 1024,
        all - 1024,
        all,
    ];
    let mut good = true;
    for cut in cuts {
        bench.cut_ramdisks(cut)?;
        let settings = arguments.machine.settings();
        let (outcome, said, took) = boot(bench, &settings, Module::Sound, Parent::Helpful, arguments).await?;
        let refused = said.contains("halted: the application is not the one that was measured");
        let sound = match outcome {
            Outcome::Served => found_whole(&said) && !refused,
            Outcome::Ended => cut < first || refused,
            Outcome::Neither => cut < first,
        };
        good &= verdict(&format!("ramdisks cut after {cut} of {all} bytes"), sound, outcome, took, &said)?;
    }
    Ok(good)
}

/// Why a machine ended, by its console.
fn reason(said: &str) -> Option<&str> {
    let line = |needle| said.lines().find_map(|line: &str| line.split_once(needle).map(|(_, rest)| rest));
    line("halted: ").or_else(|| line("Kernel panic - "))
}

fn found_whole(said: &str) -> bool {
    said.contains("the application is whole")
}

async fn boot(
    bench: &Bench,
    settings: &MachineSettings,
    module: Module,
    parent: Parent,
    arguments: &Arguments,
) -> Result<(Outcome, String, Duration), Error> {
    let security_module: Option<Box<dyn Respond>> = match module {
        Module::Sound => Some(Box::new(bench.security_module()?)),
        Module::None => None,
        Module::Says(answer) => Some(Box::new(Says(answer()))),
        Module::Asked(request) => {
            let mut module: SoftwareNsm = bench.security_module()?;
            let _ = module.process(&serde_cbor::to_vec(&request())?, system_time_ms());
            Some(Box::new(module))
        }
    };
    bench.boot(settings, security_module, parent, &arguments.model, PATIENCE).await
}

/// A security module that knows one answer.
struct Says(Vec<u8>);

impl Respond for Says {
    fn respond(&mut self, _request: &[u8], capacity: usize) -> Vec<u8> {
        self.0.get(..capacity).unwrap_or(&self.0).to_vec()
    }
}

fn encode(response: &Response) -> Vec<u8> {
    serde_cbor::to_vec(response).unwrap_or_default()
}

/// Prints one line, and for what is not as it must be the end of the console.
fn verdict(name: &str, good: bool, outcome: Outcome, took: Duration, said: &str) -> Result<bool, Error> {
    let reason = reason(said).unwrap_or_default();
    let mark = if good { "ok    " } else { "FAILED" };
    say(&format!("{mark} {name}: {outcome:?} after {:.1} s {reason}", took.as_secs_f64()))?;
    if !good {
        let lines: Vec<&str> = said.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(15)) {
            say(&format!("         | {line}"))?;
        }
    }
    Ok(good)
}

fn say(line: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
