//! Release control inside the enclave: nothing is served that the authorities have not released and leased.
//!
//! ```text
//! host ─► the keeper's control connection ─► Guard ─► TrustedState of the attestation library
//!                      every change             │      may this session begin, and with what evidence?
//!                                               ▼
//!                                      the worker's Guard    request, token: may this partner use this model now?
//! ```
//!
//! The keeper's guard stands for what is shown and signed. The worker's is a copy that follows every change, because a question to
//! another process at every token would cost more than the token's sampling. A worker that does not follow gets no evidence for
//! new sessions all the same.
//!
//! A deployment whose measured configuration names no root has no [`Guard`] and serves as the configuration alone says.

mod guard;
mod pass;

pub use guard::{Clock, Guard};
pub(crate) use guard::{Evidence, Standing};
pub use pass::{Pass, Stop};
