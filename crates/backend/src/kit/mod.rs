//! Pieces from which the packages of the family are built. They are not part of the public API: they may change in any
//! version.
#![allow(
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    reason = "these items are hidden, and only packages of the family use them"
)]

pub mod assets;
pub mod backoff;
pub mod claim;
pub mod clock;
pub mod deadline;
#[cfg(feature = "json")]
pub mod documents;
pub mod drain;
pub mod html;
#[cfg(feature = "json")]
pub mod journal;
#[cfg(feature = "json")]
pub mod json;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod panic;
#[cfg(feature = "json")]
pub mod pieces;
pub mod problem;
pub mod progress;
pub mod same_site;
pub mod sync;
pub mod topics;
pub mod transaction;
