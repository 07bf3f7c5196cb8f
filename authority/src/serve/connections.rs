//! The connections of a service: how many there are, how long each may last, and which one ends when
//! more come.
//!
//! Anybody may connect, so waiting must not keep others out. When the number is reached and another client
//! comes, one connection that waits for its client ends: the oldest of the address that has the most. A
//! connection whose request is being worked on is spared. Hundreds of slow clients therefore end each other's
//! connections, and a client that sends its request at once gets its answer.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Request, header};
use cleanroom_program::signals::Signals;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tower::Service as _;

use crate::metrics::Watcher;

use super::PATIENCE;

/// Connections at the same time.
pub(crate) const CONNECTIONS: usize = 256;
/// A connection that is older than this ends with the next answer.
const OLD: Duration = Duration::from_secs(60);
/// The longest that a connection lasts, whatever its client does.
const LIFE: Duration = Duration::from_secs(120);
/// How long running requests may take when the service is asked to end.
const DRAIN: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD: usize = 16 << 10;

/// Whether the request of a connection is being worked on.
#[derive(Debug, Clone, Default)]
pub(crate) struct AtWork(Arc<AtomicUsize>);

/// The connection is spared for as long as this lives.
pub(crate) struct Spared(Arc<AtomicUsize>);

impl AtWork {
    pub(crate) fn begin(&self) -> Spared {
        self.0.fetch_add(1, Ordering::SeqCst);
        Spared(Arc::clone(&self.0))
    }

    fn is_busy(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Spared {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves until a signal asks for the end, and drains then. A second signal ends it at once.
pub(crate) async fn serve(
    listener: TcpListener,
    router: &Router,
    watcher: &Arc<dyn Watcher>,
    signals: &mut Signals,
) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Connections { open: Mutex::default(), watcher: Arc::clone(watcher) });
    let mut number = 0;
    loop {
        // Signals come first: a crowd of clients must not keep the service from ending.
        let accepted = tokio::select! {
            biased;
            _ = signals.next() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                number += 1;
                connections.add(number, from.ip(), stream, router, &graceful);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Probably too many open files: one connection ends so that another can be accepted.
                connections.shed(0);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // The system refuses clients that come now, and they ask another service.
    drop(listener);
    tracing::info!(connections = connections.lock().len(), "asked to end: answering what was asked");
    let why = tokio::select! {
        () = graceful.shutdown() => "everything is answered",
        () = sleep(DRAIN) => "what runs took too long",
        _ = signals.next() => "a second signal asked for it",
    };
    connections.end_all();
    tracing::info!(why, "ended");
}

/// The connections that are open, oldest first.
struct Connections {
    open: Mutex<BTreeMap<u64, Open>>,
    watcher: Arc<dyn Watcher>,
}

struct Open {
    from: IpAddr,
    at_work: AtWork,
    task: AbortHandle,
}

/// One connection's entry in the list. Dropping this removes it.
struct Entry {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.remove(&self.number);
        self.connections.watcher.connections(open.len());
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a new connection. If there are too many, it ends another.
    fn add(
        self: &Arc<Self>,
        number: u64,
        from: IpAddr,
        stream: TcpStream,
        router: &Router,
        graceful: &GracefulShutdown,
    ) {
        self.shed(CONNECTIONS - 1);
        let at_work = AtWork::default();
        let entry = Entry { connections: Arc::clone(self), number };
        let connection = graceful.watch(connection(stream, router.clone(), at_work.clone()));
        // The lock is held until the entry is in the list, so that it is not removed before it is there.
        let mut open = self.lock();
        let task = tokio::spawn(async move {
            let _entry = entry;
            // An error concerns this client alone.
            let _ = timeout(LIFE, connection).await;
        });
        open.insert(number, Open { from, at_work, task: task.abort_handle() });
        self.watcher.connections(open.len());
    }

    /// Ends one connection that waits for its client if more than `most` are open.
    fn shed(&self, most: usize) {
        let mut open = self.lock();
        if open.len() <= most {
            return;
        }
        let mut per_address: HashMap<IpAddr, usize> = HashMap::new();
        for connection in open.values() {
            *per_address.entry(connection.from).or_default() += 1;
        }
        // Of the address with the most connections the oldest, which is the first.
        let waiting = open.iter().filter(|(_, connection)| !connection.at_work.is_busy());
        let share = |connection: &Open| per_address.get(&connection.from).copied().unwrap_or_default();
        let victim = waiting.rev().max_by_key(|(_, connection)| share(connection)).map(|(number, _)| *number);
        if let Some(connection) = victim.and_then(|number| open.remove(&number)) {
            connection.task.abort();
            self.watcher.shed();
        }
    }

    fn end_all(&self) {
        for connection in self.lock().values() {
            connection.task.abort();
        }
    }
}

/// HTTP/1 on one connection.
fn connection(stream: TcpStream, router: Router, at_work: AtWork) -> impl GracefulConnection + Send {
    let begun = Instant::now();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(at_work.clone());
        let answer = router.clone().call(request);
        async move {
            let mut response = answer.await?;
            if begun.elapsed() > OLD {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD);
    http.serve_connection(TokioIo::new(stream), service)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Watcher for Nobody {
        fn connections(&self, _: usize) {}
        fn shed(&self) {}
    }

    /// Connections from these addresses, in this order, that never end by themselves.
    fn open(from: &[u8]) -> Connections {
        let connections = Connections { open: Mutex::default(), watcher: Arc::new(Nobody) };
        for (number, last) in (0..).zip(from) {
            let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
            let from = IpAddr::from([10, 0, 0, *last]);
            connections.lock().insert(number, Open { from, at_work: AtWork::default(), task });
        }
        connections
    }

    fn left(connections: &Connections) -> Vec<u64> {
        connections.lock().keys().copied().collect()
    }

    #[tokio::test]
    async fn the_oldest_of_the_address_with_the_most_connections_ends() {
        let connections = open(&[1, 2, 2, 1, 2, 3]);
        connections.shed(6);
        assert_eq!(left(&connections), [0, 1, 2, 3, 4, 5], "there is room");
        for expected in [vec![0, 2, 3, 4, 5], vec![2, 3, 4, 5], vec![3, 4, 5]] {
            connections.shed(0);
            assert_eq!(left(&connections), expected);
        }
    }

    #[tokio::test]
    async fn a_connection_whose_request_is_worked_on_is_spared() {
        let connections = open(&[1, 1, 2]);
        let at_work = connections.lock()[&0].at_work.clone();
        let spared = [at_work.begin(), at_work.begin()];
        connections.shed(0);
        connections.shed(0);
        assert_eq!(left(&connections), [0]);
        connections.shed(0);
        assert_eq!(left(&connections), [0], "nothing is left to end");
        drop(spared);
        connections.shed(0);
        assert!(left(&connections).is_empty());
    }
}
