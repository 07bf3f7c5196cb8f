//! The secrets of days: made on first use, kept for the days that the release states, and then deleted.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Day, PublicKey, UnixMillis};
use cleanroom_key_release::{DaySecret, SEALS_AFTER_MS};
use cleanroom_program::file;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::share_file::{hex, unhex};
use crate::failure::Failure;
use crate::issuer::{Kind, Refusal, refusal};
use crate::signer::Signer;

/// The longest file of a secret, in bytes.
const LIMIT: usize = 1024;
/// The end of a secret's file name.
const SUFFIX: &str = ".day";

/// What a file of a secret says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form<'a> {
    day: Day,
    model_sha256: Sha256Digest,
    /// From this moment on nobody gets it.
    ends: UnixMillis,
    secret: &'a str,
}

/// A secret as its file has it.
struct Held {
    day: Day,
    model: Sha256Digest,
    ends: UnixMillis,
    secret: DaySecret,
}

/// One broker's secrets, and the key that it signs its answers with.
pub(super) struct Days {
    folder: PathBuf,
    signer: Signer,
    /// One use of the folder at a time.
    turn: Mutex<()>,
}

impl Days {
    /// The secrets in `folder`, which is made if it is not there. A file that is none is an error.
    pub(super) fn open(folder: &Path, key: &Path) -> Result<Self, Failure> {
        file::create_folder(folder, 0o700)?;
        let days = Self { folder: folder.to_owned(), signer: Signer::from_file(key)?, turn: Mutex::new(()) };
        days.finish()?;
        days.files()?.iter().try_for_each(|path| Held::read(path).map(|_| ()))?;
        Ok(days)
    }

