//! Measurements: from an enclave image file (EIF) to its PCRs.
