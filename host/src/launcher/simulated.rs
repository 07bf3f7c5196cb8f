//! The `simulated` tier: the enclave is a process, its security module a thread of the host.
//!
//! # The contract between the host and a simulated enclave
//!
//! A Nitro enclave gets its security module and its sockets from the hypervisor. A simulated one gets them
//! from the host that starts it. The command line is measured (PCR 0 and PCR 1). So everything about
//! transport travels in the environment, which is not measured.
//!
//! | part | how the enclave gets it |
//! |---|---|
//! | program | a sealed copy in memory of the measured file, so PCR 0 names the bytes that run |
//! | arguments | those after `--` of `cleanroom-host run`, measured; `argv[0]` is the file's name, not measured |
//! | security module | standard input, a connected Unix stream socket; see below |
//! | partners' socket | [`variable::LISTEN`]: the path of the Unix stream socket that the enclave binds |
//! | control socket | [`variable::CONTROL`]: the path of the Unix stream socket that the enclave binds before the other |
//! | configuration | [`variable::CONFIG`]: the path of a read-only file with the measured bytes (PCR 0 and PCR 2) |
//! | model | [`variable::STORE`]: the path of the Unix stream socket that the enclave binds; see `cleanroom_link::store` |
//! | console | standard output and standard error: lines of text for the operator, none about content |
//!
//! The rest of the environment is empty. The enclave inherits no other descriptor.
//!
//! * **Security module**: frames of a `u32` big-endian length and that many bytes of CBOR. Requests (at most
//!   4096 bytes) and answers (at most 12288 bytes) take turns, as with `/dev/nsm`.
//! * **Control socket**: the host hands in roots, releases, denials and leases, asks for nonces, fetches the log, and
//!   asks for a drain ([`ControlKind`](cleanroom_link::control::ControlKind)). It may have several connections, with
//!   one question at a time on each. The enclave trusts nothing on them but signatures.
//! * **Store**: the host connects to the socket at [`variable::STORE`] and answers questions for the model's bytes.
//!   They are untrusted input, whose digest the enclave computes itself.
//! * **Ready**: the enclave is ready when the socket at [`variable::LISTEN`] accepts a connection. The host
//!   connects and closes without sending a byte. The enclave treats that like any peer that goes away.
//! * **SIGTERM** asks the enclave to drain: refuse new work, let running requests end, and exit with status
//!   0. After the drain limit the host sends SIGKILL.
//! * **End of file on standard input** means that the security module is gone, and with it the host. The
//!   enclave exits.
//! * **Exit status**: 0 is an orderly end. [`exit::REFUSED`] says that the enclave refused its input and
//!   would refuse it again, so the host does not start it again. Anything else is a failure. The host starts
//!   the enclave again, with longer and longer pauses. The host shows the last line on standard error to the
//!   operator as the reason.
//!
//! A simulated enclave cannot prove that it read the measured configuration, because the host both measures
//! it and hands it over. A real enclave can. So the documents of this tier are signed under a development
//! root only.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cleanroom_attestation::engine::identity_under;
use cleanroom_attestation::measurement;
use cleanroom_link::{exit, variable};
use cleanroom_software_nsm::serve::{serve, system_time_ms};
use cleanroom_software_nsm::{DevelopmentRoot, Measurements, SoftwareNsm};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::console::{CONSOLE_LINGER, Console, LastWords};
use super::program::{SealedProgram, read_file};
use super::state::StateFolder;
use super::store::{digest_of_model, serve_model};
use super::{Description, Enclave, Exit, How, LaunchError, Launcher, leftovers, off_thread};
use crate::endpoint::{EnclaveAddress, remove_stale_socket, socket_path};

/// How often the host looks whether the enclave accepts connections.
const READY_POLL: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The enclave's program, an ELF file.
    pub program: PathBuf,
    /// Its arguments; measured.
    pub arguments: Vec<String>,
    /// The configuration; measured.
    pub config: PathBuf,
    /// The model file; not measured, since the enclave commits to it itself.
    pub model: PathBuf,
    /// The parent's instance id, which is measured into PCR 4. Each security module makes one up when there
    /// is none.
    pub instance_id: Option<String>,
    /// Where the host keeps the enclave's socket, its console and what it tells about itself.
    pub state: PathBuf,
    /// Show the console to the operator as well.
    pub echo_console: bool,
}

