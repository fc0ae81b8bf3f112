//! Tests in a real browser.
#![allow(clippy::unwrap_used)]

mod server_timing;
mod support;
