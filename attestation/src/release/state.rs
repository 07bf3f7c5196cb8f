//! What one enclave (or one partner, or one lease service) has accepted so far, and what follows from it.
//!
//! Pure: every time and every random byte comes from the caller. Nothing that is refused changes anything.

use std::collections::BTreeMap;

use super::decision::{Decision, Question, Refusal, Standing};
use super::denial::{Denial, Target};
use super::envelope::{Envelope, PayloadType};
use super::error::ReleaseError;
use super::key::PublicKey;
use super::lease::{Lease, Nonce, issuers_needed, lease_digest};
use super::manifest::{ModelState, Partner, Release};
use super::open::Verified;
use super::root::{Role, Root};
use super::time::{BootMillis, UnixMillis};
use crate::digest::Sha256Digest;

/// The most denials that are kept. One more halts everything, because forgetting one could resume what it halted.
pub const DENIALS_LIMIT: usize = 4096;

/// The accepted root, release, denials and lease.
#[derive(Debug, Clone)]
pub struct TrustedState {
    root: Verified<Root>,
    /// The newest release. It narrows at once and widens only with a lease that names it.
    newest: Option<Standing>,
    /// The release that the live lease names, while a newer one waits for its own lease.
    leased: Option<Standing>,
    denials: BTreeMap<Sha256Digest, Target>,
    too_many_denials: bool,
    exchange: Option<Exchange>,
    live: Option<LiveLease>,
}

/// What [`TrustedState`] did with something that it did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was new and counts from now on.
    New,
    /// Its payload was there already, byte for byte. The signatures that came with it this time were not looked at: to pass it
    /// on, take the envelope that is held here.
    Known,
    /// A good lease, and other issuers' leases for the same nonce are still needed.
    MoreIssuersNeeded,
}

/// A nonce that was sent, and the leases that answered it.
#[derive(Debug, Clone)]
struct Exchange {
    nonce: Nonce,
    sent: BootMillis,
    /// The issuers so far, told apart by key, with the digest of what each signed.
    answers: Vec<(PublicKey, Sha256Digest)>,
    /// The shortest lease among the answers.
    seconds: u64,
}

/// A lease that enough issuers gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveLease {
    release: Sha256Digest,
    begin: BootMillis,
    end: BootMillis,
    answers: Vec<(PublicKey, Sha256Digest)>,
}

impl LiveLease {
    /// Digest of the release that it names.
    #[must_use]
    pub const fn release(&self) -> Sha256Digest {
        self.release
    }

    /// When the nonce was sent: the moment from which the lease counts.
    #[must_use]
    pub const fn begin(&self) -> BootMillis {
        self.begin
    }

    /// The first moment that it no longer covers.
    #[must_use]
    pub const fn end(&self) -> BootMillis {
        self.end
    }

    /// The digest by which the channel and receipts name it, see [`lease_digest`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        let payloads: Vec<Sha256Digest> = self.answers.iter().map(|(_, payload)| *payload).collect();
        lease_digest(&payloads)
    }
}

/// A model as the newest release sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelStanding {
    /// The digest of its weights.
    pub sha256: Sha256Digest,
    /// Its state. [`ModelState::Revoked`] means: erase the weights now.
    pub state: ModelState,
    /// Whether a denial halts it.
    pub denied: bool,
}

impl TrustedState {
    /// Begins with a root that is trusted because of where it came from: the measured image, or a pin.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when it is not a root that its own root role signed.
    pub fn new(root_envelope: &[u8]) -> Result<Self, ReleaseError> {
        Ok(Self::of(Root::open_first(root_envelope)?))
    }

    /// As [`Self::new`], with a root that was opened before.
    #[must_use]
    pub const fn of(root: Verified<Root>) -> Self {
        Self {
            root,
            newest: None,
            leased: None,
            denials: BTreeMap::new(),
            too_many_denials: false,
            exchange: None,
            live: None,
        }
    }

