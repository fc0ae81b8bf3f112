//! Pages that begin before they are complete.
#![allow(clippy::unwrap_used)]

mod bounds;
mod counts;
mod end;
mod failures;
mod handles;
mod http;
mod limits;
mod mixing;
mod names;
mod nested;
mod order;
mod sharing;
mod shell;
mod splits;
mod stacks;
mod support;
mod whole;
mod work;
