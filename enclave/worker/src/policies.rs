//! The safeguard policies that are here, read and ready to judge.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_console::{Code, Line};
use cleanroom_safeguard::Policy;

/// Policies by the digest of their file. Whoever reads the releases says which ones are kept.
#[derive(Default)]
pub(crate) struct Policies(RwLock<HashMap<Sha256Digest, Arc<Policy>>>);

impl Policies {
    /// Reads a policy. Whether it can judge: one that cannot be read is as good as none.
    pub(crate) fn read(&self, bytes: &[u8]) -> bool {
        match Policy::read(bytes) {
            Ok(policy) => {
                let digest = Sha256Digest::from_bytes(policy.digest());
                self.0.write().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::new(policy));
                true
            }
            Err(error) => {
                // The file's own words stay out of the log.
                Line::PolicyUnreadable { reason: Code::of(error.code()) }.say();
                false
            }
        }
    }

    /// Lets go of every policy but those that are `named`.
    pub(crate) fn keep(&self, named: &[Sha256Digest]) {
        let mut policies = self.0.write().unwrap_or_else(PoisonError::into_inner);
        policies.retain(|digest, _| named.contains(digest));
    }

    /// The policies that are `named`; `None` when one of them is not here.
    pub(crate) fn find(&self, named: &[Sha256Digest]) -> Option<Vec<Arc<Policy>>> {
        let policies = self.0.read().unwrap_or_else(PoisonError::into_inner);
        named.iter().map(|digest| policies.get(digest).cloned()).collect()
    }
}