    /// The answer to `question` at `now` on the machine's clock and at `unix` by the security module's.
    ///
    /// Constant work: a comparison of times and two to four look-ups. It holds for as long as nothing is accepted and for
    /// `until` at most.
    pub fn decide(&self, question: &Question<'_>, now: BootMillis, unix: UnixMillis) -> Decision {
        match self.permit(question, now, unix) {
            Ok(decision) => decision,
            Err(refusal) => Decision::Refuse(refusal),
        }
    }

    fn permit(
        &self,
        question: &Question<'_>,
        now: BootMillis,
        unix: UnixMillis,
    ) -> Result<Decision, Refusal> {
        if self.too_many_denials {
            return Err(Refusal::TooManyDenials);
        }
        let newest = self.newest.as_ref().ok_or(Refusal::NoRelease)?;
        let lease = self.live.as_ref().ok_or(Refusal::NoLease)?;
        if now < lease.begin {
            return Err(Refusal::ClockWentBack);
        }
        if now >= lease.end {
            return Err(Refusal::LeaseLapsed);
        }
        let root_left = self.root.expires.0.checked_sub(unix.0).filter(|left| *left > 0);
        let end = lease.end.min(now.plus(root_left.ok_or(Refusal::RootExpired)?));

        let (mut until, mut limits) = newest.decide(question, now, unix, end)?;
        if newest.release.digest() != lease.release {
            // The lease is for the release before: what both permit, for as long as both do.
            let leased = self.leased.as_ref().filter(|leased| leased.release.digest() == lease.release);
            let (end, lesser) = leased.ok_or(Refusal::NoLease)?.decide(question, now, unix, end)?;
            until = until.min(end);
            limits = limits.lesser(&lesser);
        }
        Ok(Decision::Serve { until, limits })
    }

    /// Takes the next root. What no longer counts under it goes: a release or lease that too few of its keys signed.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when it is not the current root or the one after it, signed by the quorums of both.
    pub fn accept_root(&mut self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        if Envelope::parse(envelope, PayloadType::Root)?.digest() == self.root.digest() {
            return Ok(Accepted::Known);
        }
        self.root = self.root.open_next(envelope)?;

        for standing in [&mut self.newest, &mut self.leased] {
            *standing = standing.take().and_then(|standing| {
                let release = self.root.open_envelope(standing.release.envelope().clone()).ok()?;
                Some(Standing::new(release, &self.denials))
            });
        }
        // Without a newest release nothing is served, and versions start again at the new root's minimum_release.
        if self.newest.is_none() {
            self.leased = None;
        }
        self.exchange = None;
        self.live = self.live.take().and_then(|mut lease| {
            let keys: Vec<&PublicKey> = self.root.keys_of(Role::Lease).map(|key| &key.spki).collect();
            lease.answers.retain(|(issuer, _)| keys.contains(&issuer));
            let release = self.release_with(&lease.release)?;
            (lease.answers.len() as u64 >= issuers_needed(&self.root, release)).then_some(lease)
        });
        Ok(Accepted::New)
    }

    /// Takes a newer release. It narrows at once; what it permits anew waits for a lease that names it.
    ///
    /// An expired release is taken too, so that versions only rise; [`Self::decide`] then refuses.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when too few keys signed it, it breaks a rule, or its version does not rise.
    pub fn accept_release(&mut self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        let envelope = Envelope::parse(envelope, PayloadType::Release)?;
        if self.release().is_some_and(|newest| newest.digest() == envelope.digest()) {
            return Ok(Accepted::Known);
        }
        let release: Verified<Release> = self.root.open_envelope(envelope)?;
        if let Some(newest) = &self.newest {
            let (current, actual) = (newest.release.version, release.version);
            if actual < current {
                return Err(ReleaseError::Rollback { what: "release", current, actual });
            }
            if actual == current {
                return Err(ReleaseError::SameVersionOtherBytes { what: "release", version: actual });
            }
        }
        let before = self.newest.replace(Standing::new(release, &self.denials));
        let leased = self.live.as_ref().map(|lease| lease.release);
        if before.as_ref().map(|before| before.release.digest()) == leased {
            self.leased = before;
        }
        // Answers collected for the release before can no longer become a lease.
        if let Some(exchange) = &mut self.exchange {
            exchange.answers.clear();
            exchange.seconds = u64::MAX;
        }
        Ok(Accepted::New)
    }

