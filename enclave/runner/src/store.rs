//! A store in the enclave's own process, for tests and measurements.

use std::io;
use std::sync::Arc;

use cleanroom_link::listener::Listener;
use cleanroom_link::store::{self, Form, InMemory};
use tokio::net::UnixStream;

/// The largest write, in bytes.
const WRITE_CAP: usize = 256 * 1024;

/// Serves a model that is in memory to whoever accepts.
pub(crate) struct InMemoryStore(Arc<InMemory>);

impl InMemoryStore {
    pub(crate) fn new(model: Vec<u8>) -> Self {
        Self(Arc::new(InMemory::new(Form::Plain, model)))
    }
}

impl Listener for InMemoryStore {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let source = Arc::clone(&self.0);
        // Ends with the other end.
        tokio::spawn(async move { store::serve(ours, &source, WRITE_CAP).await });
        Ok(theirs)
    }
}
