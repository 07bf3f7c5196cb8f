//! `cleanroom-host`: the program that an operator runs.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod command_line;
mod image_command;
mod software_tpm_command;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use cleanroom_host::capture;
use cleanroom_host::endpoint::{BoundListener, EnclaveAddress, ListenAddress};
use cleanroom_host::launcher::instance::Instance;
use cleanroom_host::launcher::nitro::Nitro;
use cleanroom_host::launcher::qemu::Qemu;
use cleanroom_host::launcher::simulated::Simulated;
use cleanroom_host::launcher::{Description, LaunchError, StateFolder, SuperviseError};
use cleanroom_host::relay::{BalancerError, Partners};
use cleanroom_host::run::{self, Access, RunError, relay_only, with_enclave};
use cleanroom_program::file::FileError;
use cleanroom_program::limits::{TooFewFiles, require_open_files};
use cleanroom_program::log::{self, Format, StartError};
use cleanroom_program::manual::ManualError;
use cleanroom_program::output::{self, OutputError};
use cleanroom_program::signals::{Hangups, Request, Signals};
use tokio_util::sync::CancellationToken;

use crate::command_line::{Arguments, Command, DoctorArguments, Enclave, RelayArguments, RunArguments};
use crate::image_command::ImageFailure;
use crate::software_tpm_command::SoftwareTpmError;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match log::start(Format::json_if(arguments.json), "info") {
        Ok(_log) => execute(arguments),
        Err(error) => Err(Failure::Log(error)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            output::complain(format_args!("cleanroom-host: {failure}"));
            failure.code()
        }
    }
}

fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    let json = arguments.json;
    match arguments.command {
        Command::Doctor(arguments) => examine(&arguments, json),
        Command::Image { command } => {
            Ok(image_command::execute(&command, json, |text| output::print(text).map_err(to_io))?)
        }
        Command::Manual(manual) => {
            manual.write(&Arguments::command())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Relay(arguments) => block_on(|stop| relay(arguments, json, stop)),
        Command::SoftwareTpm(arguments) => {
            software_tpm_command::execute(&arguments, json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(arguments) => block_on(|stop| run_enclave(*arguments, json, stop)),
    }
}

/// Runs `work` until its end, or until a second signal. The token is cancelled by the first.
fn block_on<Work: Future<Output = Result<(), Failure>>>(
    work: impl FnOnce(CancellationToken) -> Work,
) -> Result<ExitCode, Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::System)?;
    let result = runtime.block_on(async {
        let (stop, end_now) = stop_on_signal()?;
        tokio::select! {
            biased;
            () = end_now.cancelled() => Err(Failure::EndedAtOnce),
            result = work(stop) => result,
        }
    });
    // A look at a name or a file that hangs must not keep the program from ending.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn relay(arguments: RelayArguments, json: bool, stop: CancellationToken) -> Result<(), Failure> {
    let limits = arguments.limits.to_limits();
    require_open_files(arguments.limits.open_files())?;
    let balancers = arguments.limits.balancers(&arguments.listen)?;
    let (next, control) = (arguments.next_host()?, arguments.control());
    let (listener, address) = bind(&arguments.listen).await?;
    let report = report_listener(arguments.limits.metrics.as_ref()).await?;
    announce(&Ready { address: &address, description: None }, json);
    let partners = Partners { listener, balancers };
    relay_only(partners, (next, control), limits, report, stop).await.map_err(Failure::System)
}

