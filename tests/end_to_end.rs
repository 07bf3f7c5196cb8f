//! Whole system.
