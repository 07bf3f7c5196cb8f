//! The attested channel on a stream: what the enclave's end and the partner's end share.
//!
//! [`tls`] is the TLS profile (one version, one group, mutual certificates, nothing resumed), [`identity`] the key and
//! certificate that an end presents, and [`frames`] reads and writes the frames of the exchange. What the frames *mean* is
//! computed in [`cleanroom_attestation::channel`]; who asks and who answers is the business of the enclave and the partner.

#![forbid(unsafe_code)]

pub mod frames;
pub mod identity;
pub mod tls;
