//! The example, started as a process.
#![allow(clippy::unwrap_used)]

mod browser;
mod example;
mod processes;
