//! The reasons for which PID 1 ends the enclave, and the end itself.

use std::io::{self, ErrorKind};
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use crate::application::Unsound;
use crate::console::{Line, say};

/// The reason for a halt. Its text is made of fixed words, numbers, and names that the image itself contains.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Halt {
    /// The machine could not be prepared.
    #[error("could not prepare the machine: {step}: {error}")]
    Machine {
        /// What was tried.
        step: &'static str,
        /// What the kernel answered.
        error: ErrorKind,
    },
    /// The application is not what the manifest lists.
    #[error("the application is not the one that was measured: {0}")]
    Application(#[from] Unsound),
    /// The image names a platform that there is not.
    #[error("expected `nitrotpm` in /platform, or no such file, got something else")]
    Platform,
    /// There is no security module.
    #[error("expected the security module at /dev/nsm, found none: this image runs inside a Nitro enclave")]
    NoSecurityModule,
    /// There is no TPM that can be used.
    #[error("expected a TPM at /dev/tpm0, got: {0}; this image runs on an instance with a NitroTPM")]
    NoTpm(ErrorKind),
    /// The security module gave no randomness.
    #[error(
        "expected {expected} bytes of randomness from the security module, got {got}; nothing can be kept secret without"
    )]
    NoRandomness {
        /// Bytes due.
        expected: usize,
        /// What came instead.
        got: &'static str,
    },
    /// The kernel draws its randomness from elsewhere.
    #[error("expected the kernel to draw randomness from `{expected}`, but rng_current names another source")]
    OtherRandomness {
        /// The driver's name.
        expected: &'static str,
    },
    /// The clock can be driven by the parent.
    #[error("expected one of the clock sources {expected:?}, the kernel uses `{actual}`")]
    Clock {
        /// The accepted names.
        expected: &'static [&'static str],
        /// The kernel's name for the one it uses.
        actual: String,
    },
    /// The parent did not answer.
    #[error("the parent did not answer the heartbeat within {} s: {error}", .within.as_secs())]
    Heartbeat {
        /// How long it was tried.
        within: Duration,
        /// How the last attempt failed.
        error: ErrorKind,
    },
    /// The application could not be started.
    #[error("the application could not be started: {0}")]
    Start(ErrorKind),
    /// The application of an instance has ended in order.
    #[error("the application has ended in order; the machine is switched off")]
    Drained,
    /// The application ended.
    #[error("the application ended with status {0}")]
    Ended(i32),
    /// The application was ended by a signal.
    #[error("the application was ended by signal {0}")]
    Signalled(i32),
    /// There is nothing left to wait for.
    #[error("the application cannot be watched: {0}")]
    Unwatched(ErrorKind),
}

impl Halt {
    pub(crate) fn machine(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Machine { step, error: error.kind() }
    }
}

/// Says why, and ends the machine. Should the kernel refuse to, the end of PID 1 makes it panic, which ends it too.
pub(crate) fn halt(reason: &Halt) -> ! {
    say(&Line::Halted(reason));
    // The serial line is slower than a reboot, and the reason is the last that is heard of this enclave.
    let _ = rustix::termios::tcdrain(io::stderr());
    let _ = reboot(match reason {
        Halt::Drained => RebootCommand::PowerOff,
        _ => RebootCommand::Restart,
    });
    std::process::abort()
}
