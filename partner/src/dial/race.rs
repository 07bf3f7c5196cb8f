//! Trying addresses side by side (RFC 8305 section 5).

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

/// How long an address is tried alone before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to one of `endpoints`, preferring the earlier ones. Takes out of them what failed and what was
/// connected.
///
/// # Errors
/// The last failure, when all failed.
pub(crate) async fn race<T, C, F>(endpoints: &mut Vec<T>, connect: impl Fn(T) -> F) -> io::Result<C>
where
    T: Clone + PartialEq,
    F: Future<Output = io::Result<C>>,
{
    let mut waiting: VecDeque<T> = endpoints.iter().cloned().collect();
    let mut running = FuturesUnordered::new();
    let mut next_start = Instant::now();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    loop {
        tokio::select! {
            biased;
            Some((endpoint, connected)) = running.next(), if !running.is_empty() => {
                endpoints.retain(|other| *other != endpoint);
                match connected {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last_error = error,
                }
                // A failure is a reason to go on at once.
                next_start = Instant::now();
            }
            () = sleep_until(next_start), if !waiting.is_empty() => {
                if let Some(endpoint) = waiting.pop_front() {
                    let connecting = connect(endpoint.clone());
                    running.push(async move { (endpoint, connecting.await) });
                }
                next_start = Instant::now() + HEAD_START;
            }
            else => return Err(last_error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// How an address behaves.
    #[derive(Debug, Clone, PartialEq)]
    enum Peer {
        /// It swallows packets.
        Silent(u8),
        /// It refuses at once.
        Refuses(u8),
        /// It accepts after so many milliseconds.
        Accepts(u64),
    }

    async fn connect(peer: Peer) -> io::Result<u64> {
        match peer {
            Peer::Silent(_) => std::future::pending().await,
            Peer::Refuses(_) => Err(io::ErrorKind::ConnectionRefused.into()),
            Peer::Accepts(after) => {
                tokio::time::sleep(Duration::from_millis(after)).await;
                Ok(after)
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_packets_costs_a_quarter_of_a_second() {
        let begun = Instant::now();
        let mut endpoints = vec![Peer::Silent(0), Peer::Accepts(10), Peer::Accepts(20)];
        assert_eq!(race(&mut endpoints, connect).await.unwrap(), 10);
        assert!(begun.elapsed() <= Duration::from_millis(300), "{:?}", begun.elapsed());
        // What was not taken can be tried again.
        assert_eq!(endpoints, [Peer::Silent(0), Peer::Accepts(20)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_costs_nothing() {
        let begun = Instant::now();
        let mut endpoints = vec![Peer::Refuses(0), Peer::Refuses(1), Peer::Accepts(10)];
        assert_eq!(race(&mut endpoints, connect).await.unwrap(), 10);
        assert!(begun.elapsed() <= Duration::from_millis(20), "{:?}", begun.elapsed());
        assert_eq!(endpoints, []);
    }

    #[tokio::test(start_paused = true)]
    async fn the_preferred_address_has_a_head_start_and_goes_on_beside_the_next() {
        let tried = Mutex::new(Vec::new());
        let connect = |peer: Peer| {
            tried.lock().unwrap().push(peer.clone());
            connect(peer)
        };
        let mut endpoints = vec![Peer::Accepts(200), Peer::Accepts(1)];
        assert_eq!(race(&mut endpoints, &connect).await.unwrap(), 200);
        assert_eq!(tried.lock().unwrap().len(), 1);
        let mut endpoints = vec![Peer::Accepts(400), Peer::Accepts(600)];
        assert_eq!(race(&mut endpoints, &connect).await.unwrap(), 400);
        assert_eq!(tried.lock().unwrap().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_refuse_the_last_failure_is_told() {
        let mut endpoints = vec![Peer::Refuses(0), Peer::Refuses(1)];
        let error = race(&mut endpoints, connect).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(race(&mut Vec::new(), connect).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
