//! Attestation documents: the COSE_Sign1 envelope (RFC 9052) and its CBOR payload.