    /// Finishes what the end of a process left half done: a secret that nobody was given yet, and one that was overwritten.
    fn finish(&self) -> Result<(), Failure> {
        for path in self.entries()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_half_made = name.starts_with('.') && name.contains(SUFFIX);
            let is_half_gone = || {
                let bytes = file::read_secret(&path, LIMIT).ok();
                bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
            };
            if is_half_made || (name.ends_with(SUFFIX) && is_half_gone()) {
                file::shred(&path)?;
            }
        }
        Ok(())
    }

    /// The key that answers are signed with.
    pub(super) fn public(&self) -> PublicKey {
        self.signer.public()
    }

    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.signer.sign(message).ok()
    }

    /// The secret of the day for an enclave that seals at `now`. It is made when nobody has asked for it before, and is on the
    /// disk when this returns.
    pub(super) fn to_seal(
        &self,
        day: Day,
        model: &Sha256Digest,
        kept: u64,
        now: UnixMillis,
    ) -> Result<DaySecret, Refusal> {
        let forbidden = |code, message: &str| Err(refusal(Kind::Forbidden, code, message));
        if now < day.begin() {
            return forbidden("day-not-begun", "this day has not begun by the broker's clock");
        }
        if now.0 >= Day(day.0.saturating_add(1)).begin().0.saturating_add(SEALS_AFTER_MS) {
            return forbidden(
                "day-over",
                "this day is over by the broker's clock; nothing more is sealed for it",
            );
        }
        let _turn = self.turn();
        let path = self.path(day, model);
        if !path.exists() {
            let secret = DaySecret::generate();
            let secret = secret.ok_or_else(|| refusal(Kind::Unusable, "random", "no random numbers"))?;
            let held = Held { day, model: *model, ends: day.end_of_retention(kept), secret };
            held.write(&path).map_err(|failure| unusable(&failure))?;
            tracing::info!(%day, ends = %held.ends, "a secret was made");
        }
        self.read(&path, kept, now)
    }

    /// The secret of a day that is not over its retention, for an opening.
    pub(super) fn to_open(
        &self,
        day: Day,
        model: &Sha256Digest,
        kept: u64,
        now: UnixMillis,
    ) -> Result<DaySecret, Refusal> {
        let _turn = self.turn();
        let path = self.path(day, model);
        if !path.exists() {
            let message =
                "this broker has no secret of this day: it was deleted, or nothing was sealed with it";
            return Err(refusal(Kind::Forbidden, "day-deleted", message));
        }
        self.read(&path, kept, now)
    }

    /// The secret in a file, unless its time is over: by what was promised when it was made, or by a shorter promise since.
    fn read(&self, path: &Path, kept: u64, now: UnixMillis) -> Result<DaySecret, Refusal> {
        let held = Held::read(path).map_err(|failure| unusable(&failure))?;
        if now >= held.ends.min(held.day.end_of_retention(kept)) {
            let message = "the retention of this day is over, and its secret is deleted";
            return Err(refusal(Kind::Forbidden, "day-deleted", message));
        }
        Ok(held.secret)
    }

    /// Deletes every secret whose time is over at `now`. `kept` says for how many days a model's secrets are kept now.
    pub(super) fn sweep(&self, now: UnixMillis, kept: impl Fn(&Sha256Digest) -> Option<u64>) {
        let _turn = self.turn();
        let files = self.files().unwrap_or_else(|failure| {
            tracing::error!(%failure, "the folder of secrets cannot be read; nothing is deleted");
            Vec::new()
        });
        for path in files {
            let held = match Held::read(&path) {
                Ok(held) => held,
                Err(failure) => {
                    tracing::error!(%failure, "a secret cannot be read, and is not deleted");
                    continue;
                }
            };
            let shorter = kept(&held.model).map(|kept| held.day.end_of_retention(kept));
            if now < shorter.map_or(held.ends, |shorter| held.ends.min(shorter)) {
                continue;
            }
            match file::shred(&path) {
                Ok(()) => tracing::info!(day = %held.day, "a secret was deleted: its retention is over"),
                Err(error) => tracing::error!(%error, "a secret cannot be deleted; nobody gets it"),
            }
        }
    }

    /// The days of which there are secrets.
    pub(super) fn held(&self) -> Vec<Day> {
        let _turn = self.turn();
        let files = self.files().unwrap_or_default();
        let mut days: Vec<Day> =
            files.iter().filter_map(|path| Held::read(path).ok()).map(|held| held.day).collect();
        days.sort();
        days.dedup();
        days
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, day: Day, model: &Sha256Digest) -> PathBuf {
        self.folder.join(format!("{day}-{model}{SUFFIX}"))
    }

    /// The files of secrets.
    fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        let is_secret = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.ends_with(SUFFIX) && !name.starts_with('.')
        };
        Ok(self.entries()?.into_iter().filter(is_secret).collect())
    }

    fn entries(&self) -> Result<Vec<PathBuf>, Failure> {
        let failed =
            |error: std::io::Error| Failure::Environment(format!("{}: {error}", self.folder.display()));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        files.sort();
        Ok(files)
    }
}

impl Held {
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let digits = hex(self.secret.as_bytes());
        let form = Form { day: self.day, model_sha256: self.model, ends: self.ends, secret: &digits };
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(LIMIT));
        serde_json::to_writer_pretty(&mut *text, &form)
            .map_err(|error| Failure::Environment(error.to_string()))?;
        text.push(b'\n');
        Ok(file::create_secret(path, &text)?)
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let refused = |problem: &str| Failure::Refused {
            what: path.display().to_string(),
            code: "day-secret",
            problem: format!("expected the secret of a day as this broker writes it: {problem}"),
        };
        let text = file::read_secret(path, LIMIT)?;
        // What serde says could quote the secret.
        let form: Form<'_> = serde_json::from_slice(&text).map_err(|_| refused("it has another form"))?;
        let secret = unhex(form.secret, DaySecret::LENGTH).and_then(|bytes| DaySecret::read(&bytes));
        let secret = secret.ok_or_else(|| refused("its secret is not 64 hexadecimal digits"))?;
        Ok(Self { day: form.day, model: form.model_sha256, ends: form.ends, secret })
    }
}