/// Starts simulated enclaves under one development root. The program and its configuration are read and
/// measured at each start, so that an enclave that was replaced on disk runs under its own measurements.
pub struct Simulated {
    settings: Settings,
    state: Arc<StateFolder>,
    root: Arc<DevelopmentRoot>,
    socket: PathBuf,
    control: PathBuf,
    store: PathBuf,
    console: Arc<Console>,
    image: Image,
}

/// What was read and measured for one start.
struct Image {
    program: SealedProgram,
    measurements: Measurements,
    config: PathBuf,
    model: PathBuf,
    description: Description,
}

impl Simulated {
    /// Measures what is to be started, makes a development root, and writes `development-root.pem`,
    /// `measurements.json` and the measured `configuration` to the state folder.
    ///
    /// # Errors
    /// [`LaunchError`] says which of the settings cannot be used.
    pub fn prepare(settings: &Settings) -> Result<Self, LaunchError> {
        Self::prepare_in(settings, StateFolder::take(&settings.state)?)
    }

    /// As [`Self::prepare`], in a state folder that was taken already.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_in(settings: &Settings, state: StateFolder) -> Result<Self, LaunchError> {
        let socket = socket_path(state.join("enclave.sock"))?;
        let control = socket_path(state.join("control.sock"))?;
        let store = socket_path(state.join("store.sock"))?;
        let root = Arc::new(DevelopmentRoot::generate(system_time_ms())?);
        state.write("development-root.pem", 0o644, root.root_certificate_pem().as_bytes())?;
        let image = Image::read(settings, &state, &root)?;
        let console = Arc::new(Console::new(&state.join("console.log"), settings.echo_console));
        let (settings, state) = (settings.clone(), Arc::new(state));
        Ok(Self { settings, state, root, socket, control, store, console, image })
    }

    /// What the host says about the enclave.
    #[must_use]
    pub const fn description(&self) -> &Description {
        &self.image.description
    }

    /// Where partners' connections go: the socket that the enclave binds.
    #[must_use]
    pub fn partner_port(&self) -> EnclaveAddress {
        EnclaveAddress::Unix(self.socket.clone())
    }

    /// The socket on which the host hands in releases, denials and leases.
    #[must_use]
    pub fn control_port(&self) -> EnclaveAddress {
        EnclaveAddress::Unix(self.control.clone())
    }

    /// Makes this start's security module and serves it from a thread until the enclave closes its end, which
    /// is returned.
    fn security_module(&self) -> Result<StdUnixStream, LaunchError> {
        let system = |source| LaunchError::System { what: "making its security module", source };
        let mut nsm = SoftwareNsm::builder(Arc::clone(&self.root), self.image.measurements.clone());
        if let Some(instance_id) = &self.settings.instance_id {
            nsm = nsm.instance_id(instance_id);
        }
        let mut nsm = nsm.start(system_time_ms())?;
        let (host, enclave) = StdUnixStream::pair().map_err(system)?;
        std::thread::Builder::new()
            .name("security-module".to_owned())
            .spawn(move || match serve(&host, &mut nsm, system_time_ms) {
                Ok(()) => tracing::debug!("the enclave closed its security module"),
                Err(error) => tracing::warn!(%error, "the security module ended"),
            })
            .map_err(system)?;
        Ok(enclave)
    }
}

impl Image {
    fn read(settings: &Settings, state: &StateFolder, root: &DevelopmentRoot) -> Result<Self, LaunchError> {
        let command_line = command_line(&settings.arguments)?;
        let (program, bytes) = SealedProgram::read(&settings.program)?;
        let config = read_file("configuration", &settings.config)?;
        let measurements = Measurements::of_program(&bytes, &command_line, &config);
        drop(bytes);
        let model = absolute(&settings.model)?;
        let weights = digest_of_model(&model)?;
        // A configuration that is none is the enclave's to refuse.
        let text = String::from_utf8_lossy(&config);
        let model_digest = identity_under(&text, weights).unwrap_or(weights);

        let [pcr0, pcr1, pcr2] = measurements.image().map(|digest| digest.to_string());
        let description = Description {
            pcr0,
            pcr1,
            pcr2,
            pcr4: settings.instance_id.as_deref().map(|id| measurement::of_name(id).to_string()),
            development_root_sha256: Some(root.fingerprint().to_string()),
            model_sha256: model_digest.to_string(),
            command_line,
        };
        description.write(state)?;
        let config = state.write("configuration", 0o400, &config)?;
        Ok(Self { program, measurements, config, model, description })
    }
}