async fn run_enclave(arguments: RunArguments, json: bool, stop: CancellationToken) -> Result<(), Failure> {
    require_open_files(arguments.limits.open_files())?;
    if let Some(folder) = arguments.capture.clone() {
        capture::begin(folder).map_err(Failure::Capture)?;
    }
    // The folder's owner alone may bind, write or remove what belongs to it, so the folder comes first.
    let state = StateFolder::take(&arguments.state)?;
    let balancers = arguments.limits.balancers(&arguments.listen)?;
    let (listener, address) = bind(&arguments.listen).await?;
    let partners = Partners { listener, balancers };
    let report = report_listener(arguments.limits.metrics.as_ref()).await?;
    let settings = run::Settings {
        limits: arguments.limits.to_limits(),
        restart: arguments.restart_policy(),
        patience: arguments.patience(),
    };
    let ready = |description: Option<Description>| {
        move || announce(&Ready { address: &address, description: description.as_ref() }, json)
    };
    let agent = arguments.agent()?;
    let access =
        |partner: EnclaveAddress, control: EnclaveAddress| Access { partner, control, agent: agent.clone() };
    match arguments.enclave() {
        Enclave::Simulated(enclave) => {
            let prepare = move || Simulated::prepare_in(&enclave, state);
            let Some(launcher) = unless_stopped(&stop, prepare).await? else { return Ok(()) };
            let access = access(launcher.partner_port(), launcher.control_port());
            let ready = ready(Some(launcher.description().clone()));
            with_enclave(launcher, access, partners, settings, report, stop, ready).await?;
        }
        Enclave::Nitro(enclave) => {
            let prepare = move || Nitro::prepare_in(&enclave, state);
            let Some(launcher) = unless_stopped(&stop, prepare).await? else { return Ok(()) };
            let access = access(launcher.partner_port(), launcher.control_port());
            let ready = ready(Some(launcher.description().clone()));
            with_enclave(launcher, access, partners, settings, report, stop, ready).await?;
        }
        Enclave::NitroTpm(instance) => {
            let launcher = Instance::prepare_in(&instance, state)?;
            let access = access(launcher.ports().partners.clone(), launcher.ports().control.clone());
            // Its registers are the image's, which is not here.
            with_enclave(launcher, access, partners, settings, report, stop, ready(None)).await?;
        }
        Enclave::Qemu(enclave) => {
            let prepare = move || Qemu::prepare_in(&enclave, state);
            let Some(launcher) = unless_stopped(&stop, prepare).await? else { return Ok(()) };
            let access = access(launcher.partner_port(), launcher.control_port());
            let ready = ready(Some(launcher.description().clone()));
            with_enclave(launcher, access, partners, settings, report, stop, ready).await?;
        }
    }
    Ok(())
}

/// Does work that can take long, since whole files are read for it. Gives nothing if the program is to end before.
async fn unless_stopped<T: Send + 'static>(
    stop: &CancellationToken,
    work: impl FnOnce() -> Result<T, LaunchError> + Send + 'static,
) -> Result<Option<T>, Failure> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(None),
        done = tokio::task::spawn_blocking(work) => Ok(Some(done.map_err(|error| Failure::System(error.into()))??)),
    }
}

