//! Starts enclaves and keeps them running. One module for each tier.

pub mod simulated;
