//! What a release demands of the witnesses of an enclave's log.

use super::checkpoint::SignedCheckpoint;
use super::cosignature::WitnessKey;
use crate::digest::Sha256Digest;
use crate::release::{AuditRules, Release, Role, Root};

/// So many of these witnesses must have cosigned the log, and it may run ahead of that for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessRule {
    keys: Vec<WitnessKey>,
    needed: u64,
    within_ms: u64,
}

impl WitnessRule {
    /// The rule of a release under a root. `None` when the release names no witnesses.
    #[must_use]
    pub fn of(root: &Root, release: &Release) -> Option<Self> {
        let AuditRules { checkpoint_seconds, witnesses } = release.audit;
        if release.witnesses.is_empty() {
            return None;
        }
        let named = root.keys_of(Role::Witness).filter(|key| {
            // The root names each key once, under one name.
            release.witnesses.iter().any(|witness| witness.key == key.name)
        });
        let keys =
            named.filter_map(|key| WitnessKey::new(key.name.as_str(), key.spki.clone()).ok()).collect();
        Some(Self { keys, needed: witnesses, within_ms: checkpoint_seconds.saturating_mul(1000) })
    }

    /// The witnesses.
    #[must_use]
    pub fn keys(&self) -> &[WitnessKey] {
        &self.keys
    }

    /// How many of them must have cosigned.
    #[must_use]
    pub const fn needed(&self) -> u64 {
        self.needed
    }

    /// How long the log may run ahead of its last witnessed checkpoint, in milliseconds.
    #[must_use]
    pub const fn within_ms(&self) -> u64 {
        self.within_ms
    }

    /// Names the rule: other keys, another number or another time make another digest.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        let Self { keys, needed, within_ms } = self;
        // A key's written form has no newline.
        let mut text = format!("cleanroom/witness-rule/1\n{needed} {within_ms}\n");
        keys.iter().for_each(|key| text.push_str(&format!("{key}\n")));
        Sha256Digest::of(&[text.as_bytes()])
    }

    /// Whether enough of the witnesses have cosigned `note`. Each key counts once, however many lines it has there.
    #[must_use]
    pub fn is_met_by(&self, note: &SignedCheckpoint) -> bool {
        self.keys.iter().filter(|key| key.cosigned(note).is_some()).count() as u64 >= self.needed
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::tests::Signer;
    use super::*;
    use crate::release::PublicKey;

    fn witness(seed: u8) -> (Signer, WitnessKey) {
        let signer = Signer::new(seed);
        let key =
            WitnessKey::new(&format!("w{seed}"), PublicKey::from_spki(&signer.spki()).unwrap()).unwrap();
        (signer, key)
    }

    #[test]
    fn a_quorum_is_of_keys_and_not_of_lines() {
        let witnesses: Vec<_> = (1..=3).map(witness).collect();
        let keys = witnesses.iter().map(|(_, key)| key.clone()).collect();
        let rule = WitnessRule { keys, needed: 2, within_ms: 60_000 };
        let log = Signer::new(9);
        let note = SignedCheckpoint::parse(&log.checkpoint(7, Sha256Digest::of(&[b"root"]))).unwrap();
        let cosign = |note: &SignedCheckpoint, (signer, key): &(Signer, WitnessKey), at: u64| {
            note.with(key.cosignature(at, &signer.sign(&WitnessKey::message(note, at))))
        };
        assert!(!rule.is_met_by(&note));
        let one = cosign(&note, &witnesses[0], 5);
        assert!(!rule.is_met_by(&one));
        assert!(!rule.is_met_by(&cosign(&one, &witnesses[0], 6)), "one witness twice");
        assert!(!rule.is_met_by(&cosign(&one, &witness(4), 5)), "a stranger");
        // A stranger's key under the name of a witness, and a witness's line of another checkpoint.
        let (stranger, _) = witness(4);
        assert!(!rule.is_met_by(&cosign(&one, &(stranger, witnesses[1].1.clone()), 5)));
        let older = SignedCheckpoint::parse(&log.checkpoint(6, Sha256Digest::of(&[b"root"]))).unwrap();
        let line = cosign(&older, &witnesses[1], 5).signatures()[1].clone();
        assert!(!rule.is_met_by(&one.with(line)));
        assert!(rule.is_met_by(&cosign(&one, &witnesses[2], 5)));
    }

    #[test]
    fn every_part_of_a_rule_is_in_its_name() {
        let (_, one) = witness(1);
        let (_, two) = witness(2);
        let rule = WitnessRule { keys: vec![one.clone()], needed: 1, within_ms: 1000 };
        for other in [
            WitnessRule { keys: vec![one, two.clone()], ..rule.clone() },
            WitnessRule { keys: vec![two], ..rule.clone() },
            WitnessRule { needed: 2, ..rule.clone() },
            WitnessRule { within_ms: 2000, ..rule.clone() },
        ] {
            assert_ne!(other.digest(), rule.digest());
        }
    }
}
