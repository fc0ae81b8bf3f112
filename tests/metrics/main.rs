//! Metrics. The recorder is one for the process.
#![allow(clippy::unwrap_used)]

mod counters;
mod fragments;
mod gauges;
mod recorders;
