//! How a request to a broker begins: for a key of weights, for the secret of a day, and for a part of a record.

use cleanroom_attestation::channel::{ModelId, Nonce};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::Id;
use cleanroom_guard::DocumentsInForce;
use cleanroom_key_release::{RecipientKey, ShareRequest};

/// The request to `broker`, which gave `challenge`. It has no attestation document yet. `None` when the challenge is no nonce.
pub(crate) fn unattested(
    challenge: &[u8],
    broker: Id,
    (model_id, model_digest): (ModelId, Sha256Digest),
    documents: DocumentsInForce,
    recipient: RecipientKey,
) -> Option<ShareRequest> {
    let nonce = <[u8; Nonce::LENGTH]>::try_from(challenge).ok()?;
    let DocumentsInForce { root_version, root, release, lease } = documents;
    Some(ShareRequest {
        nonce: Nonce::from_bytes(nonce),
        broker,
        model_id,
        model_digest,
        root_version,
        root,
        release,
        lease,
        recipient,
        document: Vec::new(),
    })
}
