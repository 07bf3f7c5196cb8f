//! The attested channel `cleanroom/1`: the transcript that both ends compute.
