//! What is read of one boot, and what others saw of it before.

use cleanroom_attestation::digest::Sha256Digest;

use super::report::BootReport;
use super::state::Seen;
use super::store::Store;

/// A file of the boot; what is missing is a problem with this code.
pub(super) fn read(
    store: &Store,
    report: &mut BootReport,
    path: &str,
    limit: u64,
    missing: &'static str,
) -> Option<Vec<u8>> {
    match store.read(&format!("{}/{path}", report.boot), limit) {
        Ok(Some(bytes)) => Some(bytes),
        Ok(None) => {
            report.problem(missing, path, "there is no such file, or a longer one than any of its kind");
            None
        }
        Err(error) => {
            report.problem("unreadable", path, error.to_string());
            None
        }
    }
}

/// What somebody saw of a log before. The log must contain it.
pub(super) struct View {
    pub(super) size: u64,
    pub(super) root: Sha256Digest,
    /// Who saw it, up to the number of entries: "an earlier audit saw".
    pub(super) whose: String,
    /// The code of a log that is shorter now.
    pub(super) longer: &'static str,
    /// The code of a log that is another one.
    pub(super) other: &'static str,
}

impl View {
    pub(super) fn seen(seen: &Seen) -> Self {
        let whose = "an earlier audit saw".to_owned();
        Self { size: seen.size, root: seen.root, whose, longer: "rolled-back", other: "forked" }
    }
}
