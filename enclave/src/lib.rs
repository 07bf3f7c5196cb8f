//! What runs inside the enclave: trusted with data.
