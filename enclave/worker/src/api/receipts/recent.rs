//! The newest receipts, in memory that is bounded for each partner and for all.

use std::collections::{HashMap, VecDeque};

use cleanroom_attestation::receipt::{Delivered, ReceiptId};

use crate::session::PartnerId;

/// Receipts of one partner.
const OF_PARTNER: usize = 256;
/// Receipts of all. At about 3 KB each.
const OF_ALL: usize = 4096;

/// The newest receipts.
#[derive(Default)]
pub(super) struct Recent {
    kept: HashMap<(PartnerId, ReceiptId), Delivered>,
    order: VecDeque<(PartnerId, ReceiptId)>,
    of_partner: HashMap<PartnerId, usize>,
}

impl Recent {
    /// Keeps one more. A partner's own oldest makes room first, then the oldest of all.
    pub(super) fn keep(&mut self, partner: PartnerId, id: ReceiptId, receipt: Delivered) {
        if self.of_partner.get(&partner).is_some_and(|count| *count >= OF_PARTNER) {
            let oldest = self.order.iter().position(|(of, _)| *of == partner);
            self.forget(oldest);
        }
        if self.order.len() >= OF_ALL {
            self.forget(Some(0));
        }
        let key = (partner, id);
        if self.kept.insert(key.clone(), receipt).is_none() {
            self.order.push_back(key);
            *self.of_partner.entry(partner).or_default() += 1;
        }
    }

    /// One of this partner's.
    pub(super) fn find(&self, partner: PartnerId, id: &str) -> Option<&Delivered> {
        self.kept.get(&(partner, id.parse().ok()?))
    }

    fn forget(&mut self, place: Option<usize>) {
        let Some(key) = place.and_then(|place| self.order.remove(place)) else { return };
        self.kept.remove(&key);
        if let Some(count) = self.of_partner.get_mut(&key.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of_partner.remove(&key.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::digest::Sha256Digest;
    use cleanroom_attestation::receipt::Salt;

    use super::*;

    fn partner(name: usize) -> PartnerId {
        PartnerId::from(Sha256Digest::of(&[&name.to_be_bytes()]))
    }

    fn keep(recent: &mut Recent, of: usize, id: usize) {
        let receipt = Delivered { envelope: id.to_string().into_bytes(), salt: Salt::from_bytes([0; 32]) };
        recent.keep(partner(of), format!("r-{id}").parse().unwrap(), receipt);
    }

    #[test]
    fn a_partner_finds_its_own_and_pushes_out_its_own() {
        let mut recent = Recent::default();
        keep(&mut recent, 1, 0);
        (0..=OF_PARTNER).for_each(|id| keep(&mut recent, 2, id));
        assert!(
            recent.find(partner(1), "r-0").is_some(),
            "another partner's receipts push out nothing of it"
        );
        assert!(recent.find(partner(2), "r-0").is_none() && recent.find(partner(2), "r-1").is_some());
        assert!(recent.find(partner(1), "r-1").is_none(), "a partner sees no other's");
        assert!(recent.find(partner(1), "no id").is_none());
    }

    #[test]
    fn memory_is_bounded_for_all_together() {
        let mut recent = Recent::default();
        (0..2 * OF_ALL).for_each(|id| keep(&mut recent, id % 100, id));
        assert!(recent.kept.len() <= OF_ALL && recent.order.len() == recent.kept.len());
        assert_eq!(recent.of_partner.values().sum::<usize>(), recent.kept.len());
    }
}
