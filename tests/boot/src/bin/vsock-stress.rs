//! Drives the application `vsock-guest` in a virtual machine: vsock under every load that a relay puts on it,
//! every byte checked.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use cleanroom_boot_tests::pattern::Pattern;
use cleanroom_boot_tests::task::{Kind, Task};
use cleanroom_boot_tests::trial::Bench;
use cleanroom_boot_tests::{Error, MachineArguments};
use cleanroom_host::endpoint::EnclaveAddress;
use cleanroom_host::launcher::qemu::Machine;
use cleanroom_host::relay::Dial as _;
use cleanroom_link::port;
use cleanroom_vsock::{Gathered, WRITE_CAP};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

/// A transfer on which nothing moves any more has stalled.
const STALLED: Duration = Duration::from_secs(30);

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Stresses vsock in a virtual machine; exit status 0 when everything arrives whole that is written as the
/// relay and the enclave write.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// Also measure each write as it is, without the cap, and neighbours of connections that write byte by
    /// byte. What fails there is reported and not counted.
    #[arg(long)]
    compare: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "vsock-stress: {error}");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is 16 KiB")]
const CAP: u32 = WRITE_CAP as u32;

const BASE: Task = Task {
    kind: Kind::Receive,
    seed: 1,
    total: 0,
    write: 16 * 1024,
    cap: CAP,
    flush: true,
    pause_ms: 0,
    close_half: false,
};

async fn run(arguments: &Arguments) -> Result<bool, Error> {
    let folder = tempfile::tempdir()?;
    let bench = Bench::new(&arguments.machine.image, folder.path())?;
    let model = folder.path().join("nothing");
    std::fs::write(&model, "")?;
    let (machine, mut console) = bench.start_serving(&arguments.machine.settings(), &model).await?;
    let console = tokio::spawn(async move {
        let mut said = Vec::new();
        let _ = console.read_to_end(&mut said).await;
        said
    });
    let port = bench.port(port::PARTNERS);
    let good = trials(&port, arguments.compare).await;
    finish(machine).await?;
    if !matches!(good, Ok(true)) {
        say(&String::from_utf8_lossy(&console.await?))?;
    }
    good
}

async fn finish(mut machine: Machine) -> Result<(), Error> {
    machine.kill();
    machine.wait().await?;
    Ok(())
}

async fn trials(port: &EnclaveAddress, compare: bool) -> Result<bool, Error> {
    let mut good = true;
    for kind in [Kind::Receive, Kind::Send] {
        for (write, total) in [
            (1, 64 * KIB),
            (64, MIB),
            (1024, 8 * MIB),
            (4 * 1024, 8 * MIB),
            (16 * 1024, 16 * MIB),
            (32 * 1024, 16 * MIB),
            (64 * 1024, 16 * MIB),
            (256 * 1024, 16 * MIB),
            (1024 * 1024, 16 * MIB),
        ] {
            let task = Task { kind, write, total, ..BASE };
            good &= one(port, task, "each flushed").await?;
            good &= one(port, Task { flush: false, ..task }, "gathered").await?;
            if compare {
                let _ = one(port, Task { cap: 0, ..task }, "as written").await?;
            }
        }
        good &= one(port, Task { kind, total: MIB, close_half: true, ..BASE }, "half closed").await?;
    }
    for cap in [4, 8, 32, 64] {
        for kind in [Kind::Receive, Kind::Send] {
            let task = Task { kind, cap: cap * 1024, write: 1024 * 1024, total: 16 * MIB, ..BASE };
            let _ = one(port, task, &format!("cap {cap} KiB")).await?;
        }
    }
    if compare {
        neighbours(port).await?;
    }
    good &= one(port, Task { total: 4 * MIB, pause_ms: 5000, ..BASE }, "guest does not read for 5 s").await?;
    good &= slow_reader(port).await?;
    good &= many(port).await?;
    Ok(good)
}

/// One transfer on a connection of its own.
async fn one(port: &EnclaveAddress, task: Task, name: &str) -> Result<bool, Error> {
    let begun = Instant::now();
    let result = timeout(STALLED, transfer(port, task, Duration::ZERO)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let (good, what) = match result {
        Err(_) => (false, "STALLED".to_owned()),
        Ok(Err(error)) => (false, format!("FAILED: {error}")),
        Ok(Ok(false)) => (false, "WRONG BYTES".to_owned()),
        Ok(Ok(true)) => (true, format!("{:.2} MiB/s", task.total as f64 / MIB as f64 / seconds)),
    };
    let direction = if task.kind == Kind::Receive { "host to guest" } else { "guest to host" };
    say(&format!(
        "{direction} | writes of {} | {} bytes | {name} | {seconds:.2} s | {what}",
        task.write, task.total
    ))?;
    Ok(good)
}

/// Carries out `task`; the host does not read for `pause` at first. Whether every byte was right.
async fn transfer(port: &EnclaveAddress, task: Task, pause: Duration) -> Result<bool, Error> {
    let mut stream = port.dial().await?;
    stream.write_all(&task.encode()).await?;
    stream.flush().await?;
    if task.kind == Kind::Send {
        tokio::time::sleep(pause).await;
        return receive(&mut stream, &task).await;
    }
    if task.cap == 0 {
        send(&mut stream, &task).await?;
    } else {
        send(&mut Gathered::with_cap(&mut stream, task.cap as usize), &task).await?;
    }
    if task.close_half {
        stream.shutdown().await?;
    }
    Ok(stream.read_u8().await? == 1)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), task: &Task) -> Result<(), Error> {
    let mut pattern = Pattern::new(task.seed);
    let mut buffer = vec![0; task.write as usize];
    let mut left = task.total;
    while left > 0 {
        let length = usize::try_from(left)?.min(buffer.len());
        let Some(bytes) = buffer.get_mut(..length) else { break };
        pattern.fill(bytes);
        stream.write_all(bytes).await?;
        if task.flush {
            stream.flush().await?;
        }
        left -= length as u64;
    }
    stream.flush().await?;
    Ok(())
}

