//! Durable operations.
#![allow(clippy::unwrap_used)]

mod crashes;
mod ends;
mod memory;
mod mortal;
mod outside;
mod process;
mod requests;
mod runs;
mod suspension;
