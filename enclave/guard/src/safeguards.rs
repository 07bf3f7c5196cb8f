//! What stands beside the documents of release control: which policies are here, which partners are held, until when records can be
//! sealed, and until when the log is witnessed.

use std::collections::{HashMap, HashSet};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::WitnessRule;
use cleanroom_attestation::release::{BootMillis, Id, Phase, Refusal, TrustedState};

/// The policies that are here, and the partners that are held. Bounded by the two releases that can be in force.
#[derive(Debug)]
pub(super) struct Safeguards {
    pub(super) policies: HashSet<Sha256Digest>,
    /// By the name of the partner: the release that was the newest when it reached a limit.
    pub(super) held: HashMap<Id, Sha256Digest>,
    /// Until when records can be sealed, by the machine's own clock.
    pub(super) seals_until: BootMillis,
    /// By the digest of a rule in force: until when the log counts as witnessed by it. Not before the first cosignatures.
    witnessed: HashMap<Sha256Digest, BootMillis>,
}

/// What the releases in `state` demand of the log's witnesses, each once.
pub(super) fn witness_rules(state: &TrustedState) -> Vec<WitnessRule> {
    let mut rules: Vec<_> =
        state.releases().filter_map(|release| WitnessRule::of(state.root(), release)).collect();
    rules.dedup();
    rules
}

/// The digests of the policies that judge requests to the model `id`, each once.
pub(super) fn policies(state: &TrustedState, id: &str) -> Vec<Sha256Digest> {
    let mut policies: Vec<_> = state.safeguards(id).map(|safeguards| safeguards.policy).collect();
    policies.dedup();
    policies
}

impl Default for Safeguards {
    fn default() -> Self {
        Self {
            policies: HashSet::new(),
            held: HashMap::new(),
            seals_until: BootMillis(0),
            witnessed: HashMap::new(),
        }
    }
}

impl Safeguards {
    /// Whether a permitted partner may begin or go on.
    pub(super) fn check(
        &self,
        state: &TrustedState,
        model: &str,
        partner_key: &Sha256Digest,
        phase: Phase,
        now: BootMillis,
    ) -> Result<(), Refusal> {
        if state.partner(partner_key).is_some_and(|partner| self.holds(state, &partner.id)) {
            return Err(Refusal::PartnerHeld);
        }
        // What runs is judged by the policies that it began under.
        let missing = |policy| !self.policies.contains(&policy);
        if phase == Phase::Start && policies(state, model).into_iter().any(missing) {
            return Err(Refusal::SafeguardMissing);
        }
        // What runs was begun when a record could be sealed.
        if phase == Phase::Start && state.retention(model).next().is_some() && now >= self.seals_until {
            return Err(Refusal::RetentionMissing);
        }
        // What runs was begun when the log was witnessed, and ends with a receipt.
        if phase == Phase::Start && self.witnessed_until_all().is_some_and(|until| now >= until) {
            return Err(Refusal::Unwitnessed);
        }
        Ok(())
    }

    /// Whether the release under which the partner was held is still in force.
    pub(super) fn holds(&self, state: &TrustedState, partner: &Id) -> bool {
        self.held.get(partner).is_some_and(|release| is_in_force(state, release))
    }

    /// Lets go of what the releases in `state` no longer need.
    pub(super) fn forget(&mut self, state: &TrustedState, model: &str) {
        let named = policies(state, model);
        self.policies.retain(|policy| named.contains(policy));
        self.held.retain(|_, release| is_in_force(state, release));
        // A rule that is new has not been met by anything yet.
        let known = std::mem::take(&mut self.witnessed);
        self.witnessed = witness_rules(state)
            .iter()
            .map(WitnessRule::digest)
            .map(|rule| (rule, known.get(&rule).copied().unwrap_or(BootMillis(0))))
            .collect();
    }

    /// The log is witnessed by the rule with this digest until then. Nothing changes for a rule that is not in force, or for an
    /// earlier time.
    pub(super) fn witness(&mut self, rule: &Sha256Digest, until: BootMillis) {
        if let Some(known) = self.witnessed.get_mut(rule) {
            *known = until.max(*known);
        }
    }

    /// Until when the log is witnessed by every rule in force; nothing without such a rule.
    pub(super) fn witnessed_until_all(&self) -> Option<BootMillis> {
        self.witnessed.values().min().copied()
    }

    /// Until when the log is witnessed by the rule with this digest.
    pub(super) fn witnessed_until(&self, rule: &Sha256Digest) -> BootMillis {
        self.witnessed.get(rule).copied().unwrap_or(BootMillis(0))
    }
}

/// Whether the release with this digest is the newest one, or the leased one until the newest is leased.
fn is_in_force(state: &TrustedState, release: &Sha256Digest) -> bool {
    state.releases().any(|known| known.digest() == *release)
}
