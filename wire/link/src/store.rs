//! The transfer of a model: the host's store answers requests for ranges of bytes.
//!
//! The host connects to the enclave's port [`crate::port::MODEL`], several times at once if the enclave takes it. On each
//! connection it says what it has, and then answers questions, one after the other. Numbers are big-endian.
//!
//! ```text
//! host ──► enclave   description: version u8 = 1, form u8 (0 plain, 1 sealed), length u64
//! enclave ──► host   question: offset u64, length u32
//! host ──► enclave   answer: the question's offset and length, then that many bytes
//! ```
//!
//! A question for no bytes is a farewell: the enclave has all that it wants. The enclave says on its console what it thinks of
//! the bytes; it believes none of them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::sendfile;
use rustix::io::retry_on_intr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest range of one question, in bytes: 65 sealed chunks.
pub const MAX_RANGE_BYTES: usize = 65 * (16 * 1024 + 16);

/// The version of this exchange.
const VERSION: u8 = 1;
/// The length of a description in bytes.
const DESCRIPTION_BYTES: usize = 10;
/// The length of a question, and of what an answer repeats of it, in bytes.
const QUESTION_BYTES: usize = 12;

/// A store's statement about its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// In which form.
    pub form: Form,
    /// How many bytes, in that form.
    pub length: u64,
}

/// The form of a model in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// In a file that only a key opens.
    Sealed,
}

impl Description {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; DESCRIPTION_BYTES] {
        let form = match self.form {
            Form::Plain => 0,
            Form::Sealed => 1,
        };
        let [a, b, c, d, e, f, g, h] = self.length.to_be_bytes();
        [VERSION, form, a, b, c, d, e, f, g, h]
    }

    /// Reads a description. `None` for another version and an unknown form.
    #[must_use]
    pub fn decode(bytes: [u8; DESCRIPTION_BYTES]) -> Option<Self> {
        let [version, form, length @ ..] = bytes;
        let form = match (version, form) {
            (VERSION, 0) => Form::Plain,
            (VERSION, 1) => Form::Sealed,
            _ => return None,
        };
        Some(Self { form, length: u64::from_be_bytes(length) })
    }

    /// Reads a description from a new connection.
    ///
    /// # Errors
    /// The stream's own; [`io::ErrorKind::InvalidData`] for what is no description.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut bytes = [0; DESCRIPTION_BYTES];
        stream.read_exact(&mut bytes).await?;
        Self::decode(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Which bytes an enclave asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// From which byte on.
    pub offset: u64,
    /// How many. None is a farewell.
    pub length: u32,
}

impl Question {
    /// The farewell.
    pub const FAREWELL: Self = Self { offset: 0, length: 0 };

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; QUESTION_BYTES] {
        let [a, b, c, d, e, f, g, h] = self.offset.to_be_bytes();
        let [i, j, k, l] = self.length.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// Reads a question.
    #[must_use]
    pub fn decode(bytes: [u8; QUESTION_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, length @ ..] = bytes;
        Self { offset: u64::from_be_bytes([a, b, c, d, e, f, g, h]), length: u32::from_be_bytes(length) }
    }

    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut bytes = [0; QUESTION_BYTES];
        stream.read_exact(&mut bytes).await?;
        Ok(Self::decode(bytes))
    }

    /// How many bytes a store that has `description` answers with. `None` is a farewell.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: they are not there, or more than [`MAX_RANGE_BYTES`].
    fn due(&self, description: &Description) -> io::Result<Option<usize>> {
        if *self == Self::FAREWELL {
            return Ok(None);
        }
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let end = self.offset.checked_add(u64::from(self.length));
        if length > MAX_RANGE_BYTES || end.is_none_or(|end| end > description.length) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Some(length))
    }
}

