//! Operations: a slow request leaves the connection and goes on.

// Until the layer serves the pages.
#[allow(dead_code, unused_imports)]
pub mod page;
mod status;

pub use status::Status;
