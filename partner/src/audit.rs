//! The audit of a store of logs: its contents, and the place of each fault.
//!
//! ```text
//! Store ─► boot by boot: checkpoint, boot record, every entry, every tile ─► Report
//!              │ receipts against leaves, earlier sizes and other views against roots,
//!              └ releases and denials against the root
//! ```
//!
//! Nothing of the store is believed. The audit reads every entry, computes the tree anew and compares. It needs no network
//! unless the store is at a URL. Its memory grows by a quarter of a byte for each entry.

mod boot;
mod hashes;
mod history;
mod page;
mod report;
mod state;
mod store;
mod view;
mod witnessed;

use std::collections::BTreeMap;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;

use crate::receipts::{BadFile, KeptReceipt};

pub use self::hashes::StoredHashes;
pub use self::page::{Page, page};
pub use self::report::{BootReport, BootStatus, Cosigned, Opened, Problem, Report};
pub use self::state::{Seen, State, StateError};
pub use self::store::{Store, StoreError};
pub use self::witnessed::Witnesses;
pub use cleanroom_report::Terms;

/// What a store is compared with.
#[derive(Default)]
pub struct Against<'a> {
    /// Trust anchors, images, and perhaps the authorities' root. Without a policy no boot is proven to be one of an enclave.
    pub policy: Option<&'a Policy>,
    /// The receipts that a partner holds.
    pub receipts: &'a [KeptReceipt],
    /// Files of the partner's folder that are none.
    pub bad_receipts: &'a [BadFile],
    /// Whose receipts those must be: SHA-256 of the partner's key.
    pub partner: Option<Sha256Digest>,
    /// What an earlier audit saw of each boot.
    pub seen: BTreeMap<Sha256Digest, Seen>,
    /// Another view of the same logs, for instance another auditor's.
    pub other: Option<&'a Store>,
    /// Whose cosignatures each log must have.
    pub witnesses: Option<&'a Witnesses<'a>>,
}

/// Audits a store. `progress` hears how many entries were read of how many.
///
/// # Errors
/// [`StoreError`] when the store cannot be read at all.
pub fn audit(
    store: &Store,
    against: &Against<'_>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let told = match against.witnesses {
        Some(witnesses) => witnesses.ask(&mut report)?,
        None => witnessed::Told::default(),
    };
    let boots = store.boots()?;
    let sizes: Vec<u64> = boots.iter().map(|boot| boot::claimed_size(store, boot)).collect();
    let total = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
    let mut before = 0_u64;
    for (boot, size) in boots.iter().zip(sizes) {
        let audited =
            boot::audit(store, boot, against, &told, |read| progress(before.saturating_add(read), total));
        before = before.saturating_add(size);
        report.take(audited);
    }
    for boot in against.seen.keys().filter(|boot| !boots.contains(boot)) {
        report.problem(
            "boot-gone",
            boot.to_string(),
            "an earlier audit saw this boot, and the store has no log of it",
        );
    }
    for boot in told.hidden(&boots) {
        let problem = "a witness has taken this boot, and the store has no log of it";
        report.problem("boot-hidden", boot.to_string(), problem);
    }
    for bad in against.bad_receipts {
        report.problem(bad.code, bad.path.display().to_string(), &bad.problem);
    }
    receipts(&boots, against, &mut report);
    Ok(report)
}

/// Faults that only all receipts together show: hidden boots, and receipts of another partner.
fn receipts(boots: &[Sha256Digest], against: &Against<'_>, report: &mut Report) {
    let owner =
        against.partner.or_else(|| against.receipts.first().map(|kept| kept.signed.receipt().partner));
    for kept in against.receipts {
        let receipt = kept.signed.receipt();
        let place = kept.path.display().to_string();
        if !boots.contains(&receipt.boot) {
            let problem = format!("the store has no log of boot {}, which gave this receipt", receipt.boot);
            report.problem("boot-hidden", place.clone(), &problem);
        }
        if owner.is_some_and(|owner| owner != receipt.partner) {
            report.problem("receipt-partner", place, "the receipt is another partner's");
        }
    }
    for (place, code, problem) in crate::receipts::gaps(against.receipts) {
        report.problem(code, place, &problem);
    }
    report.receipts = against.receipts.len();
}
