//! The documents that one enclave (or one partner, or one lease service) has accepted, and the decisions that
//! follow.
//!
//! Pure: every time and every random byte comes from the caller. Nothing that is refused changes anything.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use super::accepted::Accepted;
use super::decision::{Decision, IndexedRelease, Question, Refusal};
use super::denials::Denials;
use crate::digest::Sha256Digest;
use crate::release::documents::{
    BootMillis, Denial, Envelope, Lease, ModelState, Nonce, Partner, PayloadType, PublicKey, Release,
    ReleaseError, Retention, Role, Root, Safeguards, Target, UnixMillis, Verified, issuers_needed,
    lease_digest,
};

/// What is lifted where there is no release.
static NOTHING: LazyLock<HashSet<Sha256Digest>> = LazyLock::new(HashSet::new);

/// The accepted root, release, denials and lease.
#[derive(Debug, Clone)]
pub struct TrustedState {
    root: Verified<Root>,
    /// The newest release. It narrows at once and widens only with a lease that names it.
    newest: Option<IndexedRelease>,
    /// The release that the live lease names, while a newer one waits for its own lease.
    leased: Option<IndexedRelease>,
    denials: Denials,
    exchange: Option<Exchange>,
    live: Option<LiveLease>,
}

/// A nonce that was sent, and the statements that answered it.
#[derive(Debug, Clone)]
struct Exchange {
    nonce: Nonce,
    sent: BootMillis,
    /// One for each issuer so far: its longest.
    statements: Vec<Statement>,
}

/// What one issuer signed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    issuer: PublicKey,
    seconds: u64,
    payload: Sha256Digest,
    /// With the signatures that were counted, and no others.
    envelope: Arc<[u8]>,
}

/// A lease that enough issuers gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveLease {
    release: Sha256Digest,
    begin: BootMillis,
    end: BootMillis,
    statements: Vec<Statement>,
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
        let payloads: Vec<Sha256Digest> = self.statements.iter().map(|statement| statement.payload).collect();
        lease_digest(&payloads)
    }

    /// The envelopes that make it, each once: what a partner is shown. Together at most
    /// [`MAX_LEASE_BYTES`](crate::channel::MAX_LEASE_BYTES), whatever a host handed in.
    #[must_use]
    pub fn envelopes(&self) -> Vec<&[u8]> {
        let mut seen = HashSet::new();
        let all = self.statements.iter().map(|statement| &*statement.envelope);
        all.filter(|envelope| seen.insert(*envelope)).collect()
    }
}

