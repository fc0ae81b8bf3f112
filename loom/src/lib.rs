//! Model-checks the core of tower-promises: requests and handles whose promises several threads poll, settle, cancel,
//! reset and await, in every order of events with at most two preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says.
//!
//! The modules are those of tower-promises without features. Only the mutex differs.
#![cfg(test)]
#![expect(
    dead_code,
    unused_imports,
    reason = "the models use a part of the crate"
)]

#[path = "../../src/body/mod.rs"]
mod body;
#[path = "../../src/gauge.rs"]
mod gauge;
#[path = "../../src/log.rs"]
mod log;
#[path = "../../src/panic.rs"]
mod panic;
#[path = "../../src/problem.rs"]
mod problem;
#[path = "../../src/promise/mod.rs"]
mod promise;

mod models;
mod work;

use promise::error::PromiseError;
use promise::layer::PromiseLayer;
use promise::or_pending::OrPending;
use promise::promises::Promises;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Replaces the module `sync` of the crate, with the mutex of loom instead of that of the standard library.
mod sync {
    pub(crate) use loom::sync::MutexGuard;
    use std::sync::PoisonError;

    /// For data that no model shares between threads, such as a body.
    pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
