//! What memory holds once nobody uses it any more: zero bytes.
//!
//! The project's own types for prompts, answers and keys erase themselves. The buffers of TLS, HTTP and JSON in libraries do not, so
//! both programs of the enclave erase whatever is given back, with this as their global allocator.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// The system's allocator, and every block erased before it gets it back. A block that grows is copied and erased.
pub type ErasingAllocator = ZeroAlloc<System>;

/// For `#[global_allocator]`.
pub const ERASING_ALLOCATOR: ErasingAllocator = ZeroAlloc(System);
