//! The connections of the lease service: how many there are, how long each may last, and which one ends when more come.
//!
//! Anybody may connect. So a place is never kept by waiting: when all are taken and another client comes, the oldest
//! connection ends that waits for its client, of the address that holds the most. A connection whose request is being
//! worked on is spared. Hundreds of slow clients therefore cost each other their places, and a client that says at once
//! what it wants gets its answer.

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

use super::PATIENCE;
use crate::metrics::Metrics;

/// Connections at the same time.
pub(super) const CONNECTIONS: usize = 256;
/// A connection that is older than this ends with the next answer.
const OLD: Duration = Duration::from_secs(60);
/// The longest that a connection lasts, whatever its client does.
const LIFE: Duration = Duration::from_secs(120);
/// How long running requests may take when the service is asked to end.
const DRAIN: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD: usize = 16 << 10;

/// Tells that the request of a connection is being worked on.
#[derive(Debug, Clone, Default)]
pub(super) struct AtWork(Arc<AtomicUsize>);

/// The connection is spared while this lives.
pub(super) struct Spared(Arc<AtomicUsize>);

impl AtWork {
    pub(super) fn begin(&self) -> Spared {
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
pub(super) async fn serve(
    listener: TcpListener,
    router: &Router,
    metrics: &Arc<Metrics>,
    signals: &mut Signals,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Places { open: Mutex::default(), metrics: Arc::clone(metrics) });
    let mut number = 0;
    loop {
        // The signal comes first: a crowd of clients must not keep the service from ending.
        let accepted = tokio::select! {
            biased;
            _ = signals.next() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                number += 1;
                places.enter(number, from.ip(), stream, router, &graceful);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Too many open files and the like: one connection ends for another.
                places.shed(0);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Clients that come now are refused, and ask another service.
    drop(listener);
    tracing::info!(connections = places.lock().len(), "asked to end: answering what was asked");
    let drained = tokio::select! {
        () = graceful.shutdown() => true,
        () = sleep(DRAIN) => false,
        _ = signals.next() => false,
    };
    places.end_all();
    tracing::info!(drained, "ended");
}

/// The connections that are open, oldest first.
struct Places {
    open: Mutex<BTreeMap<u64, Open>>,
    metrics: Arc<Metrics>,
}

struct Open {
    from: IpAddr,
    at_work: AtWork,
    task: AbortHandle,
}

/// The place of one connection. It is free again when this is dropped.
struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        open.remove(&self.number);
        self.places.metrics.connections(open.len());
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new connection a place, if need be that of another.
    fn enter(
        self: &Arc<Self>,
        number: u64,
        from: IpAddr,
        stream: TcpStream,
        router: &Router,
        graceful: &GracefulShutdown,
    ) {
        self.shed(CONNECTIONS - 1);
        let at_work = AtWork::default();
        let place = Place { places: Arc::clone(self), number };
        let connection = graceful.watch(connection(stream, router.clone(), at_work.clone()));
        // The lock is held until the connection is in the list, so that it cannot leave before it came.
        let mut open = self.lock();
        let task = tokio::spawn(async move {
            let _place = place;
            // A connection that breaks is its client's matter.
            let _ = timeout(LIFE, connection).await;
        });
        open.insert(number, Open { from, at_work, task: task.abort_handle() });
        self.metrics.connections(open.len());
    }

    /// Ends connections until at most `most` are left, as far as they wait for their clients.
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
            self.metrics.shed();
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

    /// Connections from these addresses, in this order, that never end by themselves.
    fn places(from: &[u8]) -> Places {
        let places = Places { open: Mutex::default(), metrics: Arc::new(Metrics::new()) };
        for (number, last) in (0..).zip(from) {
            let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
            let from = IpAddr::from([10, 0, 0, *last]);
            places.lock().insert(number, Open { from, at_work: AtWork::default(), task });
        }
        places
    }

    fn left(places: &Places) -> Vec<u64> {
        places.lock().keys().copied().collect()
    }

    #[tokio::test]
    async fn the_oldest_of_the_address_with_the_most_connections_ends() {
        let places = places(&[1, 2, 2, 1, 2, 3]);
        places.shed(6);
        assert_eq!(left(&places), [0, 1, 2, 3, 4, 5], "there is room");
        for expected in [vec![0, 2, 3, 4, 5], vec![2, 3, 4, 5], vec![3, 4, 5]] {
            places.shed(0);
            assert_eq!(left(&places), expected);
        }
    }

    #[tokio::test]
    async fn a_connection_whose_request_is_worked_on_is_spared() {
        let places = places(&[1, 1, 2]);
        let at_work = places.lock()[&0].at_work.clone();
        let spared = [at_work.begin(), at_work.begin()];
        places.shed(0);
        places.shed(0);
        assert_eq!(left(&places), [0]);
        places.shed(0);
        assert_eq!(left(&places), [0], "nothing is left to end");
        drop(spared);
        places.shed(0);
        assert!(left(&places).is_empty());
    }
}
