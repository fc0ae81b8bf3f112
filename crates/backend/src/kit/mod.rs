//! Pieces from which the packages of the family are built. They are not part of the public API: they may change in any
//! version.

pub mod backoff;
pub mod claim;
pub mod clock;
pub mod deadline;
#[cfg(feature = "json")]
pub mod json;
pub mod limits;
pub mod log;
pub mod panic;
pub mod problem;
pub mod sync;
