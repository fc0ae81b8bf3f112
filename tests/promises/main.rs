//! Promises: passes, the handle, loaders, blocking work, readiness, the end of requests.
#![allow(clippy::unwrap_used)]

mod blocking;
mod fairness;
mod groups;
mod handle;
mod loader;
mod panics;
mod passes;
mod readiness;
mod reentrance;
mod registry_properties;
mod request_end;
mod resolve;
mod submit_body;
mod timeouts;