impl Launcher for Simulated {
    type Enclave = SimulatedEnclave;

    async fn launch(&mut self) -> Result<SimulatedEnclave, LaunchError> {
        let system = |what| move |source| LaunchError::System { what, source };
        leftovers::end(self.state.path()).await?;
        let (settings, state, root) =
            (self.settings.clone(), Arc::clone(&self.state), Arc::clone(&self.root));
        self.image = off_thread(move || Image::read(&settings, &state, &root)).await?;
        for socket in [&self.socket, &self.control, &self.store] {
            remove_stale_socket(socket).map_err(system("removing an old socket"))?;
        }
        let nsm = self.security_module()?;
        let (console, writer) = io::pipe().map_err(system("making its console"))?;
        let also_writer = writer.try_clone().map_err(system("making its console"))?;
        let console =
            pipe::Receiver::from_owned_fd(OwnedFd::from(console)).map_err(system("making its console"))?;

        let mut command = Command::new(self.image.program.path());
        command
            .arg0(self.image.program.name())
            .args(&self.settings.arguments)
            .env_clear()
            .env(variable::LISTEN, &self.socket)
            .env(variable::CONTROL, &self.control)
            .env(variable::CONFIG, &self.image.config)
            .env(variable::STORE, &self.store)
            .stdin(Stdio::from(OwnedFd::from(nsm)))
            .stdout(Stdio::from(writer))
            .stderr(Stdio::from(also_writer))
            // What is typed at the host's terminal is for the host, which drains the enclave in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(system("running its program"))?;
        leftovers::remember(self.state.path(), "enclave", child.id());
        // The command holds this process's copies of the enclave's ends; the console would never end with
        // them.
        drop(command);

        let last_words = LastWords::default();
        let console = self.console.keep_in_background(console, last_words.clone());
        let (store, model) = (EnclaveAddress::Unix(self.store.clone()), self.image.model.clone());
        let store = tokio::spawn(async move { serve_model(&store, &model).await });
        Ok(SimulatedEnclave { child, socket: self.socket.clone(), store, console, last_words })
    }
}

/// A process that plays the enclave.
pub struct SimulatedEnclave {
    child: Child,
    socket: PathBuf,
    store: JoinHandle<()>,
    console: JoinHandle<()>,
    last_words: LastWords,
}

impl SimulatedEnclave {
    fn signal(&self, signal: Signal) {
        // A process that has been waited for has no id any more, and needs no signal.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // The only way to fail is that it has ended already.
            let _ = kill_process(id, signal);
        }
    }
}

impl Enclave for SimulatedEnclave {
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let socket = self.socket.clone();
        Box::pin(async move {
            while UnixStream::connect(&socket).await.is_err() {
                sleep(READY_POLL).await;
            }
        })
    }

    async fn ended(&mut self) -> Exit {
        let status = self.child.wait().await;
        if !self.console.is_finished() {
            // The enclave has ended. Another process may still hold its console open.
            let _ = timeout(CONSOLE_LINGER, &mut self.console).await;
        }
        Exit { how: status.map_or(How::Unknown, how), last_words: self.last_words.get() }
    }

    fn drain(&mut self) {
        self.signal(Signal::TERM);
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Drop for SimulatedEnclave {
    fn drop(&mut self) {
        self.store.abort();
        self.console.abort();
    }
}

fn how(status: ExitStatus) -> How {
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(exit::REFUSED) => How::Refused,
        (Some(code), _) => How::Status(code),
        (None, Some(signal)) => How::Signal(signal),
        (None, None) => How::Unknown,
    }
}

/// The command line as it is measured: the arguments with one space between them, as a kernel's.
fn command_line(arguments: &[String]) -> Result<String, LaunchError> {
    let ambiguous = |argument: &&String| {
        argument.is_empty()
            || argument.chars().any(|character| character.is_whitespace() || character.is_control())
    };
    match arguments.iter().find(ambiguous) {
        Some(argument) => Err(LaunchError::Argument(argument.clone())),
        None => Ok(arguments.join(" ")),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, LaunchError> {
    std::fs::canonicalize(path).map_err(|source| LaunchError::Read {
        what: "model",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
