//! The memory that bodies take.
#![allow(clippy::unwrap_used)]

mod body;
mod spool;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use tokio::sync::Mutex;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Tests run in turn, because the allocator counts for the whole process.
static TURN: Mutex<()> = Mutex::const_new(());
