//! How connections to the engine reach the worker, which can neither make nor connect a socket.
//!
//! The worker asks for one with a byte; the engine's room answers with a byte, and a connected socket beside it if the engine
//! could be reached (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use cleanroom_backend::Pending;
use cleanroom_openai as openai;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

/// A worker asks for a connection.
pub(super) const WANTED: u8 = b'c';
/// A connection is beside this byte.
const HERE: u8 = b'+';
/// The engine cannot be reached.
const UNREACHABLE: u8 = b'-';

/// Sends a byte with a descriptor, or without one.
pub(super) fn send(socket: BorrowedFd<'_>, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    let byte = [if descriptors.is_empty() { UNREACHABLE } else { HERE }];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match sendmsg(socket, &[IoSlice::new(&byte)], &mut beside, SendFlags::NOSIGNAL)? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives a byte, and the descriptor beside it if there is one.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let (mut byte, mut space) = ([0], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// The worker's end. One task asks and receives, so that nobody who gives up leaves an answer for another.
pub(super) struct WorkersDoor(mpsc::Sender<oneshot::Sender<io::Result<UnixStream>>>);

impl WorkersDoor {
    /// Connections that may be asked for before the first has come.
    const QUEUED: usize = 64;

    /// Call it on the runtime.
    ///
    /// # Errors
    /// What the system answers.
    pub(super) fn new(door: StdUnixStream) -> io::Result<Self> {
        door.set_nonblocking(true)?;
        let mut door = UnixStream::from_std(door)?;
        let (ask, mut asked) = mpsc::channel::<oneshot::Sender<io::Result<UnixStream>>>(Self::QUEUED);
        tokio::spawn(async move {
            while let Some(whoever) = asked.recv().await {
                let connection = connection(&mut door).await;
                let is_over =
                    connection.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::ConnectionRefused);
                // Whoever asked may have gone since.
                let _ = whoever.send(connection);
                if is_over {
                    return;
                }
            }
        });
        Ok(Self(ask))
    }
}

async fn connection(door: &mut UnixStream) -> io::Result<UnixStream> {
    door.write_all(&[WANTED]).await?;
    let received = door.async_io(Interest::READABLE, || receive(door.as_fd())).await?;
    let socket = received.ok_or(io::ErrorKind::ConnectionRefused)?;
    UnixStream::from_std(StdUnixStream::from(socket))
}

impl openai::Door for WorkersDoor {
    fn connect(&self) -> Pending<'_, io::Result<UnixStream>> {
        Box::pin(async move {
            let (whoever, connection) = oneshot::channel();
            let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
            self.0.send(whoever).await.map_err(|_| gone())?;
            connection.await.map_err(|_| gone())?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use cleanroom_openai::Door as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_comes_through_the_door_or_word_that_there_is_none() {
        let (worker, room) = StdUnixStream::pair().unwrap();
        let room = tokio::task::spawn_blocking(move || {
            let mut room = room;
            for is_there in [true, false, true] {
                let mut byte = [0];
                room.read_exact(&mut byte).unwrap();
                assert_eq!(byte, [WANTED]);
                let (ours, mut theirs) = StdUnixStream::pair().unwrap();
                ours.set_nonblocking(true).unwrap();
                send(room.as_fd(), is_there.then_some(ours.as_fd())).unwrap();
                theirs.write_all(b"hello").unwrap();
            }
        });
        let door = WorkersDoor::new(worker).unwrap();
        for is_there in [true, false, true] {
            match door.connect().await {
                Ok(stream) => {
                    stream.readable().await.unwrap();
                    let mut hello = [0; 5];
                    assert_eq!((stream.try_read(&mut hello).unwrap(), &hello), (5, b"hello"));
                    assert!(is_there);
                }
                Err(error) => assert_eq!((error.kind(), is_there), (io::ErrorKind::ConnectionRefused, false)),
            }
        }
        room.await.unwrap();
        assert!(door.connect().await.is_err(), "the room is gone");
        assert!(door.connect().await.is_err(), "and stays so");
    }
}
