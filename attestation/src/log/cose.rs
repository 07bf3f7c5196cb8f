//! What makes a log's checkpoint a COSE receipt, too (RFC 9942): the receipt key signs the root once more, as the detached payload of
//! a `COSE_Sign1` (RFC 9052).
//!
//! The protected header is `{1: -8, 4: boot, 395: 1}`: `EdDSA`, the boot as the key's name, and the structure `RFC9162_SHA256`. It is
//! the same for each checkpoint of a boot, so whoever has the boot, the root and the signature can write the receipt of every entry.

use crate::digest::Sha256Digest;

/// What stands between name and key where the id of the second signature's key is computed: the type for kinds without a number of
/// their own, and a name that is long enough to be alone (C2SP `signed-note`).
pub(super) const KEY_KIND: &[u8] = b"\xffcleanroom/cose-receipt/1";

/// The protected header of every COSE receipt of a boot, in CBOR (RFC 8949 section 4.2.1).
#[must_use]
pub fn cose_protected(boot: &Sha256Digest) -> Vec<u8> {
    let algorithm = [0x01, 0x27];
    let structure = [0x19, 0x01, 0x8b, 0x01];
    [&[0xa3], &algorithm[..], &[0x04, 0x58, 0x20], boot.as_bytes(), &structure].concat()
}

/// What is signed: the `Sig_structure` (RFC 9052 section 4.4) over the protected header and the root.
#[must_use]
pub fn cose_to_be_signed(boot: &Sha256Digest, root: &Sha256Digest) -> Vec<u8> {
    let protected = cose_protected(boot);
    let protected_head = [0x58, u8::try_from(protected.len()).unwrap_or(u8::MAX)];
    [&[0x84, 0x6a], &b"Signature1"[..], &protected_head, &protected, &[0x40, 0x58, 0x20], root.as_bytes()]
        .concat()
}
