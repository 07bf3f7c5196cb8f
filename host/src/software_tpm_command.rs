//! `cleanroom-host software-tpm`: a TPM with AWS's vendor command, for one virtual machine.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use cleanroom_host::launcher::{LaunchError, StateFolder};
use cleanroom_program::output;
use cleanroom_software_nsm::{DevelopmentRoot, NsmError, TpmAttester};
use cleanroom_software_tpm::front::{self, FrontError};

/// How long swtpm has to listen.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct SoftwareTpmArguments {
    /// Folder for the TPM's state, its socket and the development root; it is made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    state: PathBuf,

    /// The program swtpm.
    #[arg(long, value_name = "PROGRAM", default_value = "swtpm")]
    swtpm: PathBuf,
}

/// Why there is no software TPM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SoftwareTpmError {
    #[error(transparent)]
    State(#[from] LaunchError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{program} does not start: {source}; install it (apt-get install swtpm), or name it with --swtpm"
    )]
    Start { program: PathBuf, source: io::Error },
    #[error("swtpm ended or did not listen within 30 s: {0}; its own words are above")]
    Silent(io::Error),
    #[error(transparent)]
    Root(#[from] NsmError),
    #[error(transparent)]
    Front(#[from] FrontError),
}

/// Serves one virtual machine, and ends with it.
pub(crate) fn execute(arguments: &SoftwareTpmArguments, json: bool) -> Result<(), SoftwareTpmError> {
    let state = StateFolder::take(&arguments.state)?;
    let folder = state.path();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
    let root = Arc::new(DevelopmentRoot::generate(now_ms)?);
    let attester = TpmAttester::start(Arc::clone(&root), now_ms)?;
    let certificate = folder.join("development-root.pem");
    fs::write(&certificate, root.root_certificate_pem()).map_err(file(&certificate))?;

    // swtpm ends with its control channel, and so with this process.
    let control = free(folder.join("swtpm.sock"))?;
    let mut swtpm = Command::new(&arguments.swtpm);
    swtpm.args(["socket", "--tpm2", "--terminate", "--tpmstate"]).arg(named("dir=", folder));
    swtpm.arg("--ctrl").arg(named("type=unixio,path=", &control)).stdin(Stdio::null()).stdout(Stdio::null());
    let mut swtpm = swtpm
        .spawn()
        .map_err(|source| SoftwareTpmError::Start { program: arguments.swtpm.clone(), source })?;
    let result = connect(&control, &mut swtpm).map_err(SoftwareTpmError::Silent).and_then(|emulator| {
        let socket = free(folder.join("tpm.sock"))?;
        let listener = UnixListener::bind(&socket).map_err(file(&socket))?;
        output::announce(ready(&socket, &certificate, &root, json));
        let (guest, _) = listener.accept().map_err(file(&socket))?;
        drop(free(socket)?);
        Ok(front::serve(&guest, &emulator, attester)?)
    });
    // It has ended already, unless something else failed.
    let _ = swtpm.kill();
    let _ = swtpm.wait();
    result
}

fn ready(socket: &Path, certificate: &Path, root: &DevelopmentRoot, json: bool) -> String {
    let (socket, certificate, fingerprint) = (socket.display(), certificate.display(), root.fingerprint());
    if json {
        return serde_json::json!({
            "event": "ready",
            "socket": socket.to_string(),
            "development_root": certificate.to_string(),
            "development_root_sha256": fingerprint.to_string(),
        })
        .to_string();
    }
    format!(
        "ready: one virtual machine connects to {socket}\n  development root: {certificate}\n  its SHA-256: {fingerprint}"
    )
}

/// A path at which nothing is: what an earlier run left there is gone. The folder is this process's alone.
fn free(path: PathBuf) -> Result<PathBuf, SoftwareTpmError> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(&path)(error)),
        _ => Ok(path),
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> SoftwareTpmError + use<> {
    let path = path.to_owned();
    move |source| SoftwareTpmError::File { path, source }
}

fn named(name: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(name);
    argument.push(path);
    argument
}

/// Connects to swtpm's control channel, which is there a moment after its start.
fn connect(control: &Path, swtpm: &mut Child) -> io::Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(control) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() > PATIENCE || swtpm.try_wait()?.is_some() => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
