//! The control connection to the enclave, shared by the tasks of the agent.

use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind, ControlState};
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long the enclave may take for one answer, unless a connection says otherwise. After that the connection is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection, on which one question is asked at a time.
///
/// Tokio's locks are given in the order in which they were asked for. Everything but renewal takes `turn`
/// first, so at most one of those questions stands before one of renewal's, however many tasks deliver.
#[derive(Debug)]
pub(crate) struct Control<S> {
    stream: Mutex<S>,
    turn: Mutex<()>,
    patience: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Control<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: Mutex::new(stream), turn: Mutex::new(()), patience: PATIENCE }
    }

    /// The same connection, on which one answer may take `patience`.
    pub(crate) fn waiting(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks, after at most one question of somebody else. For renewal alone.
    ///
    /// After an error the connection is of no use any more.
    pub(super) async fn ask_first(&self, kind: ControlKind, body: &[u8]) -> io::Result<ControlAnswer> {
        if body.len() > kind.limit() {
            return Ok(ControlAnswer::Refused("too-large".to_owned()));
        }
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut stream = self.stream.lock().await;
        let exchange = async {
            stream.write_all(&kind.frame(body)).await?;
            stream.flush().await?;
            let mut header = [0; CONTROL_HEADER_BYTES];
            stream.read_exact(&mut header).await?;
            let (code, length) = ControlAnswer::parse_header(header).map_err(invalid)?;
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            ControlAnswer::parse(code, &body).map_err(invalid)
        };
        timeout(self.patience, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Asks, after those who asked before.
    pub(crate) async fn ask(&self, kind: ControlKind, body: &[u8]) -> io::Result<ControlAnswer> {
        let _turn = self.turn.lock().await;
        self.ask_first(kind, body).await
    }

    /// Returns when the enclave has closed the connection, which nobody may use meanwhile.
    pub(crate) async fn closed(&self) {
        // An answer without a question is no answer: what comes is read and left.
        let mut stream = self.stream.lock().await;
        while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
    }

    /// What is in force, out of an answer to [`ControlKind::State`].
    pub(super) fn state(answer: &ControlAnswer) -> io::Result<ControlState> {
        match answer {
            ControlAnswer::State(state) => Ok(*state),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the enclave does not say what is in force")),
        }
    }
}
