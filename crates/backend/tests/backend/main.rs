//! The memory adapters and the worker loop.
#![allow(clippy::unwrap_used)]

mod broken;
mod memory;
mod metrics;
mod queue;
