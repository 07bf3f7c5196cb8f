//! Bounded admission: the number of requests that may occupy the engine at once, for each partner.
//!
//! A request is admitted or refused at once; nobody ever waits in a queue here. The only waiting line is the engine's own,
//! whose length is fixed when it starts, so [`AdmissionLimits::total`] is the number of sequences it runs plus the number
//! it lets wait.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::session::PartnerId;

/// How many requests may be served at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Requests of all partners together.
    pub total: NonZeroUsize,
    /// Requests of one partner, and of all partners who have more than one, so that they cannot shut the others out. A
    /// value above `total` has no effect.
    pub per_partner: NonZeroUsize,
}

/// The most slots of `slots` that one partner may have: three quarters. The last quarter is for partners who have none, so
/// that they find one beside several who have many. Of fewer than four, all.
pub fn partners_share(slots: NonZeroUsize) -> NonZeroUsize {
    NonZeroUsize::new(slots.get() - slots.get() / 4).unwrap_or(slots)
}

/// Refused: every slot that this partner may take is taken. Trying again later is the only remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no slot is free")]
pub(crate) struct Full;

/// The counter of slots taken. Cheap: one short lock for each request, none for each token.
pub(crate) struct Admission {
    limits: AdmissionLimits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    /// Holds no entry for a partner without requests, so it never outgrows `total`.
    by_partner: HashMap<PartnerId, usize>,
}

impl Admission {
    /// No request yet, and these limits.
    pub(crate) fn new(limits: AdmissionLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// Takes a slot until the [`Slot`] is dropped.
    ///
    /// # Errors
    /// [`Full`] when every slot is taken, or every slot that this partner may have.
    pub(crate) fn admit(self: &Arc<Self>, partner: PartnerId) -> Result<Slot, Full> {
        let mut taken = self.lock();
        self.check(&taken, partner)?;
        taken.total += 1;
        *taken.by_partner.entry(partner).or_default() += 1;
        drop(taken);
        Ok(Slot { admission: Arc::clone(self), partner })
    }

    /// Whether [`admit`](Self::admit) would succeed now. Reserves nothing: it serves to refuse a request before its body
    /// is read.
    ///
    /// # Errors
    /// [`Full`] when every slot is taken, or every slot that this partner may have.
    pub(crate) fn has_room(&self, partner: PartnerId) -> Result<(), Full> {
        self.check(&self.lock(), partner)
    }

    /// Slots taken now, by all partners.
    pub(crate) fn taken(&self) -> usize {
        self.lock().total
    }

    fn check(&self, taken: &Taken, partner: PartnerId) -> Result<(), Full> {
        let has_some = taken.by_partner.contains_key(&partner);
        let most = if has_some { self.limits.per_partner.min(self.limits.total) } else { self.limits.total };
        if taken.total >= most.get() {
            return Err(Full);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // The counters are whole at every instruction that could unwind, so a poisoned lock is still usable.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot for one request. Dropping it gives it back.
pub(crate) struct Slot {
    admission: Arc<Admission>,
    partner: PartnerId,
}

impl Slot {
    /// Whose slot it is.
    pub(crate) const fn partner(&self) -> PartnerId {
        self.partner
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.admission.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Some(own) = taken.by_partner.get_mut(&self.partner) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_partner.remove(&self.partner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::digest::Sha256Digest;

    use super::*;

    fn limits(total: usize, per_partner: usize) -> AdmissionLimits {
        AdmissionLimits {
            total: NonZeroUsize::new(total).unwrap(),
            per_partner: NonZeroUsize::new(per_partner).unwrap(),
        }
    }

    fn partner(byte: u8) -> PartnerId {
        Sha256Digest::from_bytes([byte; 32]).into()
    }

    #[test]
    fn when_all_slots_are_taken_a_dropped_one_makes_room() {
        let admission = Admission::new(limits(2, 2));
        let first = admission.admit(partner(1)).ok().unwrap();
        let _second = admission.admit(partner(2)).ok().unwrap();
        assert_eq!(admission.has_room(partner(1)), Err(Full));
        assert!(admission.admit(partner(1)).is_err());
        assert_eq!(admission.taken(), 2, "a refused request takes no slot");
        drop(first);
        assert_eq!(admission.taken(), 1);
        assert!(admission.admit(partner(2)).is_ok());
    }

    #[test]
    fn one_partner_cannot_shut_another_out() {
        let admission = Admission::new(limits(3, 2));
        let _slots = [admission.admit(partner(1)).ok().unwrap(), admission.admit(partner(1)).ok().unwrap()];
        assert!(admission.admit(partner(1)).is_err(), "the partner's own share is used up");
        assert!(admission.admit(partner(2)).is_ok(), "the other partner still gets in");
    }

    #[test]
    fn several_partners_together_leave_a_slot_for_one_who_has_none() {
        let admission = Admission::new(limits(8, 6));
        let mut slots = Vec::new();
        for number in 0..8 {
            slots.extend(admission.admit(partner(number % 2)));
        }
        assert_eq!(slots.len(), 6);
        slots.extend(admission.admit(partner(2)));
        assert!(admission.admit(partner(2)).is_err(), "it has one");
        slots.extend(admission.admit(partner(3)));
        assert_eq!(slots.len(), 8);
        assert!(admission.admit(partner(4)).is_err(), "every slot is taken");
        slots.truncate(5);
        assert!(admission.admit(partner(0)).is_ok());
    }

    #[test]
    fn a_share_leaves_a_quarter_and_is_never_nothing() {
        let shares =
            [1, 2, 3, 4, 8, 24].map(|places| partners_share(NonZeroUsize::new(places).unwrap()).get());
        assert_eq!(shares, [1, 2, 3, 3, 6, 18]);
    }

    #[test]
    fn partners_who_have_left_are_forgotten() {
        let admission = Admission::new(limits(4, 4));
        for n in 0..=255 {
            drop(admission.admit(partner(n)).ok().unwrap());
        }
        assert!(admission.lock().by_partner.is_empty());
    }
}
