//! What several benches measure and print in the same way.
#![allow(clippy::unwrap_used)]

pub mod bare;
mod percentiles;
mod rows;

pub use percentiles::{Percentiles, median, per_second, times};
pub use rows::{head, row};
use std::path::Path;

/// Whether `nats-server` is installed.
#[must_use]
pub fn has_nats() -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    path.split(':')
        .any(|path| Path::new(path).join("nats-server").is_file())
}

/// Prints a warning if the figures are those of a debug build.
pub fn warn_of_debug_build() {
    if cfg!(debug_assertions) {
        println!("\nThis is a debug build: only the growth means something.");
    }
}
