//! `cleanroom-host`: the program that an operator runs.

mod command_line;
mod image_command;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use cleanroom_host::endpoint::{BoundListener, EnclaveAddress, ListenAddress};
use cleanroom_host::launcher::nitro::Nitro;
use cleanroom_host::launcher::qemu::Qemu;
use cleanroom_host::launcher::simulated::Simulated;
use cleanroom_host::launcher::{Description, LaunchError, SuperviseError};
use cleanroom_host::run::{self, Access, RunError, relay_only, with_enclave};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::command_line::{Arguments, Command, DoctorArguments, Enclave, RelayArguments, RunArguments};
use crate::image_command::ImageFailure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.json);
    match execute(arguments) {
        Ok(code) => code,
        Err(failure) => {
            // Standard error may be closed; the exit status says it too.
            let _ = writeln!(io::stderr(), "cleanroom-host: {failure}");
            failure.code()
        }
    }
}

fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    let json = arguments.json;
    match arguments.command {
        Command::Doctor(arguments) => examine(&arguments, json),
        Command::Image { command } => Ok(image_command::execute(&command, json, print_line)?),
        Command::Relay(arguments) => block_on(relay(arguments, json)),
        Command::Run(arguments) => block_on(run_enclave(*arguments, json)),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<ExitCode, Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::System)?;
    runtime.block_on(work).map(|()| ExitCode::SUCCESS)
}

async fn relay(arguments: RelayArguments, json: bool) -> Result<(), Failure> {
    let limits = arguments.limits.to_limits();
    let stop = stop_on_signal()?;
    let (listener, address) = bind(&arguments.listen).await?;
    let report = report_listener(arguments.limits.metrics.as_ref()).await?;
    announce(&Ready { address: &address, description: None }, json);
    relay_only(listener, arguments.to, limits, report, stop).await.map_err(Failure::System)
}

async fn run_enclave(arguments: RunArguments, json: bool) -> Result<(), Failure> {
    let stop = stop_on_signal()?;
    let (listener, address) = bind(&arguments.listen).await?;
    let report = report_listener(arguments.limits.metrics.as_ref()).await?;
    let settings = run::Settings {
        limits: arguments.limits.to_limits(),
        restart: arguments.restart_policy(),
        patience: arguments.patience(),
    };
    let ready = |description: Description| {
        move || announce(&Ready { address: &address, description: Some(&description) }, json)
    };
    let access = |partner: EnclaveAddress, control: EnclaveAddress| Access {
        partner,
        authorities: arguments.agent().map(|settings| (control, settings)),
    };
    match arguments.enclave() {
        Enclave::Simulated(enclave) => {
            let launcher = Simulated::prepare(&enclave)?;
            let access = access(launcher.partner_port(), launcher.control_port());
            let ready = ready(launcher.description().clone());
            with_enclave(launcher, access, listener, settings, report, stop, ready).await?;
        }
        Enclave::Nitro(enclave) => {
            let launcher = Nitro::prepare(&enclave)?;
            let access = access(launcher.partner_port(), launcher.control_port());
            let ready = ready(launcher.description().clone());
            with_enclave(launcher, access, listener, settings, report, stop, ready).await?;
        }
        Enclave::Qemu(enclave) => {
            let launcher = Qemu::prepare(&enclave)?;
            let access = access(launcher.partner_port(), launcher.control_port());
            let ready = ready(launcher.description().clone());
            with_enclave(launcher, access, listener, settings, report, stop, ready).await?;
        }
    }
    Ok(())
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
                say(&format!("         to mend it: {remedy}"))?;
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
    // Whoever started the program may not listen; the relay works without.
    let _ = say(&text);
}

fn say(text: &str) -> Result<(), Failure> {
    print_line(text).map_err(Failure::System)
}

fn print_line(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}").and_then(|()| output.flush())
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

/// A token that is cancelled by SIGTERM or SIGINT. Listening begins before this returns.
fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::System)?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop: draining");
        stopping.cancel();
    });
    Ok(stop)
}

fn start_log(json: bool) {
    let filter = EnvFilter::try_from_env("CLEANROOM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    if json {
        log.json().init();
    } else {
        log.with_ansi(io::stderr().is_terminal()).init();
    }
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
    #[error("could not listen on {address}: {source}")]
    Bind { address: String, source: io::Error },
    #[error("the system refused: {0}")]
    System(io::Error),
}

impl Failure {
    /// The exit status, as `--help` lists them. clap uses 2.
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Enclave(RunError::Enclave(SuperviseError::Refused(_))) => 3,
            Self::Enclave(RunError::Enclave(SuperviseError::Failed { .. })) => 4,
            Self::Enclave(_) | Self::Launch(_) | Self::Image(_) | Self::Bind { .. } | Self::System(_) => 1,
        })
    }
}
