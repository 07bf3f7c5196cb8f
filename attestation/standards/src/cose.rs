//! A receipt's place in the log as a COSE receipt (RFC 9942).

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::cose_protected;
use coset::cbor::Value;
use coset::{CoseError, CoseSign1, Header, Label, ProtectedHeader, TaggedCborSerializable as _};

/// The header parameter of verifiable data proofs, and inclusion proofs among them (RFC 9942).
const PROOFS: i64 = 396;
const INCLUSION: i64 = -1;

/// The library could not encode a receipt.
pub type Encoding = CoseError;

/// An entry's place in the log of a boot.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The boot.
    pub boot: &'a Sha256Digest,
    /// The entry's index.
    pub index: u64,
    /// How many entries the log has.
    pub size: u64,
    /// The path from the entry to the root (RFC 9162 section 2.1.3).
    pub path: &'a [Sha256Digest],
}

/// The COSE receipt of the entry at `place`: a tagged `COSE_Sign1` with the proof in its unprotected header and the root as detached
/// payload. `signature` is that of the checkpoint of this size
/// ([`cose_signature`](cleanroom_attestation::log::SignedCheckpoint::cose_signature)).
///
/// # Errors
/// What the encoder says. It has nothing to refuse here.
pub fn cose_receipt(place: &Place<'_>, signature: &[u8]) -> Result<Vec<u8>, Encoding> {
    let path = place.path.iter().map(|hash| Value::Bytes(hash.as_bytes().to_vec())).collect();
    let proof = Value::Array(vec![Value::from(place.size), Value::from(place.index), Value::Array(path)]);
    let mut encoded = Vec::new();
    coset::cbor::ser::into_writer(&proof, &mut encoded).map_err(|_| CoseError::EncodeFailed)?;
    let proofs = Value::Map(vec![(Value::from(INCLUSION), Value::Array(vec![Value::Bytes(encoded)]))]);
    let receipt = CoseSign1 {
        protected: ProtectedHeader::from_cbor_bstr(Value::Bytes(cose_protected(place.boot)))?,
        unprotected: Header { rest: vec![(Label::Int(PROOFS), proofs)], ..Header::default() },
        payload: None,
        signature: signature.to_vec(),
    };
    receipt.to_tagged_vec()
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::log::cose_to_be_signed;

    use super::*;

    #[test]
    fn what_the_enclave_signs_is_what_the_receipt_says() {
        let (boot, root) = (Sha256Digest::of(&[b"boot"]), Sha256Digest::of(&[b"root"]));
        let path = [Sha256Digest::of(&[b"one"]), Sha256Digest::of(&[b"two"])];
        let bytes = cose_receipt(&Place { boot: &boot, index: 3, size: 4, path: &path }, &[7; 64]).unwrap();
        let read = CoseSign1::from_tagged_slice(&bytes).unwrap();
        assert_eq!((read.payload.as_ref(), read.signature.as_slice()), (None, &[7; 64][..]));
        // The library makes the bytes that are signed from the receipt; the log makes them from the checkpoint.
        let mut seen = None;
        read.verify_detached_signature(root.as_bytes(), b"", |signature, signed| {
            seen = Some((signature.to_vec(), signed.to_vec()));
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!(seen, Some((vec![7; 64], cose_to_be_signed(&boot, &root))));
        let header = read.protected.header;
        assert_eq!(header.alg, Some(coset::Algorithm::Assigned(coset::iana::Algorithm::EdDSA)));
        assert_eq!(header.key_id, boot.as_bytes());
        assert_eq!(header.rest, [(Label::Int(395), Value::from(1))]);
    }
}
