//! Challenges. An answer to one contains evidence that is not older than the challenge.
//!
//! A challenge carries its own time and a MAC, so that the broker remembers none that it gave, only those that were answered. A
//! crowd of strangers that asks for challenges therefore costs no memory and takes nobody's challenge away.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::rand;
use cleanroom_attestation::channel::Nonce;
use subtle::ConstantTimeEq as _;

/// How long a challenge can be answered.
pub(super) const LIFE: Duration = Duration::from_secs(60);

/// When it was made (8 bytes), random bytes (8), and the MAC over both (16).
const STAMP: usize = 16;

/// Makes challenges and knows them again, until the program ends.
pub(super) struct Challenges {
    key: Key,
    /// Answered within the last [`LIFE`]. Each begins with its time, so the oldest come first.
    answered: Mutex<BTreeSet<[u8; STAMP]>>,
}

/// Why an answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// This process never gave the challenge, or it is too old.
    Unknown,
    /// It was answered before.
    Answered,
}

impl Challenges {
    /// `None` when there are no random bytes.
    pub(super) fn new() -> Option<Self> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        rand::fill(key.as_mut_slice()).ok()?;
        Some(Self { key: Key::new(HMAC_SHA256, key.as_slice()), answered: Mutex::default() })
    }

    /// A challenge, given at `now` by the machine's own clock. `None` when there are no random bytes.
    pub(super) fn give(&self, now: Duration) -> Option<Nonce> {
        let mut random = [0; 8];
        rand::fill(&mut random).ok()?;
        let mut stamp = [0; STAMP];
        let bytes = millis(now).to_be_bytes().into_iter().chain(random);
        stamp.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        let mut nonce = [0; Nonce::LENGTH];
        let bytes = stamp.into_iter().chain(self.mac(&stamp));
        nonce.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Some(Nonce::from_bytes(nonce))
    }

    /// Takes an answer to `nonce` that came at `now`, once.
    pub(super) fn answer(&self, nonce: &Nonce, now: Duration) -> Result<(), Stale> {
        let (stamp, mac) = nonce.as_bytes().split_first_chunk::<STAMP>().ok_or(Stale::Unknown)?;
        if !bool::from(self.mac(stamp).ct_eq(mac)) {
            return Err(Stale::Unknown);
        }
        let (made, _) = stamp.split_first_chunk::<8>().ok_or(Stale::Unknown)?;
        let oldest = millis(now).saturating_sub(millis(LIFE));
        if u64::from_be_bytes(*made) < oldest {
            return Err(Stale::Unknown);
        }
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = [0; STAMP];
        first.iter_mut().zip(oldest.to_be_bytes()).for_each(|(to, from)| *to = from);
        *answered = answered.split_off(&first);
        if answered.insert(*stamp) { Ok(()) } else { Err(Stale::Answered) }
    }

    fn mac(&self, stamp: &[u8; STAMP]) -> [u8; 16] {
        let mut mac = [0; 16];
        mac.iter_mut().zip(sign(&self.key, stamp).as_ref()).for_each(|(to, from)| *to = *from);
        mac
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_once_and_in_time() {
        let challenges = Challenges::new().unwrap();
        let at = Duration::from_secs;
        let nonce = challenges.give(at(100)).unwrap();
        assert_eq!(challenges.answer(&nonce, at(160)), Ok(()));
        assert_eq!(challenges.answer(&nonce, at(160)), Err(Stale::Answered));
        // Forgotten, and too old.
        let other = challenges.give(at(161)).unwrap();
        assert_eq!(challenges.answer(&other, at(161)), Ok(()));
        assert_eq!(challenges.answered.lock().unwrap().len(), 1);
        assert_eq!(challenges.answer(&nonce, at(161)), Err(Stale::Unknown));
        // Of another process, and changed at any place.
        let foreign = Challenges::new().unwrap().give(at(161)).unwrap();
        assert_eq!(challenges.answer(&foreign, at(161)), Err(Stale::Unknown));
        let nonce = *challenges.give(at(161)).unwrap().as_bytes();
        for at_byte in 0..nonce.len() {
            let mut changed = nonce;
            changed[at_byte] ^= 1;
            assert_eq!(challenges.answer(&Nonce::from_bytes(changed), at(161)), Err(Stale::Unknown));
        }
        assert_eq!(challenges.answer(&Nonce::from_bytes(nonce), at(161)), Ok(()));
    }
}
