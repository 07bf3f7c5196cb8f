//! What the end-to-end tests share: a clean room in this process ([`room`]), an attester that lies on request ([`liar`]), and
//! the real programs as processes ([`processes`]).

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "this crate is tests only: a failure of its own parts is a failure of the test"
)]

pub mod liar;
pub mod room;
