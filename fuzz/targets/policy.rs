//! Text as a policy: reading never panics, and a policy that is accepted can refuse.

#![no_main]

use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::verdict::{Expectation, Outcome, appraise};
use cleanroom_fuzz::NOW;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let policy = match Policy::from_toml(text) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(!policy.anchors().is_empty());
    assert!(!policy.images().is_empty() || !policy.tpm_images().is_empty());
    for (index, anchor) in policy.anchors().iter().enumerate() {
        let others = policy.anchors().get(index + 1..).unwrap_or_default();
        assert!(
            others.iter().all(|other| other.name() != anchor.name() && other.sha256() != anchor.sha256())
        );
    }
    if let Some(deployment) = policy.deployment() {
        assert!(deployment.registers().count() > 0);
        assert!(deployment.registers().all(|(_, values)| !values.is_empty()));
    }
    let verdict = appraise(b"not a document", &policy, &Expectation::default(), NOW, None);
    assert_eq!(verdict.outcome(), Outcome::Fail);
    assert_eq!(Policy::from_toml(text).as_ref(), Ok(&policy), "reading is a function of the text");
});
