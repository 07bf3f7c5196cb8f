//! What the system takes to give memory: the kernel clears each page, and a machine whose own host takes back what nothing uses
//! gets it anew first.

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use crate::open::{HUGE_PAGES, MALLOC};
use crate::{Outcome, this_program};

/// Bytes that are asked for at once, as the enclave does.
const PIECE: usize = 32 << 20;
/// Bytes of the smallest page.
const PAGE: usize = 4096;

/// How fast the system gives memory, GB/s of all threads together.
#[derive(Clone, Copy)]
pub(crate) struct Speed {
    /// As the machine was.
    pub(crate) found: f64,
    /// Memory that a process had a moment ago.
    pub(crate) used: f64,
}

impl Speed {
    /// The worst that was found in two rounds, and the best of memory that was in use.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self { found: self.found.min(other.found), used: self.used.max(other.used) }
    }
}

/// Asks for `bytes` bytes twice, with so many threads, in a process of its own. The machine has that memory afterwards.
pub(crate) fn measure(bytes: u64, threads: usize) -> Outcome<Speed> {
    let arguments = ["--memory".to_owned(), bytes.to_string(), threads.to_string()];
    let done = Command::new(this_program()?).args(arguments).env(MALLOC, HUGE_PAGES).output()?;
    let seconds = String::from_utf8(done.stdout)?;
    let (found, used) = seconds.trim().split_once(' ').ok_or("memory was not to be had")?;
    let speed = |seconds: &str| seconds.parse().map(|seconds: f64| bytes as f64 / seconds / 1e9);
    Ok(Speed { found: speed(found)?, used: speed(used)? })
}

/// The process: the seconds of both times.
pub(crate) fn twice(bytes: &str, threads: &str) -> Outcome<()> {
    let (bytes, threads) = (bytes.parse::<usize>()?, threads.parse()?);
    println!("{} {}", fill(bytes, threads), fill(bytes, threads));
    Ok(())
}

/// Seconds until so many threads have memory of `bytes` bytes.
fn fill(bytes: usize, threads: usize) -> f64 {
    let begun = Instant::now();
    let filled = std::thread::scope(|scope| {
        let each = bytes.div_ceil(PIECE).div_ceil(threads);
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || {
                    let pieces = (0..each).map(|_| {
                        let mut piece = vec![0_u8; PIECE];
                        piece.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
                        piece
                    });
                    pieces.collect::<Vec<_>>()
                })
            })
            .collect();
        let filled: Vec<_> = running.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        (filled, begun.elapsed().as_secs_f64())
    });
    black_box(&filled.0);
    filled.1
}
