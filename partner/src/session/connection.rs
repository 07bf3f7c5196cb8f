//! The tasks of HTTP/2 that carry a session. One call ends all of them.

use std::sync::{Arc, OnceLock};

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::Cut;

/// The tasks of one HTTP/2 connection. The connection is closed when none is left. Clones are the same
/// connection.
#[derive(Clone)]
pub(super) struct Connection {
    tasks: TaskTracker,
    stop: CancellationToken,
    superseded: CancellationToken,
    cut: Arc<OnceLock<Cut>>,
}

impl Connection {
    pub(super) fn new() -> Self {
        let tasks = TaskTracker::new();
        // Only a closed tracker can be waited for. Tasks still join it.
        tasks.close();
        let token = CancellationToken::new;
        Self { tasks, stop: token(), superseded: token(), cut: Arc::default() }
    }

    /// Waits until nothing runs on the connection any more.
    pub(super) async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// Ends everything that runs on the connection, and then says why in the log.
    pub(super) fn cut(&self, code: &'static str, reason: &str) {
        let _ = self.cut.set(Cut { code, reason: reason.to_owned() });
        self.stop.cancel();
        tracing::error!(code, "requests that ran on a session that has ended were cut: {reason}");
    }

    /// Lets nothing new onto the connection: it was proven under a policy that is no longer in force. What runs goes
    /// on.
    pub(super) fn supersede(&self) {
        self.superseded.cancel();
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.is_cancelled()
    }

    /// Waits until nothing new may go onto the connection.
    pub(super) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Why the connection was cut, if it was.
    pub(super) fn why_cut(&self) -> Option<&Cut> {
        self.cut.get()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Connection {
    fn execute(&self, task: F) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = task => {}
            }
        });
    }
}
