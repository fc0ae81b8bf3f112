//! The adapters of NATS.
#![allow(clippy::unwrap_used)]

mod cluster;
mod lists;
mod lost;
mod ports;
mod queue;
