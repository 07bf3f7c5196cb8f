//! How commands reach a TPM.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use cleanroom_tpm::{MESSAGE_MAX, read_message};

/// The TPM of the machine, as Linux shows it. `/dev/tpmrm0` is none for us: the kernel's resource manager lets no vendor command
/// pass, and others would share the TPM.
pub const DEVICE: &str = "/dev/tpm0";

/// What takes a TPM's commands.
pub trait Transport: Send + 'static {
    /// One command, one response, which may be anything.
    ///
    /// # Errors
    /// When there is no response.
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// An open [`DEVICE`].
#[derive(Debug)]
pub struct DeviceFile(File);

impl DeviceFile {
    /// Opens the TPM at this path. Nobody else can open it then.
    ///
    /// # Errors
    /// What the system answers, for instance that another process has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open(path).map(Self)
    }
}

impl Transport for DeviceFile {
    /// The kernel takes a command in one write and gives the response in one read (`drivers/char/tpm/tpm-dev-common.c`).
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let written = self.0.write(command)?;
        if written != command.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut response = vec![0; MESSAGE_MAX];
        let length = self.0.read(&mut response)?;
        response.truncate(length);
        Ok(response)
    }
}

/// A TPM at a path: the device of a machine, or the socket of a software TPM.
#[derive(Debug)]
pub enum TpmPath {
    /// A device.
    Device(DeviceFile),
    /// A Unix stream socket that takes commands.
    Socket(UnixStream),
}

impl TpmPath {
    /// Opens the TPM at `path`.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        if fs::metadata(path)?.file_type().is_socket() {
            UnixStream::connect(path).map(Self::Socket)
        } else {
            DeviceFile::open(path).map(Self::Device)
        }
    }
}

impl Transport for TpmPath {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Device(device) => device.transact(command),
            Self::Socket(socket) => socket.transact(command),
        }
    }
}

/// The data channel of swtpm, or of the software TPM before it.
impl Transport for UnixStream {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.write_all(command)?;
        read_message(self)
    }
}
