//! Receipts: the record of a running request, and the way of its receipt to the partner.
//!
//! The worker commits to what came and to what left, and the keeper signs. A partner that did not get a receipt, because its
//! connection was gone, finds it at `GET /v1/receipts/{id}`. Salts leave with the receipts to the partner, and nowhere else.

mod recent;
mod recording;
mod tail;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cleanroom_attestation::receipt::Delivered;
use cleanroom_guard::Clock;

use self::recent::Recent;
pub(super) use self::recording::{Recorded, Recording};
pub(super) use self::tail::WithReceipt;
use crate::keeper::Keeper;
use crate::session::PartnerId;

/// Makes receipts, and keeps the newest ones.
pub(super) struct Receipts {
    keeper: Keeper,
    clock: Clock,
    recent: Mutex<Recent>,
}

impl Receipts {
    /// No receipt was made yet.
    pub(super) fn new(keeper: Keeper, clock: Clock) -> Arc<Self> {
        Arc::new(Self { keeper, clock, recent: Mutex::default() })
    }

    /// The receipt `id`, as JSON with its salt, if it is this partner's.
    pub(super) fn find(&self, partner: PartnerId, id: &str) -> Option<String> {
        self.recent().find(partner, id).map(Delivered::to_json)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
