//! A `NitroTPM` in software: a front that stands between QEMU and swtpm and adds what AWS's TPM has and swtpm has not.
//!
//! AWS's TPM has a vendor command, 0x20000001. Its caller defines an NV index of 8192 bytes, writes a request to it, names it
//! in the command, and reads the answer from it: an attestation document with the TPM's registers. swtpm knows no such
//! command, and no index of more than 2048 bytes.
//!
//! [`front::serve`] passes everything on between QEMU and swtpm, but for the TPM commands that [`device::Device`] changes. It
//! decides nothing about authorisation. For each large index swtpm has an index of one byte with the same handle, attributes
//! and authorisation value. Each command on the large index is first done on the small one, with the caller's own
//! authorisation, and what swtpm refuses stays refused.
//!
//! # What it cannot do
//!
//! A caller that uses HMAC sessions for these commands is refused ([`device::AUTH_TYPE`]): the front changes lengths, which
//! such a session protects, and has no part in the session's key. Callers authorise with passwords. Between a guest and its
//! platform nothing else can listen. AWS's own program `nitro-tpm-attest` uses HMAC sessions, so it gets no document here.
//! The contents of large indexes end with the front.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

pub mod device;
pub mod front;
pub mod guest;
mod wire;