    /// Takes a denial. It is in force at once, until a release that lists its digest is leased.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when no deny key signed it or it is for another room. [`ReleaseError::TooManyDenials`] halts everything.
    pub fn accept_denial(&mut self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        let envelope = Envelope::parse(envelope, PayloadType::Denial)?;
        if self.denials.contains_key(&envelope.digest()) {
            return Ok(Accepted::Known);
        }
        let denial: Verified<Denial> = self.root.open_envelope(envelope)?;
        self.keep_denials([(denial.digest(), denial.halt.clone())])?;
        Ok(Accepted::New)
    }

    /// Notes that `nonce` is sent to the issuers **now**, before it is sent: the lease that answers counts from here. An
    /// earlier nonce is no longer waited for; the lease it brought runs on.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::StaleNonce`] for zeros or the last nonce again; [`ReleaseError::ClockWentBack`].
    pub fn begin_lease(&mut self, nonce: Nonce, now: BootMillis) -> Result<(), ReleaseError> {
        if nonce.is_zero() || self.exchange.as_ref().is_some_and(|last| last.nonce == nonce) {
            return Err(ReleaseError::StaleNonce);
        }
        if self.exchange.as_ref().is_some_and(|last| now < last.sent) {
            return Err(ReleaseError::ClockWentBack);
        }
        self.exchange = Some(Exchange { nonce, sent: now, answers: Vec::new(), seconds: u64::MAX });
        Ok(())
    }

