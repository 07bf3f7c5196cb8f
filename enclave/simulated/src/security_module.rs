//! The security module of the simulated tier: requests in CBOR on standard input's socket, as `/dev/nsm` would be asked.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_console::{Line, Reason};
use cleanroom_keeper::security_module::Device;
use rustix::event::{PollFd, PollFlags, poll};

/// The longest answer of `/dev/nsm`, in bytes.
const MAX_ANSWER_BYTES: usize = 12 * 1024;

/// A security module that the host runs for this process.
pub(crate) struct HostSecurityModule {
    socket: UnixStream,
}

/// The host is gone, and its security module with it.
struct SecurityModuleGone;

impl Reason for SecurityModuleGone {}

impl fmt::Display for SecurityModuleGone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the security module is gone")
    }
}

impl HostSecurityModule {
    /// Takes the socket that stands on standard input. When the host goes, so does this process.
    pub(crate) fn on_standard_input() -> io::Result<Self> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let watched = socket.try_clone()?;
        std::thread::Builder::new().name("host-watch".to_owned()).spawn(move || {
            let mut descriptors = [PollFd::new(&watched, PollFlags::RDHUP)];
            while !matches!(poll(&mut descriptors, None), Ok(count) if count > 0) {}
            Line::Halted(&SecurityModuleGone).say();
            std::process::exit(1);
        })?;
        Ok(Self { socket })
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(request.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.socket.write_all(&[&length.to_be_bytes(), request].concat())?;
        let mut length = [0; 4];
        self.socket.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_ANSWER_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; length];
        self.socket.read_exact(&mut answer)?;
        Ok(answer)
    }
}

impl Device for HostSecurityModule {
    fn process(&mut self, request: Request) -> Response {
        let internal = Response::Error(ErrorCode::InternalError);
        let Ok(request) = serde_cbor::to_vec(&request) else { return internal };
        let Ok(answer) = self.exchange(&request) else { return internal };
        serde_cbor::from_slice(&answer).unwrap_or(internal)
    }
}
