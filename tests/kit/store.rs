//! A host's store beside the enclave: an honest one, and one that does with its answers what a test says.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use cleanroom_link::listener::Listener;
use cleanroom_link::store::{Description, Form, MAX_RANGE_BYTES, Question};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// What a store does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Answers it.
    Honest,
    /// Answers it, with one bit of this byte of the file turned.
    Flip(u64),
    /// Answers with the bytes that stand there in another file of the same length.
    Other,
    /// Answers with the bytes from this place on.
    From(u64),
    /// Says nothing, and keeps the connection.
    Stall,
    /// Sends a half of the answer, and hangs up.
    Half,
    /// Sends more bytes than it was asked for, and says so.
    Longer,
    /// Sends more bytes than it was asked for, behind an answer that looks right.
    More,
    /// Says that it answers a question for another place.
    Misplaced,
}

/// Decides on each question, which has a number.
type Decide = dyn Fn(usize, Question) -> Answer + Send + Sync;

/// A store that connects as often as it is accepted.
pub struct Store {
    shared: Arc<Shared>,
    /// What the next connections say they have; then the truth.
    described: VecDeque<Description>,
    /// How many of the next connections say nothing at all.
    silent: usize,
}

struct Shared {
    description: Description,
    bytes: Vec<u8>,
    other: Vec<u8>,
    decide: Box<Decide>,
    asked: Mutex<usize>,
}

impl Store {
    /// An honest store with a model as it is.
    #[must_use]
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self::new(Form::Plain, bytes, Vec::new(), |_, _| Answer::Honest)
    }

    /// A store of `bytes` in this form that `decide`s about each question. `other` is a file that it has beside.
    pub fn new(
        form: Form,
        bytes: Vec<u8>,
        other: Vec<u8>,
        decide: impl Fn(usize, Question) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let description = Description { form, length: bytes.len() as u64 };
        let decide: Box<Decide> = Box::new(decide);
        let shared = Shared { description, bytes, other, decide, asked: Mutex::new(0) };
        Self { shared: Arc::new(shared), described: VecDeque::new(), silent: 0 }
    }

    /// The same, whose first connections describe the file so.
    #[must_use]
    pub fn describing(mut self, described: impl IntoIterator<Item = Description>) -> Self {
        self.described.extend(described);
        self
    }

    /// The same, whose first connections say nothing.
    #[must_use]
    pub const fn silent_at_first(mut self, connections: usize) -> Self {
        self.silent = connections;
        self
    }

    /// How many questions came so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        *self.shared.asked.lock().unwrap()
    }
}

impl Listener for Store {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        if let Some(rest) = self.silent.checked_sub(1) {
            self.silent = rest;
            tokio::spawn(async move {
                let mut ours = ours;
                ours.read_u8().await
            });
            return Ok(theirs);
        }
        let description = self.described.pop_front().unwrap_or(self.shared.description);
        let shared = Arc::clone(&self.shared);
        // Ends with the other end.
        tokio::spawn(async move { serve(ours, description, &shared).await });
        Ok(theirs)
    }
}

async fn serve(mut stream: UnixStream, description: Description, shared: &Shared) -> io::Result<()> {
    stream.write_all(&description.encode()).await?;
    loop {
        let mut question = [0; 12];
        stream.read_exact(&mut question).await?;
        let question = Question::decode(question);
        if question == Question::FAREWELL {
            return Ok(());
        }
        let number = {
            let mut asked = shared.asked.lock().unwrap();
            *asked += 1;
            *asked - 1
        };
        assert!(question.length as usize <= MAX_RANGE_BYTES);
        let range = |bytes: &[u8], from: u64| {
            let mut range = bytes.get(from as usize..).unwrap_or_default().to_vec();
            range.resize(question.length as usize, 0);
            range
        };
        let mut head = question;
        let mut bytes = range(&shared.bytes, question.offset);
        let mut behind = Vec::new();
        match (shared.decide)(number, question) {
            Answer::Honest => {}
            Answer::Flip(place) => {
                let place = place.checked_sub(question.offset).and_then(|place| usize::try_from(place).ok());
                if let Some(byte) = place.and_then(|place| bytes.get_mut(place)) {
                    *byte ^= 1;
                }
            }
            Answer::Other => bytes = range(&shared.other, question.offset),
            Answer::From(place) => bytes = range(&shared.bytes, place),
            Answer::Stall => std::future::pending().await,
            Answer::Half => {
                stream.write_all(&head.encode()).await?;
                return stream.write_all(&bytes[..bytes.len() / 2]).await;
            }
            Answer::Longer => {
                head.length += 1;
                behind = vec![0];
            }
            Answer::More => behind = vec![0; 100],
            Answer::Misplaced => head.offset += 1,
        }
        for part in [head.encode().as_slice(), &bytes, &behind] {
            stream.write_all(part).await?;
        }
    }
}
