//! Requests that wait for their turn, and for a thread that may wait.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::PATIENCE;
use super::connections::AtWork;
use crate::issuer::{Kind, Refusal};

/// A number of requests that are worked on at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    /// So many at the same time.
    pub(crate) fn new(number: usize) -> Self {
        Self(Arc::new(Semaphore::new(number)))
    }

    /// Runs `work` on a thread that may wait: signing for a device, reading for a disk. The client's connection is
    /// spared from the moment the work begins. A request that gets no turn within [`PATIENCE`] is refused.
    pub(crate) async fn work<S, T>(
        &self,
        at_work: &AtWork,
        service: &Arc<S>,
        work: impl FnOnce(&S) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal>
    where
        S: Send + Sync + 'static,
        T: Send + 'static,
    {
        let unusable =
            |code, message: &str| Refusal { kind: Kind::Unusable, code, message: message.to_owned() };
        let Ok(Ok(turn)) = timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await else {
            return Err(unusable("busy", "others are being answered; ask again in a moment"));
        };
        let _spared = at_work.begin();
        let service = Arc::clone(service);
        let done = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, even if its client is gone by then.
            let _turn = turn;
            work(&service)
        });
        done.await.unwrap_or_else(|_| Err(unusable("internal", "the request could not be worked on")))
    }
}
