//! The front's place between QEMU and swtpm.
//!
//! QEMU (`-tpmdev emulator`) and swtpm speak over two channels. QEMU connects to swtpm's control channel and sends, with its
//! first command, one end of a socket pair: the data channel, which carries TPM commands. The front keeps that end and sends
//! swtpm an end of its own. The bytes of the control channel pass through unread.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use cleanroom_software_nsm::TpmAttester;
use cleanroom_tpm::{MESSAGE_MAX, read_message};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::device::{Device, Emulator};

/// Why a front ended before its guest.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// A channel failed.
    #[error("a channel of the software TPM failed: {0}")]
    Channel(#[from] io::Error),
    /// More than one data channel came, or something that is no socket.
    #[error("expected QEMU to send one data channel in its first command, got another descriptor")]
    DataChannel,
}

/// Serves one guest until QEMU or swtpm closes the control channel. `guest` is QEMU's end of it, `emulator` is swtpm's.
///
/// # Errors
/// [`FrontError`].
pub fn serve(guest: &UnixStream, emulator: &UnixStream, attester: TpmAttester) -> Result<(), FrontError> {
    let mut attester = Some(attester);
    // Both ends of the data channel, so that whoever ends first ends the others.
    let data: Mutex<Vec<UnixStream>> = Mutex::default();
    let end = || {
        let data = data.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [guest, emulator].into_iter().chain(data.iter()) {
            // A channel that is closed already needs nothing.
            let _ = stream.shutdown(Shutdown::Both);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            // Ends with either side; the other direction then has the reason.
            let _ = io::copy(&mut &*emulator, &mut &*guest);
            end();
        });
        let result = forward_control(guest, emulator, |channel| {
            let (ours, theirs) = UnixStream::pair()?;
            let mut ends = data.lock().unwrap_or_else(PoisonError::into_inner);
            ends.extend([channel.try_clone()?, ours.try_clone()?]);
            drop(ends);
            let device = Device::new(Channel(ours), attester.take().ok_or(FrontError::DataChannel)?);
            scope.spawn(move || serve_commands(channel, device));
            Ok(theirs)
        });
        end();
        result
    })
}

/// Passes the control channel on, until it ends. `data` gets QEMU's end of the data channel, and gives the one for swtpm.
fn forward_control(
    guest: &UnixStream,
    emulator: &UnixStream,
    mut data: impl FnMut(UnixStream) -> Result<UnixStream, FrontError>,
) -> Result<(), FrontError> {
    let mut buffer = [0; MESSAGE_MAX];
    loop {
        // Room for one more than may come, so that one more is seen.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg(guest, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).map_err(io::Error::from)?;
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let bytes = buffer.get(..received.bytes).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        let mut descriptors = descriptors.into_iter();
        match (descriptors.next(), descriptors.next()) {
            (None, _) => (&mut &*emulator).write_all(bytes)?,
            (Some(channel), None) => {
                let theirs = data(UnixStream::from(channel))?;
                let rights = [theirs.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&rights));
                let sent = sendmsg(emulator, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
                    .map_err(io::Error::from)?;
                (&mut &*emulator).write_all(bytes.get(sent..).unwrap_or_default())?;
            }
            (Some(_), Some(_)) => return Err(FrontError::DataChannel),
        }
    }
}

/// Answers the guest's commands until the data channel ends.
fn serve_commands(mut guest: UnixStream, mut device: Device<Channel>) {
    let mut answer = || -> io::Result<()> {
        let command = read_message(&mut guest)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        guest.write_all(&device.process(&command, now_ms)?)
    };
    while answer().is_ok() {}
    // QEMU sees the end of the channel, whatever the reason was.
    let _ = guest.shutdown(Shutdown::Both);
}

/// swtpm's data channel.
struct Channel(UnixStream);

impl Emulator for Channel {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        read_message(&mut self.0)
    }
}
