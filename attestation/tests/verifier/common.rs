//! What the integration tests share.

use cleanroom_attestation::chain::ChainCache;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, Rejection, Verdict, appraise};
use cleanroom_forge::{Forge, NOW, pcr};

/// The time at which forged documents are judged.
pub(crate) const AT: Timestamp = Timestamp::from_seconds(NOW);

/// A policy that trusts the root with this DER and names the image of forged documents, then `more`.
pub(crate) fn policy_text(root: &[u8], more: &str) -> String {
    let root = Sha256Digest::of(&[root]);
    let pcrs = [0, 1, 2].map(|index| format!("pcr{index} = \"{}\"\n", hex::encode(pcr(index))));
    format!(
        "version = 1\n[[trust_anchor]]\nname = \"forge\"\ntier = \"development\"\nsha256 = \"{root}\"\n\
         [[image]]\nname = \"forged image\"\n{}{more}",
        pcrs.concat()
    )
}

pub(crate) fn policy(root: &[u8], more: &str) -> Policy {
    Policy::from_toml(&policy_text(root, more)).unwrap()
}

/// Appraises what the forge makes under a policy that trusts its root, without and with a cache, which must agree.
pub(crate) fn verdict_of(forge: &Forge, more: &str, expected: &Expectation<'_>) -> Verdict {
    let certificates = forge.certificates();
    let document = forge.document_with(&certificates);
    verdict_at(&document, &policy(&certificates[0], more), expected, AT)
}

pub(crate) fn verdict_at(
    document: &[u8],
    policy: &Policy,
    expected: &Expectation<'_>,
    at: Timestamp,
) -> Verdict {
    let plain = appraise(document, policy, expected, at, None);
    let mut cache = ChainCache::new();
    for round in ["filling the cache", "with the chain in the cache", "with the authorities in the cache"] {
        assert_eq!(appraise(document, policy, expected, at, Some(&mut cache)), plain, "{round}");
        if round.contains("with the chain") {
            cache.forget_leaves();
        }
    }
    plain
}

/// `accepted`, or the code of the rejection.
pub(crate) fn code(verdict: &Verdict) -> &'static str {
    verdict.accepted().map_or_else(Rejection::code, |_| "accepted")
}

/// The code for what the forge makes after `change`, judged with no expectation beyond the image.
pub(crate) fn code_after(change: impl FnOnce(&mut Forge)) -> &'static str {
    let mut forge = Forge::new();
    change(&mut forge);
    code(&verdict_of(&forge, "", &Expectation::default()))
}
