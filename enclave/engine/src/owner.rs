//! The owner of a job.

/// Whom a job is for. The engine only tells equal owners from different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner(pub [u8; 32]);
