//! The cryptography alone: the same library, on chunks that stay in the cache.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};

use crate::Outcome;

/// Bytes of a chunk.
const CHUNK: usize = 16 * 1024;
/// How long each is run.
const TIME: Duration = Duration::from_millis(700);

/// AES-256-GCM in decryption, GB/s of `threads` threads together.
pub(crate) fn cipher(threads: usize) -> Outcome<f64> {
    let key = || UnboundKey::new(&AES_256_GCM, &[1; 32]).map(LessSafeKey::new);
    let nonce = || Nonce::assume_unique_for_key([2; 12]);
    let mut sealed = vec![3; CHUNK];
    key()?.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed)?;
    let (chunk, tag) = sealed.split_at(CHUNK);
    Ok(on(threads, || {
        let key = key().ok();
        let mut opened = vec![0; CHUNK];
        move || {
            let key = key
                .as_ref()
                .map(|key| key.open_separate_gather(nonce(), Aad::empty(), chunk, tag, &mut opened));
            assert!(matches!(key, Some(Ok(()))), "it opens");
            black_box(&opened);
        }
    }))
}

/// The library's SHA-256, GB/s of `threads` threads together.
pub(crate) fn hash(threads: usize) -> f64 {
    on(threads, || {
        let chunk = vec![4; CHUNK];
        move || _ = black_box(digest(&SHA256, &chunk))
    })
}

/// The project's SHA-256 of two chunks side by side, GB/s of `threads` threads together. `None` where the processor cannot.
pub(crate) fn hash_in_pairs(threads: usize) -> Option<f64> {
    cleanroom_lanes::is_supported().then(|| {
        // Each call hashes two chunks.
        2.0 * on(threads, || {
            let chunks = [vec![4; CHUNK], vec![5; CHUNK]];
            move || _ = black_box(cleanroom_lanes::pair(0, &chunks[0], &chunks[1]))
        })
    })
}

/// How many GB/s `threads` threads get through when each does what `work` makes, a chunk at a time.
fn on<W: FnMut()>(threads: usize, work: impl Fn() -> W + Sync) -> f64 {
    let rates = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut work = work();
                    let (begun, mut chunks) = (Instant::now(), 0_u64);
                    while begun.elapsed() < TIME {
                        (0..64).for_each(|_| work());
                        chunks += 64;
                    }
                    chunks as f64 * CHUNK as f64 / begun.elapsed().as_secs_f64()
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum::<f64>()
    });
    rates / 1e9
}
