//! Bytes as what a host's store says: no panic, nothing beyond the limit, and an identity that is that of the bytes.

#![no_main]

use std::io::{self, Cursor};
use std::time::Duration;

use cleanroom_attestation::model::ModelDigester;
use cleanroom_link::listener::Listener;
use cleanroom_sealing::Key;
use cleanroom_weights::{How, Limits, open};
use libfuzzer_sys::fuzz_target;
use tokio::io::{Join, Sink};

/// The most bytes of weights.
const LIMIT: u64 = 1 << 20;

/// A store that connects as often as it has something to say.
struct Host(Vec<Vec<u8>>);

impl Listener for Host {
    type Stream = Join<Cursor<Vec<u8>>, Sink>;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        match self.0.pop() {
            Some(says) => Ok(tokio::io::join(Cursor::new(says), tokio::io::sink())),
            None => std::future::pending().await,
        }
    }
}

// The first byte says in which form the weights are due, and where the second connection's words begin.
fuzz_target!(|input: &[u8]| {
    let Some((mode, says)) = input.split_first() else { return };
    let (first, second) = says.split_at(says.len().min(usize::from(mode >> 1) * 256));
    let mut host = Host(vec![second.to_vec(), first.to_vec()]);
    let how = if mode & 1 == 0 { How::Plain } else { How::Sealed(Key::from_bytes(&[7; 32])) };
    let limits = Limits { bytes: LIMIT, connections: 2, range_time: Duration::from_secs(1), attempts: 2 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let opened = runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(Duration::from_secs(60), open(&mut host, how, &limits)).await
    });
    match opened {
        // A store that says nothing is waited for.
        Err(_) => {}
        Ok(Err(error)) => assert!(!error.code().is_empty() && !error.to_string().is_empty()),
        Ok(Ok(weights)) => {
            assert!(weights.length() <= LIMIT);
            let digest = weights.digest();
            let mut digester = ModelDigester::new();
            weights.into_pieces().for_each(|piece| digester.update(&piece));
            assert_eq!(digester.finish(), digest);
        }
    }
});
