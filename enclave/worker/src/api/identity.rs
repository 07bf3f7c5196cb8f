//! The identity of one answer.

/// What identifies one answer.
pub(crate) struct Identity<'a> {
    /// Unpredictable, and in need of no escaping in JSON, as are the model and the fingerprint.
    pub(crate) id: &'a str,
    /// Seconds since 1970 by the enclave's clock: for people to read, not evidence.
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) fingerprint: &'a str,
}
