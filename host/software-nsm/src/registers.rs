//! Platform configuration registers: 32 of SHA-384, of which the first 16 are locked from the start.

use std::collections::{BTreeMap, BTreeSet};

use aws_nitro_enclaves_nsm_api::api::ErrorCode;
use cleanroom_attestation::digest::Sha384Digest;

use crate::Measurements;

/// How many registers a Nitro Secure Module has.
pub(crate) const COUNT: u16 = 32;

/// The registers below this index are set by the hypervisor and locked before the enclave runs.
pub(crate) const LOCKED_AT_BOOT: u16 = 16;

/// One register.
#[derive(Clone, Copy)]
pub(crate) struct Register {
    pub(crate) value: Sha384Digest,
    pub(crate) locked: bool,
}

/// The register bank.
pub(crate) struct Registers([Register; COUNT as usize]);

impl Registers {
    /// The bank as an enclave with these `measurements` finds it.
    pub(crate) fn at_boot(measurements: &Measurements) -> Self {
        let set: BTreeMap<u16, Sha384Digest> = measurements.registers().collect();
        let mut index = 0;
        Self(std::array::from_fn(|_| {
            let value = set.get(&index).copied().unwrap_or(Measurements::ZERO);
            let register = Register { value, locked: index < LOCKED_AT_BOOT };
            index += 1;
            register
        }))
    }

    pub(crate) fn describe(&self, index: u16) -> Result<Register, ErrorCode> {
        self.0.get(usize::from(index)).copied().ok_or(ErrorCode::InvalidIndex)
    }

    /// Replaces a register's value by SHA384(value ‖ data) and returns it.
    pub(crate) fn extend(&mut self, index: u16, data: &[u8]) -> Result<Sha384Digest, ErrorCode> {
        let register = self.unlocked(index)?;
        register.value = Sha384Digest::of(&[register.value.as_bytes(), data]);
        Ok(register.value)
    }

    pub(crate) fn lock(&mut self, index: u16) -> Result<(), ErrorCode> {
        self.unlocked(index)?.locked = true;
        Ok(())
    }

    /// Locks the registers `0..range`, those already locked included.
    pub(crate) fn lock_below(&mut self, range: u16) -> Result<(), ErrorCode> {
        let registers = self.0.get_mut(..usize::from(range)).ok_or(ErrorCode::InvalidIndex)?;
        for register in registers {
            register.locked = true;
        }
        Ok(())
    }

    pub(crate) fn locked(&self) -> BTreeSet<u16> {
        self.indexed().filter(|(_, register)| register.locked).map(|(index, _)| index).collect()
    }

    /// What a document states: the hypervisor's registers always, the enclave's own once extended or locked.
    pub(crate) fn attested(&self) -> BTreeMap<usize, Vec<u8>> {
        self.indexed()
            .filter(|(index, register)| {
                *index < LOCKED_AT_BOOT || register.locked || register.value != Measurements::ZERO
            })
            .map(|(index, register)| (usize::from(index), register.value.as_bytes().to_vec()))
            .collect()
    }

    fn unlocked(&mut self, index: u16) -> Result<&mut Register, ErrorCode> {
        let register = self.0.get_mut(usize::from(index)).ok_or(ErrorCode::InvalidIndex)?;
        if register.locked { Err(ErrorCode::ReadOnlyIndex) } else { Ok(register) }
    }

    fn indexed(&self) -> impl Iterator<Item = (u16, Register)> {
        (0..COUNT).zip(self.0.iter().copied())
    }
}
