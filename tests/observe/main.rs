//! Spans, events, advice, and the `Server-Timing` header.
#![allow(clippy::unwrap_used)]

mod advice;
mod events;
mod fragments;
mod guide;
mod server_timing;
