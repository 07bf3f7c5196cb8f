//! Connecting to hosts that have several addresses.
//!
//! Addresses are tried side by side (RFC 8305, *Happy Eyeballs*), so that one that swallows packets costs a
//! quarter of a second.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until, timeout};

/// How long an address is tried alone before the next one is tried beside it.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// How long a name may take to become addresses.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the first address of `HOST:PORT` that accepts one. It sends small packets at once. There is
/// no limit on the time of an address that swallows packets, other than the system's.
///
/// # Errors
/// When the name has no address, or the last failure when all addresses failed.
pub async fn connect(host: &str) -> io::Result<TcpStream> {
    race(&mut addresses_of(host).await?, connect_to).await
}

/// A connection to one address. It sends small packets at once.
///
/// # Errors
/// What the system reports.
pub async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The addresses of `HOST:PORT`, in the system's order of preference, with the two families in turn (RFC 8305
/// section 4).
///
/// # Errors
/// When the name has no address, or when it took too long to find one.
pub async fn addresses_of(host: &str) -> io::Result<Vec<SocketAddr>> {
    let timed_out =
        || io::Error::new(io::ErrorKind::TimedOut, format!("{host} could not be resolved in time"));
    let found = timeout(RESOLVE_TIMEOUT, lookup_host(host)).await.map_err(|_| timed_out())?;
    let found: Vec<SocketAddr> =
        found.map_err(|error| io::Error::new(error.kind(), format!("{host}: {error}")))?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
    }
    Ok(in_turn(&found))
}

fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::with_capacity(addresses.len());
    loop {
        let (one, other) = (first.next(), second.next());
        if one.is_none() && other.is_none() {
            return turns;
        }
        turns.extend(one.into_iter().chain(other));
    }
}

/// Attempts that are begun one after the other and run side by side: the next one [`HEAD_START`] after the one
/// before it, or as soon as one has ended (RFC 8305 section 5).
pub struct Attempts<T, Begin, Attempt> {
    waiting: VecDeque<T>,
    running: FuturesUnordered<Attempt>,
    begin: Begin,
    next_start: Instant,
}

impl<T, Begin, Attempt> Attempts<T, Begin, Attempt>
where
    Begin: Fn(T) -> Attempt,
    Attempt: Future,
{
    /// Attempts of `endpoints`, the preferred one first. Nothing is begun yet.
    pub fn new(endpoints: impl IntoIterator<Item = T>, begin: Begin) -> Self {
        let waiting = endpoints.into_iter().collect();
        Self { waiting, running: FuturesUnordered::new(), begin, next_start: Instant::now() }
    }

    /// What the next attempt that ends gives; `None` when there is none left. Nothing is lost when this call
    /// is dropped.
    pub async fn next(&mut self) -> Option<Attempt::Output> {
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.running.next(), if !self.running.is_empty() => {
                    self.next_start = Instant::now();
                    return Some(ended);
                }
                () = sleep_until(self.next_start), if !self.waiting.is_empty() => {
                    if let Some(endpoint) = self.waiting.pop_front() {
                        self.running.push((self.begin)(endpoint));
                    }
                    self.next_start = Instant::now() + HEAD_START;
                }
                else => return None,
            }
        }
    }
}

/// Connects to one of `endpoints`, preferring the earlier ones. Takes out of them what failed and what was
/// connected.
///
/// # Errors
/// The last failure, when all failed.
pub async fn race<T, C, F>(endpoints: &mut Vec<T>, connect: impl Fn(T) -> F) -> io::Result<C>
where
    T: Clone + PartialEq,
    F: Future<Output = io::Result<C>>,
{
    let mut attempts = Attempts::new(endpoints.clone(), |endpoint: T| {
        let connecting = connect(endpoint.clone());
        async move { (endpoint, connecting.await) }
    });
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    while let Some((endpoint, connected)) = attempts.next().await {
        endpoints.retain(|other| *other != endpoint);
        match connected {
            Ok(connection) => return Ok(connection),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
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

    #[test]
    fn the_families_take_turns_and_the_systems_first_choice_stays_first() {
        let parse = |text: &str| -> Vec<SocketAddr> {
            text.split_whitespace().map(|address| address.parse().unwrap()).collect()
        };
        let found = parse("[2001:db8::1]:1 [2001:db8::2]:1 [2001:db8::3]:1 192.0.2.1:1");
        assert_eq!(in_turn(&found), parse("[2001:db8::1]:1 192.0.2.1:1 [2001:db8::2]:1 [2001:db8::3]:1"));
        let found = parse("192.0.2.1:1 192.0.2.2:1");
        assert_eq!(in_turn(&found), found);
    }

    #[tokio::test]
    async fn a_name_leads_to_whoever_listens_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = format!("localhost:{port}");
        let (connected, accepted) = tokio::join!(super::connect(&name), listener.accept());
        assert_eq!(connected.unwrap().local_addr().unwrap(), accepted.unwrap().1);
        drop(listener);
        assert!(super::connect(&name).await.is_err());
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