async fn receive(stream: &mut (impl AsyncRead + Unpin), task: &Task) -> Result<bool, Error> {
    let mut pattern = Pattern::new(task.seed);
    let mut buffer = vec![0; 256 * 1024];
    let mut left = task.total;
    while left > 0 || task.close_half {
        let count = stream.read(&mut buffer).await?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if count == 0 || !pattern.matches(bytes) {
            return Ok(count == 0 && left == 0);
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(true)
}

/// How long an exchange of 1 KiB takes beside connections that write byte by byte, as fast as they can or
/// with a pause after each: whether the relay ought to hold small writes apart.
async fn neighbours(port: &EnclaveAddress) -> Result<(), Error> {
    const FLOODS: u64 = 64;
    const EXCHANGES: usize = 200;
    for pause in
        [None, Some(0), Some(250), Some(1000), Some(4000)].map(|pause| pause.map(Duration::from_micros))
    {
        let mut floods = tokio::task::JoinSet::new();
        if let Some(pause) = pause {
            for _ in 0..FLOODS {
                floods.spawn(dribble(port.clone(), pause));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut times = Vec::with_capacity(EXCHANGES);
        for _ in 0..EXCHANGES {
            let begun = Instant::now();
            if transfer(port, Task { total: KIB, ..BASE }, Duration::ZERO).await? {
                times.push(begun.elapsed());
            }
        }
        floods.shutdown().await;
        times.sort();
        let within = |percent: usize| times.get(EXCHANGES * percent / 100).copied().unwrap_or(Duration::MAX);
        let beside = pause.map_or_else(
            || "nobody".to_owned(),
            |pause| format!("{FLOODS} connections that write bytes {pause:?} apart"),
        );
        say(&format!(
            "beside {beside} | exchange of 1 KiB | median {:.1?} | 95 of 100 {:.1?}",
            within(50),
            within(95)
        ))?;
    }
    Ok(())
}

/// Sends the guest single bytes for ever.
async fn dribble(port: EnclaveAddress, pause: Duration) -> std::io::Result<()> {
    let mut stream = port.dial().await?;
    stream.write_all(&Task { total: u64::MAX, ..BASE }.encode()).await?;
    let mut pattern = Pattern::new(BASE.seed);
    loop {
        let mut byte = [0];
        pattern.fill(&mut byte);
        stream.write_all(&byte).await?;
        stream.flush().await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// A host that stops reading must not lose bytes, nor keep other connections from being served in the
/// meantime.
async fn slow_reader(port: &EnclaveAddress) -> Result<bool, Error> {
    let slow = Task { kind: Kind::Send, total: 4 * MIB, ..BASE };
    let quick = Task { kind: Kind::Send, total: MIB, seed: 2, ..BASE };
    let begun = Instant::now();
    let (slow, quick) = tokio::join!(timeout(STALLED, transfer(port, slow, Duration::from_secs(5))), async {
        let result = timeout(STALLED, transfer(port, quick, Duration::ZERO)).await;
        (result, begun.elapsed())
    });
    let (quick, took) = quick;
    let good = matches!(slow, Ok(Ok(true))) && matches!(quick, Ok(Ok(true))) && took < Duration::from_secs(5);
    say(&format!(
        "host does not read for 5 s: {slow:?}; another connection in the meantime: {quick:?} in {took:.2?}"
    ))?;
    Ok(good)
}

/// Many connections at once, half in each direction.
async fn many(port: &EnclaveAddress) -> Result<bool, Error> {
    const CONNECTIONS: u64 = 500;
    let begun = Instant::now();
    let port = Arc::new(port.clone());
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..CONNECTIONS {
        let port = Arc::clone(&port);
        tasks.spawn(async move {
            let kind = if seed % 2 == 0 { Kind::Receive } else { Kind::Send };
            let task = Task { kind, seed, total: 32 * KIB, write: 1000, ..BASE };
            timeout(2 * STALLED, transfer(&port, task, Duration::ZERO)).await
        });
    }
    let (mut right, mut wrong, mut failed, mut stalled) = (0, 0, 0, 0);
    while let Some(result) = tasks.join_next().await {
        match result? {
            Ok(Ok(true)) => right += 1,
            Ok(Ok(false)) => wrong += 1,
            Ok(Err(_)) => failed += 1,
            Err(_) => stalled += 1,
        }
    }
    say(&format!(
        "{CONNECTIONS} connections at once: {right} right, {wrong} with wrong bytes, {failed} failed, {stalled} stalled, in {:.2?}",
        begun.elapsed()
    ))?;
    Ok(right == CONNECTIONS)
}

fn say(line: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
