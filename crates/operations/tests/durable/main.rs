//! Durable operations.
#![allow(clippy::unwrap_used)]

mod cancel;
mod checker;
mod crashes;
mod ends;
mod limits;
mod loads;
mod memory;
mod metrics;
mod mortal;
mod outside;
mod process;
mod races;
mod requests;
mod runs;
mod suspension;
mod tasks;
mod witness;
