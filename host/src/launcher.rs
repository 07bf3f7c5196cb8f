//! Starts enclaves and keeps them running. One module for each tier, one supervisor for all of them.

mod console;
mod description;
pub mod instance;
mod leftovers;
pub mod nitro;
mod program;
pub mod qemu;
pub mod simulated;
mod state;
mod store;
mod supervisor;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measurement::ImageError;
use cleanroom_software_nsm::NsmError;
use tokio::sync::watch;

use crate::endpoint::AddressError;

pub use description::Description;
pub(crate) use program::check_sealed_memory;
pub use state::StateFolder;
pub use store::serve_model;
pub use supervisor::{Patience, Pulse, RestartPolicy, State, Status, SuperviseError, supervise};

/// Starts enclaves of one tier.
pub trait Launcher: Send {
    /// A running enclave.
    type Enclave: Enclave;

    /// Starts an enclave. It need not accept connections yet.
    fn launch(&mut self) -> impl Future<Output = Result<Self::Enclave, LaunchError>> + Send;
}

/// A running enclave. Dropping it ends it.
pub trait Enclave: Send {
    /// Completes when the enclave accepts connections; never, if it never does.
    fn ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Completes when the enclave has ended. Waiting may be given up and taken up again.
    fn ended(&mut self) -> impl Future<Output = Exit> + Send;

    /// Asks the enclave to refuse new work, to finish what it does, and to end.
    fn drain(&mut self);

    /// Ends the enclave at once.
    fn kill(&mut self);
}

/// Completes when `ready` turns true; never, if nobody is left to say so.
async fn once_ready(mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Does work that reads whole files on a thread of its own, so that nobody has to wait for it who gives the start
/// up.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LaunchError> + Send + 'static,
) -> Result<T, LaunchError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LaunchError::System { what: "reading its files", source: error.into() })?
}

/// How an enclave ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// By itself or by force.
    pub how: How,
    /// The last line that it said, without control characters.
    pub last_words: Option<String>,
}

/// By itself or by force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It ended with a status; 0 is an orderly end.
    Status(i32),
    /// It refused what it was given, and would refuse it again.
    Refused,
    /// It was ended by a signal.
    Signal(i32),
    /// The system does not say.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Status(status) => write!(formatter, "it ended with status {status}")?,
            How::Refused => write!(formatter, "it refused what it was given")?,
            How::Signal(signal) => write!(formatter, "it was ended by signal {signal}")?,
            How::Unknown => write!(formatter, "it ended in an unknown way")?,
        }
        match &self.last_words {
            Some(words) => write!(formatter, "; its last words: {words}"),
            None => Ok(()),
        }
    }
}

impl LaunchError {
    /// Whether trying again is of no use: the settings, the files or the machine must change first.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Nitro(error) => error.is_lasting(),
            Self::System { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            }
            _ => true,
        }
    }

    /// The error without names of files, for a report that more people read than the log.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::Read { what, source, .. } => format!("could not read the {what}: {}", source.kind()),
            Self::NotAProgram(_) => "the enclave's file is no program".to_owned(),
            Self::State { source, .. } => format!("could not use the state folder: {}", source.kind()),
            Self::Image { error, .. } => format!("the image is refused: {error}"),
            Self::ImageDigest { expected, actual, .. } => {
                format!("expected the image to have SHA-384 {expected}, it has {actual}")
            }
            Self::Nitro(error) => error.summary(),
            Self::InUse { .. } => "the state folder is in use".to_owned(),
            Self::Socket(_) => "the path of the enclave's socket cannot be used".to_owned(),
            Self::System { what, source } => {
                format!("could not start the enclave: {what}: {}", source.kind())
            }
            Self::Argument(_) | Self::Leftover { .. } | Self::Memory { .. } | Self::SecurityModule(_) => {
                self.to_string()
            }
        }
    }
}

/// Why an enclave could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A file could not be read.
    #[error("could not read the {what} `{}`: {source}", path.display())]
    Read {
        /// What the file is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The enclave is not a program of this system.
    #[error("expected an ELF program as the enclave, but `{}` is not one; a script cannot be measured as a whole", .0.display())]
    NotAProgram(PathBuf),
    /// An argument would make the measured command line ambiguous.
    #[error(
        "the argument {0:?} contains white space or control characters; the command line is measured as one text, so it may not"
    )]
    Argument(String),
    /// The folder for the host's files cannot be used.
    #[error("could not use the state folder `{}`: {source}", path.display())]
    State {
        /// The folder or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image is none that an enclave could be started from.
    #[error("`{}` is not an enclave image: {error}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<ImageError>,
    },
    /// The image is not the one that was meant, or not any more.
    #[error(
        "expected `{}` to have SHA-384 {expected}, it has {actual}: it was replaced, or is another image",
        path.display()
    )]
    ImageDigest {
        /// The file.
        path: PathBuf,
        /// The digest that was given, or that it had when the host started.
        expected: Box<Sha384Digest>,
        /// The digest that it has.
        actual: Box<Sha384Digest>,
    },
    /// The image's parts would overwrite each other.
    #[error(
        "expected memory of at least {least} MiB for the image's kernel and ramdisks, got {actual} MiB; ask for more with --memory, \
         and for the model on top of it"
    )]
    Memory {
        /// MiB that they need to lie beside each other.
        least: u64,
        /// MiB that were asked for.
        actual: u32,
    },
    /// AWS's program did not start an enclave, or started another one.
    #[error(transparent)]
    Nitro(#[from] nitro::NitroError),
    /// Another host uses the folder.
    #[error(
        "the state folder `{}` is in use by another cleanroom-host{}; give each its own with --state",
        folder.display(),
        holder.map_or(String::new(), |id| format!(" (process {id})"))
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, as it says itself.
        holder: Option<u32>,
    },
    /// What an earlier life of the host started cannot be ended.
    #[error(
        "the {what} of an earlier life of this host (process {id}) was killed and is still there; nothing is started \
         beside it: see what it waits for (cat /proc/{id}/stack, as root), or restart the machine"
    )]
    Leftover {
        /// What it is.
        what: String,
        /// Its process.
        id: i32,
    },
    /// The enclave's socket would have an impossible path.
    #[error(transparent)]
    Socket(#[from] AddressError),
    /// The security module could not be made.
    #[error("the software security module cannot be made: {0}")]
    SecurityModule(#[from] NsmError),
    /// The system did not start the process, or gave no means to.
    #[error("could not start the enclave: {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
