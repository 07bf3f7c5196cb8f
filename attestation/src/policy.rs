//! What a relying party accepts: trust anchors and reference values, read once from `trust.toml`.
