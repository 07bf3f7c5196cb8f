//! Memory is erased when it is freed.
//!
//! The project's own types for prompts, answers and keys erase themselves. The buffers of TLS, HTTP and JSON libraries do not.
//! So every program of an enclave uses this global allocator, which erases each block that is given back.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// The system's allocator, and every block erased before it gets it back. A block that grows is copied and erased.
pub type ErasingAllocator = ZeroAlloc<System>;

/// For `#[global_allocator]`.
pub const ERASING_ALLOCATOR: ErasingAllocator = ZeroAlloc(System);
