//! Signals within one process and between processes.
#![allow(clippy::unwrap_used)]

mod metrics;
mod processes;
mod values;
