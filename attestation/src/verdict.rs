//! What a verifier concluded, axis by axis.
