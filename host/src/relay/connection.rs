//! One connection: both directions and the limits on its time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::time::{Instant, sleep_until};

use super::pipe::{Ends, pass};

/// Limits on one connection.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long the partner may take for its first byte, and after that until 1,024 bytes moved in each
    /// direction.
    pub opening: Duration,
    /// How long no byte may move in either direction. A receiver that stops reading counts as that.
    pub idle: Duration,
    /// How long a connection may live.
    pub lifetime: Duration,
}

/// Bytes that a connection must have carried in each direction to count as open. A TLS handshake in which
/// both sides show certificates has more.
const OPEN: u64 = 1024;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both sides closed.
    Closed,
    /// One side failed, for instance by resetting its connection.
    Failed(io::ErrorKind),
    /// It never got as far as a TLS session.
    Silent,
    /// No byte moved for too long.
    Idle,
    /// It lived too long.
    Expired,
    /// Its client had most connections, and another client needed a slot.
    Displaced,
    /// The host is going down, and the connection had its time to end.
    Drained,
    /// The enclave did not accept a connection.
    Unreachable,
}

impl Ended {
    /// The reason as a word, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed(_) => "failed",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Expired => "expired",
            Self::Displaced => "displaced",
            Self::Drained => "drained",
            Self::Unreachable => "unreachable",
        }
    }
}

/// How many bytes a connection carried, and when.
#[derive(Debug)]
pub struct Carried {
    begun: Instant,
    /// From the partner to the enclave.
    pub to_enclave: AtomicU64,
    /// From the enclave to the partner.
    pub to_partner: AtomicU64,
    /// When a byte last moved, in milliseconds after the beginning.
    moved: AtomicU64,
}

impl Carried {
    /// A connection that begins now.
    #[must_use]
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { begun: Instant::now(), to_enclave: zero(), to_partner: zero(), moved: zero() }
    }

    /// How long ago the connection began.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether as much was carried as a TLS session needs to begin.
    #[must_use]
    pub fn is_open(&self) -> bool {
        [&self.to_enclave, &self.to_partner].iter().all(|count| count.load(Ordering::Relaxed) >= OPEN)
    }

    /// When a byte last moved. The connection's beginning, if none did.
    #[must_use]
    pub fn last_moved(&self) -> Instant {
        self.begun + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    fn count(&self, counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
        self.moved.store(millis(self.begun.elapsed()), Ordering::Relaxed);
    }
}

impl Default for Carried {
    fn default() -> Self {
        Self::new()
    }
}

/// Carries bytes both ways until both sides have closed or a limit is reached. `first` is what the partner
/// has sent already. No write to the enclave is of more than `longest_write` bytes.
///
/// When one side closes its half, the other side's half is closed too and the opposite direction goes on.
/// When one side fails, both are dropped at once.
pub async fn carry(
    partner: impl AsyncRead + AsyncWrite + Unpin,
    enclave: impl AsyncRead + AsyncWrite + Unpin,
    first: Vec<u8>,
    longest_write: usize,
    times: &Times,
    carried: &Carried,
) -> Ended {
    let (partner_reader, partner_writer) = split(partner);
    let (enclave_reader, enclave_writer) = split(enclave);
    let ends = Ends::default();
    let to_enclave = pass(partner_reader, enclave_writer, first, longest_write, &ends, |count| {
        carried.count(&carried.to_enclave, count);
    });
    let to_partner = pass(enclave_reader, partner_writer, Vec::new(), usize::MAX, &ends, |count| {
        carried.count(&carried.to_partner, count);
    });
    tokio::select! {
        result = async { tokio::try_join!(to_enclave, to_partner) } => match result {
            Ok(_) => Ended::Closed,
            Err(error) => Ended::Failed(error.kind()),
        },
        ended = limit(times, carried) => ended,
    }
}

