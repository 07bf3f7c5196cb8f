//! The attested channel `cleanroom/1`: the computations of both ends.
//!
//! TLS 1.3 ends inside the enclave. Before any application byte, one exchange on that connection proves the enclave to the
//! partner (`docs/protocol.md` is the specification):
//!
//! ```text
//! partner → enclave   Hello      nonce, model id
//! enclave → partner   Evidence   attestation document, release, lease, model digest, signature of the receipt key
//! partner → enclave   Finished   HMAC that only this connection's partner can compute
//! ```
//!
//! Everything here is a pure function of bytes, so that the attester and the relying party cannot drift apart: there is one
//! [`Transcript`], one [`Exchange`] and one set of frames, and both ends call them.

mod encoding;
mod exchange;
mod frame;
mod key;
mod purpose;
mod shared_nonce;
mod shown_lease;
mod stream_end;
mod transcript;

pub use encoding::{Fields, length_prefixed};
pub use exchange::{Exchange, FINISHED_BYTES, FinishedKey, SERVER_FINISHED_TAG};
pub use frame::{
    EvidenceFrame, FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind, HelloFrame, MAX_DOCUMENT_BYTES,
    MAX_LEASE_BYTES, MAX_RELEASE_BYTES, RefusalCode, encode_frame,
};
pub use key::key_digest;
pub use purpose::{
    EvidenceRequest, KeyReleaseEvidence, KmsEvidence, PublicAttestation, Purpose, boot_measurement,
};
pub use shared_nonce::{NoncePath, SharedNonces};
pub use shown_lease::ShownLease;
pub use stream_end::{STREAM_END_TAG, StreamEnd};
pub use transcript::{Binder, ModelId, ModelIdError, Nonce, Transcript};

/// The application protocol (RFC 7301) of this version of the channel.
pub const ALPN: &[u8] = b"cleanroom/1";

/// The label under which both ends export keying material (RFC 8446 section 7.5, RFC 5705).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-cleanroom-attest-v1";

/// Who a piece of exported keying material speaks for. An exporter alone is symmetric: without the role, a message could be
/// reflected to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The enclave, which attests.
    Server,
    /// The partner, who verifies.
    Client,
}

impl Role {
    /// The exporter context of this role: `LP(role) LP(nonce)`.
    #[must_use]
    pub fn exporter_context(self, nonce: &Nonce) -> Vec<u8> {
        let role: &[u8] = match self {
            Self::Server => b"server",
            Self::Client => b"client",
        };
        length_prefixed(&[role, nonce.as_bytes()])
    }
}

#[cfg(test)]
mod tests;
