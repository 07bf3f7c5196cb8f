//! The safeguard policies that are here, read and ready to judge.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_backend::{LoadError, TextClassifier};
use cleanroom_console::{Code, Line};
use cleanroom_safeguard::{Classifier, Policy, PolicyError};

/// Reads a classifier from the bytes of its file.
pub(crate) type ReadClassifier = fn(&[u8]) -> Result<TextClassifier, LoadError>;

/// Policies by the digest of their file. Whoever reads the releases says which ones are kept.
#[derive(Default)]
pub(crate) struct Policies(RwLock<Kept>);

#[derive(Default)]
struct Kept {
    ready: HashMap<Sha256Digest, Arc<Policy>>,
    /// Policies whose classifiers have not all come.
    waiting: HashMap<Sha256Digest, Policy>,
    /// Classifiers that a policy names, by the digest of their file.
    classifiers: HashMap<Sha256Digest, Arc<Classifier>>,
}

impl Policies {
    /// Reads a policy. Whether it can judge: one that cannot be read is as good as none, and so is one whose
    /// classifiers have not come.
    pub(crate) fn read(&self, bytes: &[u8]) -> bool {
        let read = Policy::read(bytes).and_then(|mut policy| {
            self.kept().classifiers.values().try_for_each(|known| policy.attach(known).map(drop))?;
            Ok(policy)
        });
        match read {
            Ok(policy) => {
                let digest = Sha256Digest::from_bytes(policy.digest());
                self.change().take(digest, policy)
            }
            Err(error) => {
                unreadable(&error);
                false
            }
        }
    }

    /// Reads a classifier that a policy waits for. The digests of the policies that can judge now, and could not.
    pub(crate) fn read_classifier(&self, file: &[u8], read: ReadClassifier) -> Vec<Sha256Digest> {
        let digest = Sha256Digest::of(&[file]);
        let waits = |policy: &Policy| policy.missing().any(|missing| missing == *digest.as_bytes());
        // What nobody asked for is not parsed.
        if !self.kept().waiting.values().any(waits) {
            return Vec::new();
        }
        let Ok(TextClassifier { labels, score }) = read(file) else {
            Line::PolicyUnreadable { reason: Code::of("classifier-unreadable") }.say();
            return Vec::new();
        };
        let classifier = Arc::new(Classifier::new(file, labels.iter().map(String::as_str), score));
        let mut kept = self.change();
        kept.classifiers.insert(digest, Arc::clone(&classifier));
        let mut complete = Vec::new();
        for (digest, mut policy) in std::mem::take(&mut kept.waiting) {
            if let Err(error) = policy.attach(&classifier) {
                unreadable(&error);
            } else if kept.take(digest, policy) {
                complete.push(digest);
            }
        }
        complete
    }

    /// Lets go of every policy but those that are `named`, and of classifiers that none of them names.
    pub(crate) fn keep(&self, named: &[Sha256Digest]) {
        let mut kept = self.change();
        let Kept { ready, waiting, classifiers } = &mut *kept;
        ready.retain(|digest, _| named.contains(digest));
        waiting.retain(|digest, _| named.contains(digest));
        classifiers.retain(|digest, _| {
            let mut policies = ready.values().map(Arc::as_ref).chain(waiting.values());
            policies.any(|policy| policy.classifiers().any(|named| named.sha256 == *digest.as_bytes()))
        });
    }

    /// The policies that are `named`; `None` when one of them is not here.
    pub(crate) fn find(&self, named: &[Sha256Digest]) -> Option<Vec<Arc<Policy>>> {
        let kept = self.kept();
        named.iter().map(|digest| kept.ready.get(digest).cloned()).collect()
    }

    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Kept> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Keeps a policy. Whether it can judge.
    fn take(&mut self, digest: Sha256Digest, policy: Policy) -> bool {
        let is_ready = policy.missing().next().is_none();
        if is_ready {
            self.ready.insert(digest, Arc::new(policy));
        } else {
            self.waiting.insert(digest, policy);
        }
        is_ready
    }
}

/// The file's own words stay out of the log.
fn unreadable(error: &PolicyError) {
    Line::PolicyUnreadable { reason: Code::of(error.code()) }.say();
}