/// Completes when a connection has reached one of its limits. It has one timer for all of them.
async fn limit(times: &Times, carried: &Carried) -> Ended {
    loop {
        let expired = (carried.begun + times.lifetime, Ended::Expired);
        let idle = (carried.last_moved() + times.idle, Ended::Idle);
        // A connection that is open has no such limit any more.
        let silent = (!carried.is_open()).then(|| (carried.begun + times.opening, Ended::Silent));
        let limits = [expired, idle].into_iter().chain(silent);
        let (at, ended) = limits.min_by_key(|(at, _)| *at).unwrap_or(expired);
        if Instant::now() >= at {
            return ended;
        }
        sleep_until(at).await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use cleanroom_vsock::WRITE_CAP;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;

    const TIMES: Times = Times {
        opening: Duration::from_secs(4000),
        idle: Duration::from_secs(60),
        lifetime: Duration::from_secs(3600),
    };

    /// Runs `story` on the two outer ends of a carried connection, and gives how that ended.
    async fn carried<F: Future<Output = ()>>(
        story: impl FnOnce(DuplexStream, DuplexStream) -> F,
    ) -> (Ended, u64, u64) {
        let (partner, partner_end) = duplex(1024);
        let (enclave, enclave_end) = duplex(1024);
        let carried = Carried::default();
        let (ended, ()) = tokio::join!(
            carry(partner_end, enclave_end, Vec::new(), WRITE_CAP, &TIMES, &carried),
            story(partner, enclave)
        );
        (ended, carried.to_enclave.into_inner(), carried.to_partner.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_that_is_closed_leaves_the_other_open() {
        let outcome = carried(|mut partner, mut enclave| async move {
            partner.write_all(b"question").await.unwrap();
            partner.shutdown().await.unwrap();
            let mut heard = String::new();
            enclave.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "question");
            enclave.write_all(b"a long answer").await.unwrap();
            enclave.shutdown().await.unwrap();
            heard.clear();
            partner.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "a long answer");
        })
        .await;
        assert_eq!(outcome, (Ended::Closed, 8, 13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_moves_ends() {
        let begun = Instant::now();
        let (ended, ..) = carried(|mut partner, enclave| async move {
            sleep(Duration::from_secs(40)).await;
            partner.write_all(b"x").await.unwrap();
            sleep(Duration::from_secs(1000)).await;
            drop(enclave);
        })
        .await;
        assert_eq!(ended, Ended::Idle);
        // The story goes on to its end; the connection ended 60 s after the byte.
        assert_eq!(begun.elapsed(), Duration::from_secs(1040));
    }

    #[tokio::test(start_paused = true)]
    async fn idleness_counts_from_the_last_byte_of_either_direction() {
        let (partner, partner_end) = duplex(1024);
        let (mut enclave, enclave_end) = duplex(1024);
        let begun = Instant::now();
        let talk = async {
            for _ in 0..5 {
                sleep(Duration::from_secs(50)).await;
                enclave.write_all(b"token").await.unwrap();
            }
            pending::<()>().await;
        };
        let carried = Carried::default();
        tokio::select! {
            ended = carry(partner_end, enclave_end, Vec::new(), WRITE_CAP, &TIMES, &carried) => assert_eq!(ended, Ended::Idle),
            () = talk => unreachable!(),
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(250 + 60));
        drop(partner);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_stops_reading_stalls_its_sender_and_then_ends_the_connection() {
        let begun = Instant::now();
        let (ended, to_enclave, _) = carried(|mut partner, enclave| async move {
            let mut sent = 0;
            while let Ok(count) = partner.write(&[0; 1024]).await {
                sent += count;
            }
            // Both pipes, one chunk in the relay, and the write that found the connection closed.
            assert!(sent <= 1024 + 16 * 1024 + 1024 + 1024, "{sent}");
            drop(enclave);
        })
        .await;
        assert_eq!(ended, Ended::Idle);
        assert!(to_enclave <= 1024 + 16 * 1024, "{to_enclave}");
        assert!(begun.elapsed() < Duration::from_secs(61));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_ends_at_its_lifetime() {
        let begun = Instant::now();
        let (ended, ..) = carried(|mut partner, mut enclave| async move {
            let mut byte = [0];
            while partner.write_all(b"x").await.is_ok() && enclave.read_exact(&mut byte).await.is_ok() {
                sleep(Duration::from_secs(10)).await;
            }
        })
        .await;
        assert_eq!(ended, Ended::Expired);
        assert!(begun.elapsed() >= TIMES.lifetime);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_fails_takes_the_other_with_it() {
        // A writer whose reader is gone fails in a duplex pipe.
        let (ended, ..) = carried(|mut partner, enclave| async move {
            drop(enclave);
            let mut rest = Vec::new();
            let _ = partner.write_all(b"question").await;
            partner.read_to_end(&mut rest).await.unwrap();
        })
        .await;
        assert_eq!(ended, Ended::Failed(io::ErrorKind::BrokenPipe));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_becomes_a_session_ends() {
        let times = Times { opening: Duration::from_secs(30), ..TIMES };
        // A byte now and then keeps a connection from being idle, and does not make it a session.
        for (each, expected) in [(1_u64, Ended::Silent), (200, Ended::Idle)] {
            let (mut partner, partner_end) = duplex(1024);
            let (mut enclave, enclave_end) = duplex(1024);
            let begun = Instant::now();
            let talk = async {
                let bytes = vec![0; each as usize];
                for _ in 0..25 {
                    sleep(Duration::from_secs(1)).await;
                    partner.write_all(&bytes).await.unwrap();
                    enclave.write_all(&bytes).await.unwrap();
                    partner.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
                    enclave.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
                }
                pending::<()>().await;
            };
            let carried = Carried::new();
            tokio::select! {
                ended = carry(partner_end, enclave_end, Vec::new(), WRITE_CAP, &times, &carried) => {
                    assert_eq!(ended, expected);
                }
                () = talk => unreachable!(),
            }
            let expected = if expected == Ended::Silent { 30 } else { 25 + 60 };
            assert_eq!(begun.elapsed(), Duration::from_secs(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_partner_sent_before_comes_first() {
        let (mut partner, partner_end) = duplex(1024);
        let (mut enclave, enclave_end) = duplex(1024);
        let carried = Carried::new();
        let story = async {
            partner.write_all(b", and the rest").await.unwrap();
            partner.shutdown().await.unwrap();
            let mut heard = String::new();
            enclave.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "the first bytes, and the rest");
            drop((partner, enclave));
        };
        tokio::join!(
            carry(partner_end, enclave_end, b"the first bytes".to_vec(), WRITE_CAP, &TIMES, &carried),
            story
        );
        assert_eq!(carried.to_enclave.into_inner(), 29);
    }
}
