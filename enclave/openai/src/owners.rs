//! What keeps the beginnings of prompts of one owner apart from those of all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cleanroom_backend::{Handle, Owner};

/// Random bytes in one engine's caches: an entry made under one salt is found under that salt alone.
pub(crate) type Salt = [u8; 32];

/// The salts of the owners that are there. They are random, so each lasts no longer than the owner's presence or this boot.
#[derive(Default)]
pub(crate) struct Owners(Mutex<HashMap<Owner, Present>>);

struct Present {
    salt: Option<Salt>,
    handles: usize,
}

impl Owners {
    /// Says that an owner is there, until the handle is dropped.
    pub(crate) fn presence(self: &Arc<Self>, owner: Owner) -> Handle {
        let mut owners = self.lock();
        let present = owners.entry(owner).or_insert(Present { salt: None, handles: 0 });
        present.handles = present.handles.saturating_add(1);
        drop(owners);
        Handle::new(Leaving { owners: Arc::clone(self), owner })
    }

    pub(crate) fn present(&self) -> Vec<Owner> {
        self.lock().keys().copied().collect()
    }

    /// Nothing that was cached for the owner is found again.
    pub(crate) fn forget(&self, owner: Owner) {
        if let Some(present) = self.lock().get_mut(&owner) {
            present.salt = None;
        }
    }

    /// The owner's salt. One that is not there gets one for this time alone. `None` without random numbers.
    pub(crate) fn salt(&self, owner: Owner) -> Option<Salt> {
        let fresh = random();
        match self.lock().get_mut(&owner) {
            Some(present) => {
                present.salt = present.salt.or(fresh);
                present.salt
            }
            None => fresh,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, Present>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Leaving {
    owners: Arc<Owners>,
    owner: Owner,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut owners = self.owners.lock();
        let Some(present) = owners.get_mut(&self.owner) else { return };
        present.handles = present.handles.saturating_sub(1);
        if present.handles == 0 {
            owners.remove(&self.owner);
        }
    }
}

/// The kernel's random numbers.
fn random() -> Option<Salt> {
    let mut salt = Salt::default();
    let count = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty()).ok()?;
    (count == salt.len()).then_some(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_one_owner_s_and_ends_with_its_presence() {
        let (owners, [first, second]) = (Arc::new(Owners::default()), [Owner([1; 32]), Owner([2; 32])]);
        assert_ne!(owners.salt(first), owners.salt(first), "an owner that is not there keeps none");
        let handles = (owners.presence(first), owners.presence(first), owners.presence(second));
        let salt = owners.salt(first).unwrap();
        assert_eq!(owners.salt(first), Some(salt));
        assert_ne!(owners.salt(second), Some(salt));
        drop(handles.0);
        assert_eq!(owners.salt(first), Some(salt));
        owners.forget(first);
        assert_ne!(owners.salt(first), Some(salt));
        let salt = owners.salt(first);
        drop(handles.1);
        assert_eq!(owners.present(), [second]);
        let _again = owners.presence(first);
        assert_ne!(owners.salt(first), salt);
    }
}
