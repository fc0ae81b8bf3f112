//! The memory that bodies take.
#![allow(clippy::unwrap_used)]

mod body;
mod spool;
