//! The request body that can be read again, in memory and in a file.
#![allow(clippy::unwrap_used)]

mod disk;
mod properties;
mod replay;
mod spool;
