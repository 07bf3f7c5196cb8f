//! The inference engine: bytes of a model in, tokens out.
//!
//! This crate knows nothing of networks, keys, enclaves or partners. It reads a GGUF file that is assumed hostile, and runs
//! it for many sequences at once:
//!
//! ```text
//! Model::from_gguf(bytes) ─► Model ─► Prompt (tokens, zeroised)
//!                              │
//!                       Engine::start ─► Engine::submit(Job) ─► Sink::event(Text …) … Sink::event(Finished)
//! ```
//!
//! Prompts and completions are held in types that have neither `Debug` nor `Display` and are zeroised on drop.
