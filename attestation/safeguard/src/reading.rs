//! How text is read: what each character counts as, and which hidden text is in it.

mod decode;
mod fold;
mod layer;
mod streams;

pub(crate) use self::fold::{fold_text, rotate};
pub(crate) use self::layer::{Layer, MAX_LAYERS};
pub(crate) use self::streams::{LONGEST_TIGHT_BYTES, lookalike, words_of};