/// A model as the newest release sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelStatus {
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
        Self { root, newest: None, leased: None, denials: Denials::new(), exchange: None, live: None }
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
        let newest = self.newest.as_ref().ok_or(Refusal::NoRelease)?;
        let lease = self.lease_in_force(now)?;
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

    /// The lease that covers `now`.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when there is none, or it has ended, or `now` is before it.
    pub fn lease_in_force(&self, now: BootMillis) -> Result<&LiveLease, Refusal> {
        let lease = self.live.as_ref().ok_or(Refusal::NoLease)?;
        if now < lease.begin {
            return Err(Refusal::ClockWentBack);
        }
        if now >= lease.end {
            return Err(Refusal::LeaseLapsed);
        }
        Ok(lease)
    }

    /// Takes the next root. What no longer counts under it goes: a release or lease that too few of its keys signed. A denial
    /// whose deny keys have all left goes with the next lease, which the issuers give under the new root; not before.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when it is not the current root or the one after it, signed by the quorums of both.
    pub fn accept_root(&mut self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        if Envelope::parse(envelope, PayloadType::Root)?.digest() == self.root.digest() {
            return Ok(Accepted::Known);
        }
        self.root = self.root.open_next(envelope)?;

        let deny: Vec<&PublicKey> = self.root.keys_of(Role::Deny).map(|key| &key.spki).collect();
        self.denials.keep_signers(&deny);
        for indexed in [&mut self.newest, &mut self.leased] {
            *indexed = indexed.take().and_then(|indexed| {
                let release = self.root.open_envelope(indexed.release.envelope().clone()).ok()?;
                Some(IndexedRelease::new(release, &self.denials))
            });
        }
        // Without a newest release nothing is served, and versions start again at the new root's minimum_release.
        if self.newest.is_none() {
            self.leased = None;
        }
        self.exchange = None;
        self.live = self.live.take().and_then(|mut lease| {
            let keys: Vec<&PublicKey> = self.root.keys_of(Role::Lease).map(|key| &key.spki).collect();
            lease.statements.retain(|statement| keys.contains(&&statement.issuer));
            let release = self.release_with(&lease.release)?;
            (lease.statements.len() as u64 >= issuers_needed(&self.root, release)).then_some(lease)
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
        let before = self.newest.replace(IndexedRelease::new(release, &self.denials));
        let leased = self.live.as_ref().map(|lease| lease.release);
        if before.as_ref().map(|before| before.release.digest()) == leased {
            self.leased = before;
        }
        // Statements for the release before can no longer become a lease.
        if let Some(exchange) = &mut self.exchange {
            exchange.statements.clear();
        }
        Ok(Accepted::New)
    }

    /// Takes a denial. It is in force at once, until a release that lists its digest is leased. This is the only way in which
    /// anything is halted.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when no deny key of the root signed it, it is for another room, or its signers have too many in force.
    pub fn accept_denial(&mut self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        let denial: Verified<Denial> = self.root.open(envelope)?;
        let lifted = self.newest.as_ref().map_or(&*NOTHING, |newest| &newest.lifted);
        let accepted = self.denials.accept(&denial, lifted)?;
        if accepted == Accepted::New {
            self.mark();
        }
        Ok(accepted)
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
        self.exchange = Some(Exchange { nonce, sent: now, statements: Vec::new() });
        Ok(())
    }

    /// Takes one issuer's lease for the nonce of [`Self::begin_lease`].
    ///
    /// Leases of several issuers for one nonce add up. Distinct keys count. When there are more than it takes, the longest ones
    /// make the lease, so that one issuer cannot shorten what others give.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when no lease key signed it, it is for another nonce, root or release, too long, or too late, and
    /// [`ReleaseError::DenialMissing`] when it lists a denial that was not handed in. It then counts as little as if it had not
    /// come.
    pub fn accept_lease(&mut self, envelope: &[u8], now: BootMillis) -> Result<Accepted, ReleaseError> {
        let lease: Verified<Lease> = self.root.open(envelope)?;
        self.check_lease(&lease, now)?;
        // A denial that only a key of an earlier root signed goes with this lease. So it does not count as held.
        match lease.denials.iter().find(|digest| !self.denials.is_signed(digest)) {
            Some(missing) => Err(ReleaseError::DenialMissing(*missing)),
            None => self.count(&lease),
        }
    }

    /// As [`Self::accept_lease`], for a partner. The enclave that shows the lease has checked its denials, and the partner has
    /// proven the enclave.
    pub(super) fn accept_shown_lease(
        &mut self,
        envelope: &[u8],
        now: BootMillis,
    ) -> Result<Accepted, ReleaseError> {
        let lease: Verified<Lease> = self.root.open(envelope)?;
        self.check_lease(&lease, now)?;
        self.count(&lease)
    }

    /// Whether the lease is for this nonce, root and release, and covers `now`.
    fn check_lease(&self, lease: &Lease, now: BootMillis) -> Result<(), ReleaseError> {
        let exchange = self.exchange.as_ref().ok_or(ReleaseError::NoLeaseAsked)?;
        let newest = &self.newest.as_ref().ok_or(ReleaseError::NoRelease)?.release;
        if lease.nonce != exchange.nonce {
            return Err(ReleaseError::WrongNonce);
        }
        if lease.root.sha256 != self.root.digest() || lease.root.version != self.root.version {
            return Err(ReleaseError::LeaseRoot { current: self.root.version, actual: lease.root.version });
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
        Ok(())
    }

    /// Counts a checked lease towards the number of issuers that it takes.
    fn count(&mut self, lease: &Verified<Lease>) -> Result<Accepted, ReleaseError> {
        let newest = &self.newest.as_ref().ok_or(ReleaseError::NoRelease)?.release;
        let needed = usize::try_from(issuers_needed(&self.root, newest)).unwrap_or(usize::MAX);
        let exchange = self.exchange.as_mut().ok_or(ReleaseError::NoLeaseAsked)?;
        let envelope: Arc<[u8]> = lease.counted_envelope().to_json().into();
        for signer in lease.signers() {
            let statement = Statement {
                issuer: signer.spki.clone(),
                seconds: lease.seconds,
                payload: lease.digest(),
                envelope: Arc::clone(&envelope),
            };
            match exchange.statements.iter_mut().find(|other| other.issuer == statement.issuer) {
                None => exchange.statements.push(statement),
                Some(other) if other.seconds < statement.seconds => *other = statement,
                Some(_) => {}
            }
        }
        let mut longest = exchange.statements.clone();
        longest.sort_by_key(|statement| core::cmp::Reverse(statement.seconds));
        longest.truncate(needed);
        let Some(last) = longest.last().filter(|_| longest.len() == needed) else {
            return Ok(Accepted::MoreIssuersNeeded);
        };
        let end = exchange.sent.plus(last.seconds.saturating_mul(1000));
        let (release, begin) = (newest.digest(), exchange.sent);
        let live = Some(LiveLease { release, begin, end, statements: longest });
        if self.live == live {
            return Ok(Accepted::Known);
        }
        (self.live, self.leased) = (live, None);
        // The issuers know the root that this lease names, so what its keys no longer sign goes now.
        if self.denials.drop_unsigned() {
            self.mark();
        }
        Ok(Accepted::New)
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
            .map(|indexed| &indexed.release)
            .find(|release| release.digest() == digest)
    }

    /// How many denials were handed in since boot, lifted ones too.
    #[must_use]
    pub fn denials_known(&self) -> usize {
        self.denials.len()
    }

    /// Whether the denial with this digest was handed in with a good signature.
    #[must_use]
    pub fn knows_denial(&self, digest: &Sha256Digest) -> bool {
        self.denials.contains(digest)
    }

    /// The denials that the newest release does not lift.
    pub fn denials_in_force(&self) -> impl Iterator<Item = (&Sha256Digest, &Target)> {
        self.denials.halted(self.newest.as_ref().map_or(&*NOTHING, |newest| &newest.lifted))
    }

    /// What a lease for the newest release lists: for each model, partner and attribute of it that is halted one denial, or `None` where no
    /// key of the root stands by the halt any more. `None` for all of it without a release.
    ///
    /// A halt of something that the release does not name has no effect under it, and need not be listed.
    pub(super) fn denials_to_list(&self) -> Option<Vec<Option<Sha256Digest>>> {
        let newest = self.newest.as_ref()?;
        let denials = self.denials.by_target(&newest.lifted);
        Some(newest.halted().map(|target| denials.get(&target).copied().flatten()).collect())
    }

    /// The model `id` in the newest release. A model that has to be erased is one whose state is [`ModelState::Revoked`].
    #[must_use]
    pub fn model(&self, id: &str) -> Option<ModelStatus> {
        let newest = self.newest.as_ref()?;
        let model = newest.release.model(id)?;
        Some(ModelStatus { sha256: model.sha256, state: model.state, denied: newest.model_denied(id) })
    }

    /// What judges requests to the model `id`: the safeguards of the newest release and, until that one is leased itself, those
    /// of the leased one too.
    pub fn safeguards(&self, id: &str) -> impl Iterator<Item = &Safeguards> {
        let releases = [&self.newest, &self.leased].into_iter().flatten();
        releases.filter_map(move |indexed| indexed.release.model(id)?.safeguards.as_ref())
    }

    /// What of exchanges with the model `id` is kept: the retention of the leased release, and until it is leased that of the newest
    /// one, too.
    pub fn retention(&self, id: &str) -> impl Iterator<Item = &Retention> {
        let releases = [&self.leased, &self.newest].into_iter().flatten();
        releases.filter_map(move |indexed| indexed.release.model(id)?.retention.as_ref())
    }

    /// The newest release and, until that one is leased itself, the leased one too.
    pub fn releases(&self) -> impl Iterator<Item = &Verified<Release>> {
        [&self.newest, &self.leased].into_iter().flatten().map(|indexed| &indexed.release)
    }

    /// The partner with this key in the newest release.
    #[must_use]
    pub fn partner(&self, key: &Sha256Digest) -> Option<&Partner> {
        self.newest.as_ref()?.partner(key)
    }

    fn release_with(&self, digest: &Sha256Digest) -> Option<&Release> {
        let both = [&self.newest, &self.leased].into_iter().flatten();
        both.map(|indexed| &indexed.release).find(|release| release.digest() == *digest).map(|found| &**found)
    }

    fn mark(&mut self) {
        for indexed in [&mut self.newest, &mut self.leased].into_iter().flatten() {
            indexed.mark(&self.denials);
        }
    }
}
