//! `cleanroom-host software-tpm`: a TPM with AWS's vendor command, for one virtual machine or one program.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_host::launcher::{LaunchError, StateFolder};
use cleanroom_program::output;
use cleanroom_software_nsm::{DevelopmentRoot, NsmError, TpmAttester};
use cleanroom_software_tpm::front::{self, FrontError};
use cleanroom_software_tpm::guest::Guest;

/// How long swtpm has to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// What register 7 is extended with where no firmware looks at Secure Boot.
const NO_FIRMWARE: &[u8] = b"cleanroom/software-tpm/no-firmware";

#[derive(Args)]
pub(crate) struct SoftwareTpmArguments {
    /// Folder for the TPM's state, its socket and the development root; it is made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    state: PathBuf,

    /// The program swtpm.
    #[arg(long, value_name = "PROGRAM", default_value = "swtpm")]
    swtpm: PathBuf,

    /// Give the TPM to a program instead of a virtual machine, and extend register 4 with the SHA-384 of this file, as
    /// firmware does with what it starts; may be repeated.
    #[arg(long, value_name = "FILE")]
    measure: Vec<PathBuf>,
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

/// Serves one virtual machine or program, and ends with it.
pub(crate) fn execute(arguments: &SoftwareTpmArguments, json: bool) -> Result<(), SoftwareTpmError> {
    let state = StateFolder::take(&arguments.state)?;
    let folder = state.path();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
    let root = Arc::new(DevelopmentRoot::generate(now_ms)?);
    let attester = TpmAttester::start(Arc::clone(&root), now_ms)?;
    let certificate = folder.join("development-root.pem");
    fs::write(&certificate, root.root_certificate_pem()).map_err(file(&certificate))?;

    let tpm = SoftwareTpm { folder, certificate: &certificate, root: &root, json };
    if arguments.measure.is_empty() {
        tpm.for_machine(&arguments.swtpm, attester)
    } else {
        tpm.for_program(&arguments.swtpm, attester, &arguments.measure)
    }
}

/// A TPM that is about to be served.
struct SoftwareTpm<'a> {
    folder: &'a Path,
    certificate: &'a Path,
    root: &'a DevelopmentRoot,
    json: bool,
}

impl SoftwareTpm<'_> {
    fn for_machine(&self, program: &Path, attester: TpmAttester) -> Result<(), SoftwareTpmError> {
        // swtpm ends with its control channel, and so with this process.
        let control = free(self.folder.join("swtpm.sock"))?;
        let mut swtpm = Command::new(program);
        swtpm.args(["socket", "--tpm2", "--terminate", "--tpmstate"]).arg(named("dir=", self.folder));
        swtpm.arg("--ctrl").arg(named("type=unixio,path=", &control));
        swtpm.stdin(Stdio::null()).stdout(Stdio::null());
        let mut swtpm = swtpm
            .spawn()
            .map_err(|source| SoftwareTpmError::Start { program: program.to_owned(), source })?;
        let result = connect(&control, &mut swtpm).map_err(SoftwareTpmError::Silent).and_then(|emulator| {
            let machine = self.accept(None)?;
            Ok(front::serve(&machine, &emulator, attester)?)
        });
        // It has ended already, unless something else failed.
        let _ = swtpm.kill();
        let _ = swtpm.wait();
        result
    }

    /// Starts the TPM as a firmware does, which then measures `files`.
    fn for_program(
        &self,
        program: &Path,
        attester: TpmAttester,
        files: &[PathBuf],
    ) -> Result<(), SoftwareTpmError> {
        free(self.folder.join("control"))?;
        let start = |source| SoftwareTpmError::Start { program: program.to_owned(), source };
        let mut guest = Guest::start(program, self.folder, attester).map_err(start)?;
        let mut registers = [Sha384Digest::from_bytes([0; 48]); 2];
        let [image, secure_boot] = &mut registers;
        for path in files {
            let digest = Sha384Digest::of(&[&fs::read(path).map_err(file(path))?]);
            measure(&mut guest, (4, &mut *image), &digest)?;
        }
        measure(&mut guest, (7, secure_boot), &Sha384Digest::of(&[NO_FIRMWARE]))?;
        let connection = self.accept(Some(&registers))?;
        let tpm = guest.tpm().map_err(SoftwareTpmError::Silent)?;
        carry(&connection, &tpm);
        Ok(())
    }

    /// Says that the socket is there, and waits for whoever uses it. Nobody can be the second.
    fn accept(&self, registers: Option<&[Sha384Digest; 2]>) -> Result<UnixStream, SoftwareTpmError> {
        let socket = free(self.folder.join("tpm.sock"))?;
        let listener = UnixListener::bind(&socket).map_err(file(&socket))?;
        output::announce(self.ready(&socket, registers));
        let (connection, _) = listener.accept().map_err(file(&socket))?;
        drop(free(socket)?);
        Ok(connection)
    }

    fn ready(&self, socket: &Path, registers: Option<&[Sha384Digest; 2]>) -> String {
        let (socket, certificate) = (socket.display(), self.certificate.display());
        let fingerprint = self.root.fingerprint();
        let who = if registers.is_some() { "program" } else { "virtual machine" };
        if self.json {
            return serde_json::json!({
                "event": "ready",
                "socket": socket.to_string(),
                "development_root": certificate.to_string(),
                "development_root_sha256": fingerprint.to_string(),
                "image": registers.map(image),
            })
            .to_string();
        }
        let mut text = format!(
            "ready: one {who} connects to {socket}\n  development root: {certificate}\n  its SHA-256: {fingerprint}"
        );
        if let Some(registers) = registers {
            text.push_str(&format!("\n  image: {}", image(registers)));
        }
        text
    }
}

/// Extends a register, and the value that is known of it.
fn measure(
    guest: &mut Guest,
    (index, value): (u8, &mut Sha384Digest),
    digest: &Sha384Digest,
) -> Result<(), SoftwareTpmError> {
    guest.measure(index, digest.as_bytes()).map_err(SoftwareTpmError::Silent)?;
    *value = Sha384Digest::of(&[value.as_bytes(), digest.as_bytes()]);
    Ok(())
}

/// What was measured, as `cleanroom-authority` takes it for an image.
fn image([pcr4, pcr7]: &[Sha384Digest; 2]) -> String {
    format!("nitrotpm:{pcr4},{pcr7},{}", Sha384Digest::from_bytes([0; 48]))
}

/// Carries commands and responses until one side ends.
fn carry(program: &UnixStream, tpm: &UnixStream) {
    let end = || {
        for stream in [program, tpm] {
            // One that is closed already needs nothing.
            let _ = stream.shutdown(Shutdown::Both);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*tpm, &mut &*program);
            end();
        });
        let _ = io::copy(&mut &*program, &mut &*tpm);
        end();
    });
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
