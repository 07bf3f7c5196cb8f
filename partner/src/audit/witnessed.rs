//! What witnesses have cosigned of a log, and which boots they have taken.

use std::collections::BTreeMap;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{MAX_CHECKPOINT_BYTES, NoteKey, SignedCheckpoint, WitnessKey};

use super::report::{BootReport, Cosigned, Report};
use super::store::{Store, StoreError};
use super::view::{View, read};

/// Whose cosignatures a log must have.
pub struct Witnesses<'a> {
    /// Their keys.
    pub keys: &'a [WitnessKey],
    /// How many of them must have cosigned each log.
    pub needed: usize,
    /// What witnesses themselves say, or copies of it: which boots they have taken, and what they cosigned.
    pub lists: &'a [Store],
}

/// What witnesses themselves say of each boot.
#[derive(Default)]
pub(super) struct Told(BTreeMap<Sha256Digest, Vec<(String, SignedCheckpoint)>>);

impl Witnesses<'_> {
    /// Reads the witnesses' own lists. The store is read afterwards, so a log that grows meanwhile is never behind them.
    pub(super) fn ask(&self, report: &mut Report) -> Result<Told, StoreError> {
        let mut told = Told::default();
        for list in self.lists {
            for boot in list.boots()? {
                let place = format!("{list}/{boot}/checkpoint");
                let notes = told.0.entry(boot).or_default();
                // A boot that was just taken has no checkpoint yet.
                let Some(bytes) = list.read(&format!("{boot}/checkpoint"), MAX_CHECKPOINT_BYTES as u64)?
                else {
                    continue;
                };
                let note = SignedCheckpoint::parse(&bytes).ok();
                let by =
                    note.as_ref().and_then(|note| self.keys.iter().find(|key| key.cosigned(note).is_some()));
                match (note, by) {
                    (Some(note), Some(key)) => notes.push((key.name().to_owned(), note)),
                    _ => report.problem("witness-signature", place, "none of the witnesses cosigned it"),
                }
            }
        }
        Ok(told)
    }
}

impl Told {
    /// Boots that a witness has taken and the store does not have.
    pub(super) fn hidden(&self, boots: &[Sha256Digest]) -> impl Iterator<Item = Sha256Digest> {
        self.0.keys().filter(|boot| !boots.contains(boot)).copied()
    }

    /// What they cosigned of the log with this key.
    pub(super) fn views(&self, report: &mut BootReport, key: &NoteKey) -> Vec<View> {
        let mut views = Vec::new();
        for (name, note) in self.0.get(&report.boot).into_iter().flatten() {
            match note.verify(key) {
                Ok(checkpoint) => views.push(View {
                    size: checkpoint.size,
                    root: checkpoint.root,
                    whose: format!("the witness {name} cosigned"),
                    longer: "witness-ahead",
                    other: "witness-forked",
                }),
                Err(error) => {
                    report.problem(
                        "witness-signature",
                        "checkpoint",
                        format!("of the witness {name}: {error}"),
                    );
                }
            }
        }
        views
    }
}

/// What the store has of the witnesses' cosignatures. The log must contain it.
pub(super) fn kept(
    store: &Store,
    report: &mut BootReport,
    key: &NoteKey,
    witnesses: &Witnesses<'_>,
) -> Option<View> {
    let limit = MAX_CHECKPOINT_BYTES as u64;
    let bytes = read(store, report, "witnessed", limit, "witness-missing")?;
    let note = SignedCheckpoint::parse(&bytes);
    let checkpoint = match note.as_ref().map_err(|error| *error).and_then(|note| note.verify(key)) {
        Ok(checkpoint) => checkpoint.clone(),
        Err(error) => {
            report.problem("witness-signature", "witnessed", error.to_string());
            return None;
        }
    };
    let cosigned = |key: &WitnessKey| Some((key.name().to_owned(), key.cosigned(note.as_ref().ok()?)?));
    let by: BTreeMap<String, u64> = witnesses.keys.iter().filter_map(cosigned).collect();
    if by.len() < witnesses.needed {
        let names = by.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "none".to_owned() } else { names };
        let problem = format!("expected the cosignatures of {} witnesses, got {names}", witnesses.needed);
        report.problem("witness-too-few", "witnessed", problem);
    }
    report.cosigned = Some(Cosigned { size: checkpoint.size, by });
    Some(View {
        size: checkpoint.size,
        root: checkpoint.root,
        whose: "witnesses cosigned".to_owned(),
        longer: "witness-ahead",
        other: "witness-forked",
    })
}
