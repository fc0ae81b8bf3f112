//! The example, started as a process.
#![allow(clippy::unwrap_used)]

mod processes;
