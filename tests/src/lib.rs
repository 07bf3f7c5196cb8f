//! What the end-to-end tests share: the attester's end alone ([`room`]), an attester that lies on request ([`liar`]), a whole clean
//! room behind a recording relay ([`house`]), and a plain client ([`client`]).

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "this crate is tests only: a failure of its own parts is a failure of the test"
)]

pub mod client;
pub mod house;
pub mod liar;
pub mod room;
