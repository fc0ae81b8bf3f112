//! Pages that begin before they are complete.
#![allow(clippy::unwrap_used)]

mod failures;
mod handles;
mod nested;
mod order;
mod shell;
mod support;
mod work;
