//! The model as it comes from the keeper: a file that can be read once, for a loader that knows no runtime.

use std::io::{self, Read};

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::runtime::Handle;

use crate::KeeperGone;

/// The next `left` bytes of the connection to the keeper.
pub(crate) struct ModelFile {
    keeper: UnixStream,
    left: u64,
    runtime: Handle,
}

impl ModelFile {
    /// The next `length` bytes of `keeper`. Call it on the runtime.
    pub(crate) fn new(keeper: UnixStream, length: u64) -> Self {
        Self { keeper, left: length, runtime: Handle::current() }
    }

    /// Lets `load` read the file on a thread of its own, and reads what it leaves, so that frames come next.
    ///
    /// # Errors
    /// [`KeeperGone`]: the file did not come to its end.
    pub(crate) async fn read_by<T, E>(
        mut self,
        load: impl FnOnce(&mut Self) -> Result<T, E> + Send + 'static,
    ) -> Result<(UnixStream, Result<T, E>), KeeperGone>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let loaded = tokio::task::spawn_blocking(move || {
            let loaded = load(&mut self);
            (self, loaded)
        });
        let (Self { mut keeper, left, runtime: _ }, loaded) = loaded.await.map_err(|_| KeeperGone)?;
        if loaded.is_ok() {
            let rest = tokio::io::copy(&mut (&mut keeper).take(left), &mut tokio::io::sink()).await;
            rest.ok().filter(|read| *read == left).ok_or(KeeperGone)?;
        }
        Ok((keeper, loaded))
    }
}

impl Read for ModelFile {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(output.len());
        let Some(output) = output.get_mut(..most).filter(|output| !output.is_empty()) else { return Ok(0) };
        let count = loop {
            match self.keeper.try_read(output) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.runtime.block_on(self.keeper.readable())?;
                }
                other => break other?,
            }
        };
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_loader_reads_the_file_and_nothing_behind_it() {
        let (mut keeper, worker) = UnixStream::pair().unwrap();
        keeper.write_all(b"the model, padding|frame").await.unwrap();
        let load = |file: &mut ModelFile| {
            let mut model = [0; 9];
            file.read_exact(&mut model).map(|()| model)
        };
        let (mut worker, model) = ModelFile::new(worker, 19).read_by(load).await.unwrap();
        assert_eq!(model.unwrap(), *b"the model");
        let mut frame = [0; 5];
        worker.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, b"frame");
    }

    #[tokio::test]
    async fn a_file_ends_with_its_length_or_with_the_keeper() {
        let all = |file: &mut ModelFile| {
            let mut model = Vec::new();
            file.read_to_end(&mut model).map(|_| model)
        };
        let (mut keeper, worker) = UnixStream::pair().unwrap();
        keeper.write_all(b"model and more").await.unwrap();
        let (_, model) = ModelFile::new(worker, 5).read_by(all).await.unwrap();
        assert_eq!(model.unwrap(), b"model");

        let (mut keeper, worker) = UnixStream::pair().unwrap();
        keeper.write_all(b"mod").await.unwrap();
        drop(keeper);
        assert!(ModelFile::new(worker, 5).read_by(all).await.is_err());
    }
}
