//! Values in JSON: values that JSON would change, values of other versions, and ids that belong to other arguments.
#![allow(clippy::unwrap_used)]

mod encoding;
mod ids;
mod numbers;
mod unreadable;
mod unreadable_signals;
mod unreadable_store;

procspawn::enable_test_support!();
