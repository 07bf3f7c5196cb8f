//! Memory for data derived from prompts and answers. It erases itself.
//!
//! Every buffer that ever holds text, tokens, positions, activations, keys, values, scores or the state of a
//! constraint is one of the types here. Each erases the elements that leave it: when it shrinks, when it
//! moves to a larger allocation, and when it is dropped. The memory behind its length therefore never holds
//! old contents, and a reused buffer begins empty of the last request.
//!
//! [`Zeroizing`] alone is not enough. It erases on drop, and misses the remains of `clear`, `truncate` and a
//! growing allocation. A test in `scratch/tests.rs` reads the crate's source and fails on a plain buffer.

use std::{
    collections::BinaryHeap,
    fmt,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
};

use zeroize::{DefaultIsZeroes, Zeroize, Zeroizing};

/// A list that erases the elements that leave it.
pub(crate) struct Scratch<T: Copy>(Vec<T>);

/// Overwrites memory that holds no elements (any more) with zero bytes.
fn erase<T>(memory: &mut [MaybeUninit<T>]) {
    memory.zeroize();
}

impl<T: Copy> Scratch<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Makes room for `additional` more elements. A list that moves erases its old allocation.
    pub(crate) fn reserve(&mut self, additional: usize) {
        let needed = self.0.len().saturating_add(additional);
        if needed > self.0.capacity() {
            let mut larger = Self::with_capacity(needed.max(2 * self.0.capacity()));
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
    }

    pub(crate) fn push(&mut self, element: T) {
        self.reserve(1);
        self.0.push(element);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let last = self.0.last().copied();
        self.truncate(self.0.len().saturating_sub(1));
        last
    }

    pub(crate) fn insert(&mut self, index: usize, element: T) {
        self.reserve(1);
        self.0.insert(index, element);
    }

    pub(crate) fn extend_from_slice(&mut self, elements: &[T]) {
        self.reserve(elements.len());
        self.0.extend_from_slice(elements);
    }

    pub(crate) fn extend(&mut self, elements: impl IntoIterator<Item = T>) {
        let elements = elements.into_iter();
        self.reserve(elements.size_hint().0);
        elements.for_each(|element| self.push(element));
    }

    /// Erases the elements from `length` on.
    pub(crate) fn truncate(&mut self, length: usize) {
        let dropped = self.0.len().saturating_sub(length);
        self.0.truncate(length);
        if let Some(left) = self.0.spare_capacity_mut().get_mut(..dropped) {
            erase(left);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    /// Replaces all elements with `length` new ones. They overwrite the old ones in place, so an equal number
    /// needs no allocation.
    pub(crate) fn replace(&mut self, length: usize, elements: impl Iterator<Item = T>) {
        let mut elements = elements.take(length);
        self.truncate(length);
        self.0.iter_mut().zip(&mut elements).for_each(|(place, element)| *place = element);
        self.reserve(length - self.0.len().min(length));
        self.extend(elements);
    }

    /// Keeps the elements for which `keep` says so.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        let before = self.0.len();
        self.0.retain(keep);
        let dropped = before - self.0.len();
        if let Some(left) = self.0.spare_capacity_mut().get_mut(..dropped) {
            erase(left);
        }
    }
}

impl<T: Copy + Default> Scratch<T> {
    /// `length` default elements.
    pub(crate) fn filled(length: usize) -> Self {
        Self(vec![T::default(); length])
    }
}

impl<T: Copy> Drop for Scratch<T> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<T: Copy> Default for Scratch<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Clone for Scratch<T> {
    fn clone(&self) -> Self {
        Self::from(self.0.as_slice())
    }
}

impl<T: Copy> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Copy> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: Copy> From<&[T]> for Scratch<T> {
    fn from(elements: &[T]) -> Self {
        let mut list = Self::with_capacity(elements.len());
        list.0.extend_from_slice(elements);
        list
    }
}

/// Takes over the allocation, and erases what lies behind its length.
impl<T: Copy + Zeroize> From<Zeroizing<Vec<T>>> for Scratch<T> {
    fn from(mut elements: Zeroizing<Vec<T>>) -> Self {
        let mut list = Self(std::mem::take(&mut *elements));
        erase(list.0.spare_capacity_mut());
        list
    }
}

impl<T: Copy> FromIterator<T> for Scratch<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut list = Self::new();
        list.extend(elements);
        list
    }
}