    /// Takes one issuer's lease for the nonce of [`Self::begin_lease`].
    ///
    /// Several issuers' leases for one nonce add up: distinct keys count, the shortest time rules, all their denials hold.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when no lease key signed it, or it is for another nonce, root or release, too long, or too late.
    pub fn accept_lease(&mut self, envelope: &[u8], now: BootMillis) -> Result<Accepted, ReleaseError> {
        let lease: Verified<Lease> = self.root.open(envelope)?;
        let exchange = self.exchange.as_ref().ok_or(ReleaseError::NoLeaseAsked)?;
        let newest = &self.newest.as_ref().ok_or(ReleaseError::NoRelease)?.release;
        if lease.nonce != exchange.nonce {
            return Err(ReleaseError::WrongNonce);
        }
        if lease.root_version != self.root.version {
            return Err(ReleaseError::LeaseRoot { current: self.root.version, actual: lease.root_version });
        }
        if lease.release.sha256 != newest.digest() || lease.release.version != newest.version {
            return Err(ReleaseError::LeaseRelease {
                current: newest.digest(),
                actual: lease.release.sha256,
                actual_version: lease.release.version,
            });
        }
        if lease.seconds > newest.lease.seconds {
            return Err(ReleaseError::LeaseTooLong { most: newest.lease.seconds, actual: lease.seconds });
        }
        if now < exchange.sent {
            return Err(ReleaseError::ClockWentBack);
        }
        let end = exchange.sent.plus(lease.seconds.saturating_mul(1000));
        if now >= end {
            return Err(ReleaseError::LeaseLate(now.0.saturating_sub(end.0)));
        }

        let release = newest.digest();
        let needed = issuers_needed(&self.root, newest);
        self.keep_denials(lease.denials.iter().map(|notice| (notice.denial, notice.halt.clone())))?;
        let Some(exchange) = &mut self.exchange else { return Err(ReleaseError::NoLeaseAsked) };
        let before = exchange.answers.len();
        for signer in lease.signers() {
            if exchange.answers.iter().all(|(issuer, _)| *issuer != signer.spki) {
                exchange.answers.push((signer.spki.clone(), lease.digest()));
            }
        }
        exchange.seconds = exchange.seconds.min(lease.seconds);
        if (exchange.answers.len() as u64) < needed {
            return Ok(Accepted::MoreIssuersNeeded);
        }
        let known = exchange.answers.len() == before;
        let end = exchange.sent.plus(exchange.seconds.saturating_mul(1000));
        let answers = exchange.answers.clone();
        self.live = Some(LiveLease { release, begin: exchange.sent, end, answers });
        self.leased = None;
        Ok(if known { Accepted::Known } else { Accepted::New })
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> &Verified<Root> {
        &self.root
    }

    /// The newest release, leased or not.
    #[must_use]
    pub fn release(&self) -> Option<&Verified<Release>> {
        self.newest.as_ref().map(|newest| &newest.release)
    }

    /// The lease that was accepted last. It may have ended: [`Self::decide`] knows.
    #[must_use]
    pub const fn lease(&self) -> Option<&LiveLease> {
        self.live.as_ref()
    }

    /// The release that the last lease names: what a session is told that it runs under.
    #[must_use]
    pub fn leased_release(&self) -> Option<&Verified<Release>> {
        let digest = self.live.as_ref()?.release;
        [&self.newest, &self.leased]
            .into_iter()
            .flatten()
            .map(|standing| &standing.release)
            .find(|r| r.digest() == digest)
    }

    /// Every denial known since boot, by digest, lifted ones too.
    #[must_use]
    pub const fn denials(&self) -> &BTreeMap<Sha256Digest, Target> {
        &self.denials
    }

    /// The denials that the newest release does not lift.
    pub fn denials_in_force(&self) -> impl Iterator<Item = (&Sha256Digest, &Target)> {
        let lifted = self.newest.as_ref().map(|newest| &newest.release.supersedes_denials);
        self.denials.iter().filter(move |(digest, _)| lifted.is_none_or(|lifted| !lifted.contains(digest)))
    }

    /// The model `id` in the newest release. A model that has to be erased is one whose state is [`ModelState::Revoked`].
    #[must_use]
    pub fn model(&self, id: &str) -> Option<ModelStanding> {
        let newest = self.newest.as_ref()?;
        let model = newest.release.model(id)?;
        Some(ModelStanding { sha256: model.sha256, state: model.state, denied: newest.model_denied(id) })
    }

    /// The partner with this key in the newest release.
    #[must_use]
    pub fn partner(&self, key: &Sha256Digest) -> Option<&Partner> {
        self.newest.as_ref()?.partner(key)
    }

    /// Whether more denials came than can be kept, which halts everything.
    #[must_use]
    pub const fn halted_by_overflow(&self) -> bool {
        self.too_many_denials
    }

    fn release_with(&self, digest: &Sha256Digest) -> Option<&Release> {
        let standings = [&self.newest, &self.leased].into_iter().flatten();
        standings
            .map(|standing| &standing.release)
            .find(|release| release.digest() == *digest)
            .map(|found| &**found)
    }

    fn keep_denials(
        &mut self,
        denials: impl IntoIterator<Item = (Sha256Digest, Target)>,
    ) -> Result<(), ReleaseError> {
        let before = self.denials.len();
        for (digest, target) in denials {
            if self.denials.len() >= DENIALS_LIMIT && !self.denials.contains_key(&digest) {
                self.too_many_denials = true;
                return Err(ReleaseError::TooManyDenials(DENIALS_LIMIT));
            }
            self.denials.insert(digest, target);
        }
        if self.denials.len() > before {
            for standing in [&mut self.newest, &mut self.leased].into_iter().flatten() {
                standing.apply(&self.denials);
            }
        }
        Ok(())
    }
}
