//! One source for two threads: each sees every piece of it, and the thread that is ahead reads the next one.
//!
//! Reading and its checksum cost a sixth of what hashing does. Given to one of two hashing threads for good, they would keep the
//! other waiting. Done by the thread that is ahead, and without a lock that the thread behind needs, both end at the same
//! time.

use std::io::{self, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use cleanroom_attestation::measurement::Checksum;

/// Bytes read at once. A thread that waits for a piece has to be woken, which costs a virtual machine tens of microseconds: with
/// 256 KiB that was a fifth of the time, with this much it is lost in the noise.
pub(super) const PIECE: usize = 1 << 20;
/// Pieces in memory; a thread can be ahead of the other by fewer than these.
pub(super) const BUFFERS: usize = 4;

/// A source that two [`Side`]s read together, in constant memory.
pub(super) struct SharedSource<R> {
    source: Mutex<R>,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Piece number `n` is in slot `n % BUFFERS`, until both sides are past it.
    slots: [RwLock<Piece>; BUFFERS],
}

/// Some bytes of the source.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) checksum: Checksum,
}

#[derive(Default)]
struct Progress {
    /// Pieces read so far.
    read: usize,
    /// Pieces that each side is done with; everything for a side that is gone.
    done: [usize; 2],
    /// A side is reading the next piece.
    reading: bool,
    /// Nothing more will be read: the source ended or failed.
    ended: bool,
    failure: Option<io::Error>,
}

impl<R: Read> SharedSource<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source: Mutex::new(source),
            progress: Mutex::default(),
            changed: Condvar::new(),
            slots: Default::default(),
        }
    }

    /// The two readers, for a thread each. One that is dropped no longer keeps the other waiting.
    pub(super) fn sides(&self) -> [Side<'_, R>; 2] {
        [Side { shared: self, index: 0 }, Side { shared: self, index: 1 }]
    }

    /// What the source failed with, if it did. The pieces that came before were given to both sides.
    pub(super) fn failure(self) -> Option<io::Error> {
        self.progress.into_inner().unwrap_or_else(PoisonError::into_inner).failure
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Piece number `number`, or nothing after the last.
    fn piece(&self, number: usize) -> Option<RwLockReadGuard<'_, Piece>> {
        let slot = self.slots.get(number % BUFFERS)?;
        let mut progress = self.lock();
        while progress.read == number {
            if progress.ended {
                return None;
            }
            // Where this side is ahead, the slot may still hold what the other has yet to see.
            if progress.reading || progress.done.iter().any(|done| done + BUFFERS <= number) {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            progress.reading = true;
            drop(progress);
            self.read_into(slot, number);
            progress = self.lock();
        }
        drop(progress);
        Some(slot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads piece number `number`. The other side can go on with earlier ones meanwhile.
    fn read_into(&self, slot: &RwLock<Piece>, number: usize) {
        let mut reading = Reading { shared: self, length: 0, failure: None };
        let mut piece = slot.write().unwrap_or_else(PoisonError::into_inner);
        piece.bytes.resize(PIECE, 0);
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        match fill(&mut *source, &mut piece.bytes) {
            Ok(length) => reading.length = length,
            Err(error) => reading.failure = Some(error),
        }
        drop(source);
        piece.bytes.truncate(reading.length);
        // Every piece before this one was whole.
        piece.checksum = Checksum::of(&piece.bytes, number as u64 * PIECE as u64);
        drop(piece);
    }
}

/// A reading that is going on. When it ends, however it does, the other side is told: a source that panics ends the file.
struct Reading<'s, R: Read> {
    shared: &'s SharedSource<R>,
    length: usize,
    failure: Option<io::Error>,
}

impl<R: Read> Drop for Reading<'_, R> {
    fn drop(&mut self) {
        let mut progress = self.shared.lock();
        progress.reading = false;
        progress.ended = self.length < PIECE;
        progress.failure = self.failure.take();
        progress.read += usize::from(self.length > 0);
        drop(progress);
        self.shared.changed.notify_all();
    }
}

/// One of the two readers.
pub(super) struct Side<'s, R: Read> {
    shared: &'s SharedSource<R>,
    index: usize,
}

impl<R: Read> Side<'_, R> {
    /// Gives `take` every piece in turn, until the source has no more or `take` fails.
    pub(super) fn each<E>(self, mut take: impl FnMut(&Piece) -> Result<(), E>) -> Result<(), E> {
        let mut number = 0;
        while let Some(piece) = self.shared.piece(number) {
            take(&piece)?;
            drop(piece);
            number += 1;
            self.done_with(number);
        }
        Ok(())
    }

    fn done_with(&self, pieces: usize) {
        if let Some(done) = self.shared.lock().done.get_mut(self.index) {
            *done = pieces;
        }
        self.shared.changed.notify_all();
    }
}

impl<R: Read> Drop for Side<'_, R> {
    fn drop(&mut self) {
        // Far enough for every piece, and not so far that adding to it overflows.
        self.done_with(usize::MAX / 2);
    }
}

/// Reads until `buffer` is full or the source ends.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, io::Error> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