/// A text that erases the bytes that leave it.
#[derive(Default)]
pub(crate) struct ScratchText(String);

impl ScratchText {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// What a value is written as.
    pub(crate) fn of(value: &impl fmt::Display) -> Self {
        let mut text = Self::default();
        // A list of bytes takes all of it.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{value}"));
        text
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn push(&mut self, character: char) {
        let mut bytes = [0; 4];
        self.push_str(character.encode_utf8(&mut bytes));
        bytes.zeroize();
    }

    pub(crate) fn push_str(&mut self, more: &str) {
        let needed = self.0.len().saturating_add(more.len());
        if needed > self.0.capacity() {
            let mut larger = Self::with_capacity(needed.max(2 * self.0.capacity()));
            larger.0.push_str(&self.0);
            *self = larger;
        }
        self.0.push_str(more);
    }

    pub(crate) fn clear(&mut self) {
        let mut bytes = Scratch(std::mem::take(&mut self.0).into_bytes());
        bytes.clear();
        // Nothing is always UTF-8.
        self.0 = String::from_utf8(std::mem::take(&mut bytes.0)).unwrap_or_default();
    }
}

impl Clone for ScratchText {
    fn clone(&self) -> Self {
        Self::from(self.as_str())
    }
}

/// Text as it is formatted, a piece at a time. Nothing fails.
impl fmt::Write for ScratchText {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        self.push_str(more);
        Ok(())
    }
}

impl Drop for ScratchText {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Deref for ScratchText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ScratchText {
    fn from(text: &str) -> Self {
        let mut copy = Self::with_capacity(text.len());
        copy.push_str(text);
        copy
    }
}

/// A priority queue, greatest element first, that erases its contents when it moves and when it is dropped.
///
/// A popped element's memory is erased with the rest; a queue lives no longer than its text.
pub(crate) struct ScratchHeap<T: Copy + Ord>(BinaryHeap<T>);

impl<T: Copy + Ord> ScratchHeap<T> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(BinaryHeap::with_capacity(capacity))
    }

    pub(crate) fn reserve(&mut self, additional: usize) {
        let needed = self.0.len().saturating_add(additional);
        if needed > self.0.capacity() {
            let mut larger = Self::with_capacity(needed.max(2 * self.0.capacity()));
            larger.0.extend(self.0.iter().copied());
            *self = larger;
        }
    }

    pub(crate) fn push(&mut self, element: T) {
        self.reserve(1);
        self.0.push(element);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }
}

impl<T: Copy + Ord> Drop for ScratchHeap<T> {
    fn drop(&mut self) {
        let mut elements = std::mem::take(&mut self.0).into_vec();
        elements.clear();
        erase(elements.spare_capacity_mut());
    }
}

/// Memory for the rows of one step: a fixed length, all zeros until written.
///
/// A writer states the written length, so [`StepBuffer::erase`] costs no more than the writes since the last
/// call. The memory never moves.
pub(crate) struct StepBuffer<T: DefaultIsZeroes> {
    elements: Vec<T>,
    /// Elements, from the first on, that may have been written since they were erased.
    written: usize,
}

impl<T: DefaultIsZeroes> StepBuffer<T> {
    pub(crate) fn new(length: usize) -> Self {
        Self { elements: vec![T::default(); length], written: 0 }
    }

    /// The first `length` elements, to be written; fewer where there are not so many.
    pub(crate) fn first_mut(&mut self, length: usize) -> &mut [T] {
        let length = length.min(self.elements.len());
        self.written = self.written.max(length);
        self.elements.get_mut(..length).unwrap_or_default()
    }

    /// Overwrites all that was written with zeros.
    pub(crate) fn erase(&mut self) {
        self.elements.get_mut(..self.written).unwrap_or_default().zeroize();
        self.written = 0;
    }
}

impl<T: DefaultIsZeroes> Deref for StepBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.elements
    }
}

impl<T: DefaultIsZeroes> Drop for StepBuffer<T> {
    fn drop(&mut self) {
        self.erase();
    }
}

#[cfg(test)]
mod tests;
