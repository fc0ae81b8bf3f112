//! Operations over HTTP.
#![allow(clippy::unwrap_used)]

mod cancel;
mod ends;
mod errors;
mod events;
mod first_reply;
mod idempotency;
mod keys;
mod layers;
mod machines;
mod metrics;
mod mounts;
mod page;
mod races;
mod removal;
mod results;
mod sockets;
mod status;
