//! The example, started as a process.
#![allow(clippy::unwrap_used)]

mod example;
mod processes;
