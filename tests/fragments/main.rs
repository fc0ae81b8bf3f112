//! Pages that begin before they are complete.
#![allow(clippy::unwrap_used)]

mod order;
mod support;