fn examine(arguments: &DoctorArguments, json: bool) -> Result<ExitCode, Failure> {
    let findings = arguments.examine();
    let good = findings.iter().all(|finding| finding.good);
    if json {
        say(&serde_json::json!({ "good": good, "findings": findings }).to_string())?;
    } else {
        for finding in &findings {
            let mark = if finding.good { "ok     " } else { "MISSING" };
            say(&format!("{mark}  {}: {}", finding.what, finding.found))?;
            if let Some(remedy) = &finding.remedy {
                say(&format!("         to fix it: {remedy}"))?;
            }
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is said on standard output when partners can connect.
struct Ready<'a> {
    address: &'a ListenAddress,
    description: Option<&'a Description>,
}

fn announce(ready: &Ready<'_>, json: bool) {
    let text = if json {
        let event = serde_json::json!({
            "event": "ready",
            "listen": ready.address.to_string(),
            "enclave": ready.description,
        });
        event.to_string()
    } else {
        let mut text = format!("ready: partners connect to {}", ready.address);
        if let Some(enclave) = ready.description {
            let root = enclave.development_root_sha256.as_ref().map(|root| ("development root", root));
            let values = [
                ("PCR 0", &enclave.pcr0),
                ("PCR 1", &enclave.pcr1),
                ("PCR 2", &enclave.pcr2),
                ("model", &enclave.model_sha256),
            ];
            for (name, value) in values.into_iter().chain(root) {
                text.push_str(&format!("\n  {name}: {value}"));
            }
        }
        text
    };
    // Perhaps nobody reads it. The relay works without.
    output::announce(text);
}

fn say(text: &str) -> Result<(), Failure> {
    output::print(text).map_err(Failure::Output)
}

fn to_io(error: OutputError) -> io::Error {
    match error {
        OutputError::Closed => io::ErrorKind::BrokenPipe.into(),
        OutputError::Failed(error) => error,
    }
}

async fn bind(address: &ListenAddress) -> Result<(BoundListener, ListenAddress), Failure> {
    let failed = |source| Failure::Bind { address: address.to_string(), source };
    let listener = address.bind().await.map_err(failed)?;
    let bound = listener.address().map_err(failed)?;
    Ok((listener, bound))
}

async fn report_listener(address: Option<&ListenAddress>) -> Result<Option<BoundListener>, Failure> {
    match address {
        Some(address) => {
            let (listener, bound) = bind(address).await?;
            tracing::info!(address = %bound, "metrics are served");
            Ok(Some(listener))
        }
        None => Ok(None),
    }
}

/// Two tokens: the first SIGTERM or SIGINT cancels the first, and any further one the second. Listening
/// begins before this returns. SIGHUP changes nothing, and the log says why.
fn stop_on_signal() -> Result<(CancellationToken, CancellationToken), Failure> {
    let mut signals = Signals::listen().map_err(Failure::System)?;
    let mut hangups = Hangups::listen().map_err(Failure::System)?;
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            tracing::info!(
                "SIGHUP: nothing has to be read again. Files of releases, denials, safeguards and openings are looked \
                 at every second, and image, program and configuration at each start of an enclave. Options stay until \
                 a new start of the host"
            );
        }
    });
    let (stop, end_now) = (CancellationToken::new(), CancellationToken::new());
    let (stopping, ending) = (stop.clone(), end_now.clone());
    tokio::spawn(async move {
        loop {
            // First what was asked, then the log.
            match signals.next().await {
                Request::Drain => {
                    stopping.cancel();
                    tracing::info!("asked to stop: draining; a second signal ends it at once");
                }
                Request::EndNow => ending.cancel(),
            }
        }
    });
    Ok((stop, end_now))
}

/// Why the program ends without having done what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Enclave(#[from] RunError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Image(#[from] ImageFailure),
    #[error(transparent)]
    SoftwareTpm(#[from] SoftwareTpmError),
    #[error("could not listen on {address}: {source}")]
    Bind { address: String, source: io::Error },
    #[error(transparent)]
    Log(StartError),
    #[error("the enclave's log cannot be kept: {0}")]
    Store(#[from] FileError),
    #[error("{}: {problem}", path.display())]
    KmsShare { path: PathBuf, problem: String },
    #[error("what crosses to the enclave cannot be copied: {0}")]
    Capture(FileError),
    #[error(transparent)]
    Balancers(#[from] BalancerError),
    #[error(
        "expected --to unix:PATH, the socket of another host, beside --send-proxy, got {0}; an enclave takes the header \
         for a client that speaks no TLS"
    )]
    SendProxy(EnclaveAddress),
    #[error(transparent)]
    OpenFiles(#[from] TooFewFiles),
    #[error(transparent)]
    Manual(#[from] ManualError),
    #[error(transparent)]
    Output(OutputError),
    #[error("a second signal ended the host at once; open connections were cut")]
    EndedAtOnce,
    #[error("the system refused: {0}")]
    System(io::Error),
}

impl Failure {
    /// The exit status, as `--help` lists them. clap uses 2.
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Enclave(RunError::Enclave(SuperviseError::Refused(_))) => 3,
            Self::Enclave(RunError::Enclave(SuperviseError::Failed { .. })) => 4,
            Self::Output(error) => error.exit_status(1),
            Self::Balancers(_) | Self::SendProxy(_) => 2,
            Self::Enclave(_)
            | Self::Launch(_)
            | Self::Image(_)
            | Self::SoftwareTpm(_)
            | Self::Bind { .. }
            | Self::Log(_)
            | Self::OpenFiles(_)
            | Self::Store(_)
            | Self::KmsShare { .. }
            | Self::Capture(_)
            | Self::Manual(_)
            | Self::EndedAtOnce
            | Self::System(_) => 1,
        })
    }
}
