//! The adapters of NATS.
#![allow(clippy::unwrap_used)]

mod cluster;
mod lost;
mod ports;
mod queue;
