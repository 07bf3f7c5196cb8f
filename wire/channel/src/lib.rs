//! The attested channel on a stream: the code that the enclave's end and the partner's end share.
//!
//! [`tls`] is the TLS profile (one version, one group, mutual certificates, nothing resumed), [`identity`]
//! the key and certificate that an end presents, and [`frames`] reads and writes the frames of the exchange.
//! [`first_byte`] tells when a peer first spoke.
//! [`cleanroom_attestation::channel`] computes the *meaning* of the frames. The enclave and the partner
//! decide who asks and who answers.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

pub mod first_byte;
pub mod frames;
pub mod identity;
pub mod tls;