fn unusable(failure: &Failure) -> Refusal {
    tracing::error!(%failure, "no secret of the day");
    refusal(
        Kind::Unusable,
        "days-unusable",
        "this broker's secrets cannot be used; its operator finds the reason in its log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(folder: &Path) -> Days {
        let key = folder.join("broker.pem");
        if !key.exists() {
            crate::key::Command::New { out: key.clone(), algorithm: crate::key::Kind::Ed25519 }
                .run()
                .unwrap();
        }
        Days::open(&folder.join("days"), &key).unwrap()
    }

    fn code(result: Result<DaySecret, Refusal>) -> &'static str {
        result.map_or_else(|refusal| refusal.code, |_| "given")
    }

    #[test]
    fn a_secret_is_made_once_kept_and_deleted_when_its_days_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let (store, model) = (days(folder.path()), Sha256Digest::of(&[b"model"]));
        let day: Day = "2026-11-29".parse().unwrap();
        let at = |text: &str| text.parse::<UnixMillis>().unwrap();
        let noon = at("2026-11-29T12:00:00Z");
        let secret = *store.to_seal(day, &model, 2, noon).unwrap().as_bytes();
        // The same after a restart, to seal and to open; another one for another model.
        let store = days(folder.path());
        assert_eq!(store.to_seal(day, &model, 2, noon).unwrap().as_bytes(), &secret);
        assert_eq!(store.to_open(day, &model, 2, at("2026-12-01T23:59:59Z")).unwrap().as_bytes(), &secret);
        let other = Sha256Digest::of(&[b"other"]);
        assert_ne!(store.to_seal(day, &other, 2, noon).unwrap().as_bytes(), &secret);
        // Only within the day, and ten minutes.
        assert_eq!(code(store.to_seal(day, &model, 2, at("2026-11-28T23:59:59Z"))), "day-not-begun");
        assert_eq!(code(store.to_seal(day, &model, 2, at("2026-11-30T00:09:59Z"))), "given");
        assert_eq!(code(store.to_seal(day, &model, 2, at("2026-11-30T00:10:00Z"))), "day-over");
        // A shorter promise counts, a longer one does not.
        assert_eq!(code(store.to_open(day, &model, 1, at("2026-12-01T00:00:00Z"))), "day-deleted");
        assert_eq!(code(store.to_open(day, &model, 9, at("2026-12-02T00:00:00Z"))), "day-deleted");
        store.sweep(at("2026-12-01T23:59:59Z"), |_| None);
        assert_eq!(store.held(), [day]);
        store.sweep(at("2026-12-02T00:00:00Z"), |_| Some(9));
        assert!(store.held().is_empty());
        assert_eq!(std::fs::read_dir(folder.path().join("days")).unwrap().count(), 0);
        // With its clock set back the broker does not have it either.
        assert_eq!(code(store.to_open(day, &model, 2, noon)), "day-deleted");
        assert_ne!(store.to_seal(day, &model, 2, noon).unwrap().as_bytes(), &secret);
    }

    #[test]
    fn a_shorter_promise_deletes_earlier() {
        let folder = tempfile::tempdir().unwrap();
        let (store, model) = (days(folder.path()), Sha256Digest::of(&[b"model"]));
        let day: Day = "2026-11-29".parse().unwrap();
        store.to_seal(day, &model, 30, day.begin()).unwrap();
        let later: Day = "2026-12-01".parse().unwrap();
        store.sweep(later.begin(), |of| (*of == model).then_some(2));
        assert_eq!(store.held(), [day]);
        store.sweep(later.begin(), |of| (*of == model).then_some(1));
        assert!(store.held().is_empty());
    }

    #[test]
    fn what_a_power_cut_left_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let store = days(folder.path());
        let day: Day = "2026-11-29".parse().unwrap();
        store.to_seal(day, &Sha256Digest::of(&[b"model"]), 1, day.begin()).unwrap();
        let place = |name: &str| folder.path().join("days").join(name);
        file::create_secret(&place(".2026-11-28-x.day.7-0.new"), b"half a sec").unwrap();
        file::create_secret(&place("2026-11-28-x.day"), &[0; 40]).unwrap();
        let store = days(folder.path());
        assert_eq!(store.held(), [day]);
        assert_eq!(std::fs::read_dir(folder.path().join("days")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_secret_is_said_and_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        drop(days(folder.path()));
        file::create_secret(&folder.path().join("days/2026-11-29-x.day"), b"{}").unwrap();
        let failure = Days::open(&folder.path().join("days"), &folder.path().join("broker.pem"));
        assert!(matches!(failure.err(), Some(Failure::Refused { code: "day-secret", .. })));
    }
}
