//! A guest without a virtual machine: this process does what QEMU and the firmware do, and holds the guest's TPM, for itself or
//! for a program that it serves.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cleanroom_software_nsm::TpmAttester;
use cleanroom_tpm::{
    Message, NO_SESSIONS, PASSWORD_SESSION, PCR_EXTEND, SESSIONS, SHA384, STARTUP, message, read_message,
    sized,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::front;

/// How long swtpm has to listen.
const PATIENCE: Duration = Duration::from_secs(60);
/// swtpm's control commands: the data channel, and the start of the TPM, without flags.
const SET_DATA_CHANNEL: [u8; 4] = [0, 0, 0, 0x10];
const INIT: [u8; 8] = [0, 0, 0, 2, 0, 0, 0, 0];

/// A running TPM of one guest. It ends when this is dropped.
pub struct Guest {
    swtpm: Child,
    tpm: UnixStream,
    _control: UnixStream,
}

impl Guest {
    /// Where swtpm is installed, if it is.
    #[must_use]
    pub fn program() -> Option<PathBuf> {
        ["/usr/bin/swtpm", "/usr/local/bin/swtpm"].map(PathBuf::from).into_iter().find(|path| path.is_file())
    }

    /// Starts `program`, which is swtpm, with its state in the folder `state`, and the front before it. The machine has just been
    /// started: registers are as after a reset.
    ///
    /// # Errors
    /// What the system answers, and [`io::ErrorKind::InvalidData`] when swtpm refuses what QEMU and a firmware ask of it.
    pub fn start(program: &Path, state: &Path, attester: TpmAttester) -> io::Result<Self> {
        let socket = state.join("control");
        let option = |name: &str, path: &Path| {
            let mut option = std::ffi::OsString::from(name);
            option.push(path);
            option
        };
        let mut command = Command::new(program);
        command.args(["socket", "--tpm2", "--terminate", "--tpmstate"]).arg(option("dir=", state));
        command.arg("--ctrl").arg(option("type=unixio,path=", &socket));
        let swtpm = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (control, guest) = UnixStream::pair()?;
        let (tpm, theirs) = UnixStream::pair()?;
        let mut this = Self { swtpm, tpm, _control: control.try_clone()? };
        let emulator = connect(&socket, &mut this.swtpm)?;
        // Ends with either side.
        thread::spawn(move || front::serve(&guest, &emulator, attester));
        begin(control, &theirs)?;
        this.reset()?;
        Ok(this)
    }

    /// The guest's end of its TPM: one command, one response.
    ///
    /// # Errors
    /// What the system answers.
    pub fn tpm(&self) -> io::Result<UnixStream> {
        self.tpm.try_clone()
    }

    /// Extends a register of the SHA-384 bank, as firmware does with what it starts.
    ///
    /// # Errors
    /// What the system answers, and [`io::ErrorKind::InvalidData`] when the TPM refuses.
    pub fn measure(&mut self, register: u8, digest: &[u8; 48]) -> io::Result<()> {
        // No nonce and no password; the session continues.
        let session = [&PASSWORD_SESSION.to_be_bytes()[..], &sized(&[]), &[1], &sized(&[])].concat();
        let digests = [&[0, 0, 0, 1][..], &SHA384.to_be_bytes(), digest].concat();
        let body: [&[u8]; 4] = [&[0, 0, 0, register], &[0, 0, 0, 9], &session, &digests];
        self.succeed(&message(SESSIONS, PCR_EXTEND, &body))
    }

    /// `TPM2_Startup(CLEAR)`, as firmware begins.
    fn reset(&mut self) -> io::Result<()> {
        self.succeed(&message(NO_SESSIONS, STARTUP, &[&[0, 0]]))
    }

    /// A command that has to succeed.
    fn succeed(&mut self, command: &[u8]) -> io::Result<()> {
        self.tpm.write_all(command)?;
        let response = read_message(&mut self.tpm)?;
        let succeeded = Message::parse(&response).is_some_and(|response| response.code == 0);
        if succeeded { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.swtpm.kill();
        let _ = self.swtpm.wait();
    }
}

/// As QEMU begins: swtpm gets the data channel, then the TPM is started.
fn begin(mut control: UnixStream, data: &UnixStream) -> io::Result<()> {
    let rights = [data.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&rights));
    sendmsg(&control, &[IoSlice::new(&SET_DATA_CHANNEL)], &mut ancillary, SendFlags::NOSIGNAL)?;
    taken(&mut control)?;
    control.write_all(&INIT)?;
    taken(&mut control)
}

/// The result of a control command, which is zero.
fn taken(control: &mut UnixStream) -> io::Result<()> {
    let mut result = [0; 4];
    control.read_exact(&mut result)?;
    if result == [0; 4] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// swtpm's control channel, which is there a moment after its start.
fn connect(control: &Path, swtpm: &mut Child) -> io::Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(control) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() > PATIENCE || swtpm.try_wait()?.is_some() => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
