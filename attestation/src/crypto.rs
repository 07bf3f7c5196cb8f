//! The cryptographic backend, chosen by feature. Both crates offer the same interface, so one alias serves both and the rest
//! of the crate does not know which one it runs on.

#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs as backend;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use ring as backend;
