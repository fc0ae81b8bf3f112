//! Tests in a real browser.
#![allow(clippy::unwrap_used)]

mod fragments;
mod server_timing;
mod support;
mod tour;