/// Asks for the bytes from `offset` on that fill `output`.
///
/// # Errors
/// The stream's own; [`io::ErrorKind::InvalidData`] when the answer is one to another question.
pub async fn ask<S>(stream: &mut S, offset: u64, output: &mut [u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    begin(stream, offset, output.len()).await?;
    stream.read_exact(output).await.map(drop)
}

/// Asks for `length` bytes from `offset` on, and leaves it to the caller to read them: they are what follows on the stream.
///
/// # Errors
/// The stream's own; [`io::ErrorKind::InvalidData`] when the answer is one to another question.
pub async fn begin<S>(stream: &mut S, offset: u64, length: usize) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let question = Question { offset, length };
    stream.write_all(&question.encode()).await?;
    stream.flush().await?;
    if Question::read(stream).await? == question { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Tells the store that nothing more is wanted. A store that is gone already need not hear it.
pub async fn farewell(stream: &mut (impl AsyncWrite + Unpin)) {
    let _ = stream.write_all(&Question::FAREWELL.encode()).await;
    let _ = stream.flush().await;
}

/// What a store serves.
pub trait Source: Send + Sync + 'static {
    /// What it is.
    fn description(&self) -> Description;

    /// Fills `output` with the bytes from `offset` on. May wait for a disk.
    ///
    /// # Errors
    /// What reading reports.
    fn read_at(&self, offset: u64, output: &mut [u8]) -> io::Result<()>;
}

/// Answers one connection, in writes of at most `cap` bytes. Returns when the enclave says farewell.
///
/// # Errors
/// The stream's or the source's own; [`io::ErrorKind::InvalidInput`] for a question for bytes that are not there or for more
/// than [`MAX_RANGE_BYTES`].
pub async fn serve<S>(mut stream: S, source: &Arc<impl Source>, cap: usize) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let description = source.description();
    stream.write_all(&description.encode()).await?;
    stream.flush().await?;
    let mut buffer = Vec::new();
    loop {
        let question = Question::read(&mut stream).await?;
        let Some(length) = question.due(&description)? else { return Ok(()) };
        buffer = answer(source, question, buffer, length).await?;
        for piece in buffer.chunks(cap) {
            stream.write_all(piece).await?;
        }
        stream.flush().await?;
    }
}

/// The whole answer, made on a thread that may wait for a disk.
async fn answer(
    source: &Arc<impl Source>,
    question: Question,
    mut buffer: Vec<u8>,
    length: usize,
) -> io::Result<Vec<u8>> {
    let source = Arc::clone(source);
    let read = tokio::task::spawn_blocking(move || {
        buffer.resize(QUESTION_BYTES.saturating_add(length), 0);
        if let Some((head, bytes)) = buffer.split_first_chunk_mut() {
            *head = question.encode();
            source.read_at(question.offset, bytes)?;
        }
        Ok(buffer)
    });
    read.await.map_err(io::Error::other)?
}

/// Answers one connection from `file`, of which `description` tells. Returns when the enclave says farewell.
///
/// The system moves the bytes out of its cache into the connection (sendfile(2)); this process copies none of them. Every call
/// waits until it is done, so this is for a thread of its own, and for a socket that blocks. Shutting the socket down ends it.
///
/// # Errors
/// The socket's or the file's own; [`io::ErrorKind::InvalidInput`] as [`serve`]; [`io::ErrorKind::UnexpectedEof`] when the
/// file became shorter.
pub fn serve_file(
    mut socket: impl Read + Write + AsFd,
    file: &File,
    description: &Description,
) -> io::Result<()> {
    socket.write_all(&description.encode())?;
    loop {
        // Who waits in a read of a Unix socket is also woken whenever the other end has read something.
        retry_on_intr(|| poll(&mut [PollFd::new(&socket, PollFlags::IN)], None))?;
        let mut bytes = [0; QUESTION_BYTES];
        socket.read_exact(&mut bytes)?;
        let question = Question::decode(bytes);
        let Some(mut left) = question.due(description)? else { return Ok(()) };
        socket.write_all(&question.encode())?;
        let mut offset = question.offset;
        while left > 0 {
            // Moves `offset` on.
            let sent = retry_on_intr(|| sendfile(&socket, file, Some(&mut offset), left))?;
            if sent == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(sent);
        }
    }
}

/// Bytes in memory are a source of themselves.
pub struct InMemory {
    form: Form,
    bytes: Vec<u8>,
}

impl InMemory {
    /// A source of `bytes`, which are in this form.
    #[must_use]
    pub const fn new(form: Form, bytes: Vec<u8>) -> Self {
        Self { form, bytes }
    }
}

impl Source for InMemory {
    fn description(&self) -> Description {
        Description { form: self.form, length: self.bytes.len() as u64 }
    }

