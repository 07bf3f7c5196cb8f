//! Reads a model share by share, works on several shares at once, and hands them on in order. Memory does not grow with
//! the model.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_sealing::SealError;
use zeroize::Zeroizing;

use crate::files;

/// Chunks of a share: a power of two, so that a share is a whole subtree of the model's identity.
pub(super) const CHUNKS: usize = 64;

/// Threads that work. Twice as many shares are in memory.
const MAX_THREADS: usize = 16;

/// A part of a model.
pub(super) struct Share {
    number: u64,
    /// What was read.
    pub(super) read: Zeroizing<Vec<u8>>,
    /// Whether nothing follows.
    pub(super) is_last: bool,
    /// What was made of it.
    pub(super) made: Zeroizing<Vec<u8>>,
    /// The identity of the weights in it, if there are any.
    pub(super) digest: Option<Sha256Digest>,
}

impl Share {
    /// The number of its first chunk.
    pub(super) const fn first_chunk(&self) -> u64 {
        self.number.saturating_mul(CHUNKS as u64)
    }
}

/// Why the work ended before its end.
pub(super) enum Ended<E> {
    Broken(Broken),
    /// Whoever took the shares wants no more.
    Taken(E),
}

/// Why there is no share.
pub(super) enum Broken {
    Read(io::Error),
    Work(SealError),
}

/// Reads shares of `bytes` bytes each, lets `work` work on them on all processors, and gives them to `take` in order.
/// There is at least one share, and the last one is shorter than the others.
pub(super) fn for_each<E>(
    source: &mut (impl Read + Send),
    bytes: usize,
    work: impl Fn(&mut Share) -> Result<(), SealError> + Sync,
    mut take: impl FnMut(&Share) -> Result<(), E>,
) -> Result<(), Ended<E>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let (give_back, free) = channel();
    for _ in 0..2 * threads + 2 {
        let (read, made) = (Zeroizing::new(vec![0; bytes]), Zeroizing::default());
        // The other end is here.
        let _ = give_back.send(Share { number: 0, read, is_last: false, made, digest: None });
    }
    let (to_workers, filled) = channel();
    let filled = Mutex::new(filled);
    thread::scope(|scope| {
        // Dropped when this ends early, so that nobody waits for what does not come any more.
        let (give_back, to_workers) = (give_back, to_workers);
        let (to_taker, done) = channel();
        let reader = to_taker.clone();
        scope.spawn(move || {
            if let Err(error) = read_all(source, bytes, &free, |share| to_workers.send(share).is_ok()) {
                let _ = reader.send(Err(Broken::Read(error)));
            }
        });
        for _ in 0..threads {
            let (to_taker, filled, work) = (to_taker.clone(), &filled, &work);
            scope.spawn(move || {
                while let Some(mut share) = next(filled) {
                    let worked = work(&mut share).map(|()| share).map_err(Broken::Work);
                    if to_taker.send(worked).is_err() {
                        return;
                    }
                }
            });
        }
        drop(to_taker);
        let (mut early, mut due) = (BTreeMap::new(), 0);
        while let Ok(share) = done.recv() {
            let share: Share = share.map_err(Ended::Broken)?;
            early.insert(share.number, share);
            while let Some(share) = early.remove(&due) {
                take(&share).map_err(Ended::Taken)?;
                due += 1;
                // A reader that has read all needs none.
                let _ = give_back.send(share);
            }
        }
        Ok(())
    })
}

fn next(filled: &Mutex<Receiver<Share>>) -> Option<Share> {
    filled.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Fills free shares until the source ends or nobody wants them.
fn read_all(
    source: &mut impl Read,
    bytes: usize,
    free: &Receiver<Share>,
    fill: impl Fn(Share) -> bool,
) -> io::Result<()> {
    for number in 0.. {
        let Ok(mut share) = free.recv() else { return Ok(()) };
        share.read.resize(bytes, 0);
        let count = files::fill(source, &mut share.read)?;
        share.read.truncate(count);
        (share.number, share.is_last, share.digest) = (number, count < bytes, None);
        let is_last = share.is_last;
        if !fill(share) || is_last {
            return Ok(());
        }
    }
    Ok(())
}
