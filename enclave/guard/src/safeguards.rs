//! What release control knows of the safeguards: which policies are here, and which partners are held.

use std::collections::{HashMap, HashSet};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{BootMillis, Id, Phase, Refusal, TrustedState};

/// The policies that are here, and the partners that are held. Bounded by the two releases that can be in force.
#[derive(Debug)]
pub(super) struct Safeguards {
    pub(super) policies: HashSet<Sha256Digest>,
    /// By the name of the partner: the release that was the newest when it reached a limit.
    pub(super) held: HashMap<Id, Sha256Digest>,
    /// Until when records can be sealed, by the machine's own clock.
    pub(super) seals_until: BootMillis,
}

/// The digests of the policies that judge requests to the model `id`, each once.
pub(super) fn policies(state: &TrustedState, id: &str) -> Vec<Sha256Digest> {
    let mut policies: Vec<_> = state.safeguards(id).map(|safeguards| safeguards.policy).collect();
    policies.dedup();
    policies
}

impl Default for Safeguards {
    fn default() -> Self {
        Self { policies: HashSet::new(), held: HashMap::new(), seals_until: BootMillis(0) }
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
        Ok(())
    }

    /// Whether the release under which the partner was held is still in force.
    pub(super) fn holds(&self, state: &TrustedState, partner: &Id) -> bool {
        self.held.get(partner).is_some_and(|release| state.releases().any(|known| known == *release))
    }

    /// Lets go of what the releases in `state` no longer need.
    pub(super) fn forget(&mut self, state: &TrustedState, model: &str) {
        let named = policies(state, model);
        self.policies.retain(|policy| named.contains(policy));
        self.held.retain(|_, release| state.releases().any(|known| known == *release));
    }
}