    fn read_at(&self, offset: u64, output: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = self.bytes.get(start..).and_then(|rest| rest.get(..output.len()));
        output.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread::JoinHandle;

    use rustix::fs::{MemfdFlags, memfd_create};
    use tokio::io::duplex;
    use tokio::net::UnixStream;

    use super::*;

    fn model() -> Vec<u8> {
        (0..50_000_u32).map(|byte| byte as u8).collect()
    }

    #[tokio::test]
    async fn ranges_arrive_as_they_are_in_the_source() {
        for form in [Form::Plain, Form::Sealed] {
            let (host, mut enclave) = duplex(100);
            let source = Arc::new(InMemory::new(form, model()));
            let store = tokio::spawn(async move { serve(host, &source, 7).await });
            let description = Description::read(&mut enclave).await.unwrap();
            assert_eq!(description, Description { form, length: 50_000 });
            for range in [0..1_usize, 49_999..50_000, 1000..5000] {
                let mut output = vec![0; range.len()];
                ask(&mut enclave, range.start as u64, &mut output).await.unwrap();
                assert_eq!(output, model()[range]);
            }
            farewell(&mut enclave).await;
            store.await.unwrap().unwrap();
        }
    }

    /// A file that serves one connection, and the other end of that.
    fn of_file(bytes: &[u8], length: u64) -> (JoinHandle<io::Result<()>>, UnixStream) {
        let mut file = File::from(memfd_create("model", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        let (host, enclave) = std::os::unix::net::UnixStream::pair().unwrap();
        enclave.set_nonblocking(true).unwrap();
        let description = Description { form: Form::Sealed, length };
        let store = std::thread::spawn(move || serve_file(host, &file, &description));
        (store, UnixStream::from_std(enclave).unwrap())
    }

    #[tokio::test]
    async fn ranges_arrive_as_they_are_in_a_file() {
        let (store, mut enclave) = of_file(&model(), 50_000);
        let description = Description::read(&mut enclave).await.unwrap();
        assert_eq!(description, Description { form: Form::Sealed, length: 50_000 });
        for range in [0..1_usize, 49_999..50_000, 1000..5000, 0..50_000] {
            let mut output = vec![0; range.len()];
            ask(&mut enclave, range.start as u64, &mut output).await.unwrap();
            assert_eq!(output, model()[range]);
        }
        farewell(&mut enclave).await;
        store.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_file_gives_nothing_beyond_its_end_or_beyond_the_limit_and_no_zeros_for_what_it_lost() {
        let (beyond, lost) = (io::ErrorKind::InvalidInput, io::ErrorKind::UnexpectedEof);
        for (question, expected) in [
            (Question { offset: 49_999, length: 2 }, beyond),
            (Question { offset: u64::MAX, length: 2 }, beyond),
            (Question { offset: 0, length: u32::try_from(MAX_RANGE_BYTES + 1).unwrap() }, beyond),
            (Question { offset: 49_998, length: 2 }, lost),
        ] {
            let length = if question.offset == 0 { u64::MAX } else { 50_000 };
            let (store, mut enclave) = of_file(&model()[..49_999], length);
            Description::read(&mut enclave).await.unwrap();
            enclave.write_all(&question.encode()).await.unwrap();
            assert_eq!(store.join().unwrap().unwrap_err().kind(), expected);
        }
    }

    #[tokio::test]
    async fn a_store_gives_nothing_beyond_its_file_or_beyond_the_limit() {
        let long = u32::try_from(MAX_RANGE_BYTES + 1).unwrap();
        for question in [
            Question { offset: 49_999, length: 2 },
            Question { offset: u64::MAX, length: 2 },
            Question { offset: 0, length: long },
        ] {
            let (host, mut enclave) = duplex(100);
            let source = Arc::new(InMemory::new(Form::Plain, vec![0; 2 * MAX_RANGE_BYTES]));
            let source =
                if question.offset > 0 { Arc::new(InMemory::new(Form::Plain, model())) } else { source };
            let store = tokio::spawn(async move { serve(host, &source, 7).await });
            Description::read(&mut enclave).await.unwrap();
            enclave.write_all(&question.encode()).await.unwrap();
            assert_eq!(store.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[tokio::test]
    async fn an_answer_to_another_question_is_none() {
        for answer in [Question { offset: 1, length: 4 }, Question { offset: 0, length: 5 }] {
            let (mut host, mut enclave) = duplex(100);
            host.write_all(&answer.encode()).await.unwrap();
            host.write_all(&[0; 5]).await.unwrap();
            let error = ask(&mut enclave, 0, &mut [0; 4]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_description_has_one_form() {
        let description = Description { form: Form::Sealed, length: 1 << 40 };
        assert_eq!(Description::decode(description.encode()), Some(description));
        let mut bytes = description.encode();
        bytes[1] = 2;
        assert_eq!(Description::decode(bytes), None);
        bytes = description.encode();
        bytes[0] = 2;
        assert_eq!(Description::decode(bytes), None);
    }
}
