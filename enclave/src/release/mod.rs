//! Release control inside the enclave: nothing is served that the authorities have not released and leased.
//!
//! ```text
//! host ─► control (bounded frames) ─► Guard ─► TrustedState of the attestation library
//!                                       │
//!               session start, request, token: may this partner use this model now?
//! ```
//!
//! A deployment whose measured configuration names no root has no [`Guard`] and serves as the configuration alone says.

mod control;
mod guard;
mod pass;

pub(crate) use control::serve;
pub use guard::{AskError, Clock, Guard};
pub(crate) use guard::{Evidence, SignedEnd};
pub use pass::{Pass, Stop};
