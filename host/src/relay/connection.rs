//! One connection: both directions and the limits on its time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::time::{Instant, sleep, sleep_until};

use super::pipe::pass;

/// Limits on one connection.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long no byte may move in either direction. A receiver that stops reading counts as that.
    pub idle: Duration,
    /// How long a connection may live.
    pub lifetime: Duration,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both sides closed.
    Closed,
    /// One side failed, for instance by resetting its connection.
    Failed(io::ErrorKind),
    /// No byte moved for too long.
    Idle,
    /// It lived too long.
    Expired,
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
            Self::Idle => "idle",
            Self::Expired => "expired",
            Self::Drained => "drained",
            Self::Unreachable => "unreachable",
        }
    }
}

/// How many bytes a connection carried.
#[derive(Debug, Default)]
pub struct Carried {
    /// From the partner to the enclave.
    pub to_enclave: AtomicU64,
    /// From the enclave to the partner.
    pub to_partner: AtomicU64,
}

/// Carries bytes both ways until both sides have closed, a limit is reached or `cut` completes.
///
/// When one side closes its half, the other side's half is closed too and the opposite direction goes on. When one side
/// fails, both are dropped at once.
pub async fn carry(
    partner: impl AsyncRead + AsyncWrite + Unpin,
    enclave: impl AsyncRead + AsyncWrite + Unpin,
    times: &Times,
    cut: impl Future<Output = ()>,
    carried: &Carried,
) -> Ended {
    let begun = Instant::now();
    // When a byte last moved, in milliseconds after the beginning.
    let last_moved = AtomicU64::new(0);
    let moved = |counter: &AtomicU64, count: usize| {
        counter.fetch_add(count as u64, Ordering::Relaxed);
        last_moved.store(millis(begun.elapsed()), Ordering::Relaxed);
    };

    let (partner_reader, partner_writer) = split(partner);
    let (enclave_reader, enclave_writer) = split(enclave);
    let both = async {
        tokio::try_join!(
            pass(partner_reader, enclave_writer, |count| moved(&carried.to_enclave, count)),
            pass(enclave_reader, partner_writer, |count| moved(&carried.to_partner, count)),
        )
    };
    let idle = async {
        loop {
            let deadline = begun + Duration::from_millis(last_moved.load(Ordering::Relaxed)) + times.idle;
            if Instant::now() >= deadline {
                break;
            }
            sleep_until(deadline).await;
        }
    };
    tokio::select! {
        result = both => match result {
            Ok(_) => Ended::Closed,
            Err(error) => Ended::Failed(error.kind()),
        },
        () = idle => Ended::Idle,
        () = sleep(times.lifetime) => Ended::Expired,
        () = cut => Ended::Drained,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const TIMES: Times = Times { idle: Duration::from_secs(60), lifetime: Duration::from_secs(3600) };

    /// Runs `story` on the two outer ends of a carried connection, and gives how that ended.
    async fn carried<F: Future<Output = ()>>(
        story: impl FnOnce(DuplexStream, DuplexStream) -> F,
    ) -> (Ended, u64, u64) {
        let (partner, partner_end) = duplex(1024);
        let (enclave, enclave_end) = duplex(1024);
        let carried = Carried::default();
        let (ended, ()) = tokio::join!(
            carry(partner_end, enclave_end, &TIMES, pending(), &carried),
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
            ended = carry(partner_end, enclave_end, &TIMES, pending(), &carried) => assert_eq!(ended, Ended::Idle),
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
    async fn a_cut_ends_it_at_once() {
        let (_partner, partner_end) = duplex(1024);
        let (_enclave, enclave_end) = duplex(1024);
        let cut = sleep(Duration::from_secs(5));
        let ended = carry(partner_end, enclave_end, &TIMES, cut, &Carried::default()).await;
        assert_eq!(ended, Ended::Drained);
    }
}
