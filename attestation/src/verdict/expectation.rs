//! A session's expectations of the evidence.

use crate::digest::Sha384Digest;

/// What this session expects of the evidence, beyond what the policy says. A field that is `None` is not asked about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expectation<'a> {
    /// The challenge that was sent, whole. Compared in constant time.
    pub nonce: Option<&'a [u8]>,
    /// The user data that the session's transcript gives.
    pub user_data: Option<&'a [u8]>,
    /// The public key that the session knows of.
    pub public_key: Option<&'a [u8]>,
    /// PCR 16 as the expected model gives it. In a document of a `NitroTPM`, register 14 has to be this value, closed
    /// ([`Registers::closed`](crate::channel::boot_measurement::Registers::closed)).
    pub pcr16: Option<Sha384Digest>,
    /// PCR 17 as the expected receipt key gives it; register 15 of a `NitroTPM`, closed likewise.
    pub pcr17: Option<Sha384Digest>,
}

/// The shortest nonce, in bytes, that makes a session fresh.
pub const MIN_SESSION_NONCE_LENGTH: usize = 16;
