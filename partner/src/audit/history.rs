//! Roots, releases and denials that a log names, against the root that the auditor trusts.

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::{
    Denial, PayloadType, Release, ReleaseError, Root, TrustedState, Verified,
};

use super::report::{BootReport, Event};
use super::store::Store;
use cleanroom_report::Terms;

/// The authorities' documents, in the order in which an enclave took them.
pub(super) struct History<'a> {
    store: &'a Store,
    root: Option<Verified<Root>>,
    /// Everything that was taken, together.
    state: Option<TrustedState>,
    /// The first release, which says what the enclave's image had to be.
    first: Option<Release>,
    version: u64,
}

impl<'a> History<'a> {
    pub(super) fn new(store: &'a Store, policy: Option<&Policy>) -> Self {
        let root = policy.and_then(Policy::release).map(|trust| trust.root().clone());
        let state = root.clone().map(TrustedState::of);
        Self { store, root, state, first: None, version: 0 }
    }

    /// The first release that the log names.
    pub(super) const fn first_release(&self) -> Option<&Release> {
        self.first.as_ref()
    }

    /// Whether the auditor trusts a root, so that images come from releases.
    pub(super) const fn has_root(&self) -> bool {
        self.root.is_some()
    }

    /// Who may do what at the end of the log.
    pub(super) fn terms(&self) -> Option<Terms> {
        self.state.as_ref().map(Terms::of)
    }

    /// Takes what entry `index` names.
    pub(super) fn take(
        &mut self,
        report: &mut BootReport,
        index: u64,
        kind: PayloadType,
        sha256: Sha256Digest,
        at_ms: u64,
    ) {
        let says = match self.says(kind, sha256) {
            Ok(says) => says,
            Err((code, problem)) => {
                report.problem(code, &format!("entry {index}"), problem);
                None
            }
        };
        report.history.push(Event { kind: kind.name(), sha256, at_ms, says });
    }

    fn says(
        &mut self,
        kind: PayloadType,
        sha256: Sha256Digest,
    ) -> Result<Option<String>, (&'static str, String)> {
        let Some(root) = self.root.clone() else { return Ok(None) };
        let path = format!("documents/{sha256}.json");
        let limit = u64::try_from(kind.envelope_limit()).unwrap_or(u64::MAX);
        let document = self.store.read(&path, limit).map_err(|error| ("unreadable", error.to_string()))?;
        let missing =
            || ("document-missing", format!("the log names a {} that the store lacks: {path}", kind.name()));
        let document = document.ok_or_else(missing)?;
        let refused = |error: ReleaseError| ("document-refused", format!("{path} does not count: {error}"));
        let (digest, says) = match kind {
            PayloadType::Root => {
                let next = root.open_next(&document).map_err(refused)?;
                let says = (next.digest(), format!("root {}, until {}", next.version, next.expires));
                self.root = Some(next);
                says
            }
            PayloadType::Release => {
                let release = root.open::<Release>(&document).map_err(refused)?;
                if release.version < self.version {
                    let problem = format!("release {} follows release {}", release.version, self.version);
                    return Err(("release-back", problem));
                }
                self.version = release.version;
                let says =
                    (release.digest(), format!("release {}, until {}", release.version, release.expires));
                if self.first.is_none() {
                    self.first = Some(release.into_value());
                }
                says
            }
            _ => {
                let denial = root.open::<Denial>(&document).map_err(refused)?;
                (denial.digest(), format!("halts {}", denial.halt.in_words()))
            }
        };
        if digest != sha256 {
            return Err(("document-changed", format!("{path} has the digest {digest}")));
        }
        if let Some(state) = &mut self.state {
            // What is known already, or narrows nothing any more, changes nothing.
            let _ = match kind {
                PayloadType::Root => state.accept_root(&document),
                PayloadType::Release => state.accept_release(&document),
                _ => state.accept_denial(&document),
            };
        }
        Ok(Some(says))
    }
}
