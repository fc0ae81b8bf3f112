//! Test suites for adapters: one function for each port, and one for each guarantee.
//!
//! The suites need the feature `conformance`, and are called in the tests of an adapter.
//!
//! ```
//! use tower_promises_backend::conformance;
//! use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let store = MemoryStore::new();
//! conformance::store(async || store.clone()).await;
//! conformance::journal(async || store.clone()).await;
//!
//! let bus = MemoryBus::new();
//! conformance::bus(async || bus.clone()).await;
//!
//! let queue = MemoryQueue::new();
//! conformance::queue(async || queue.clone()).await;
//! # }
//! ```
//!
//! # Rules
//!
//! 1. Each call of `make` connects to the *same* bus, store or queue, as another machine would: over a connection of
//!    its own, if the adapter has connections.
//! 2. The suites write keys and names that start with `conformance/` and delete nothing else, so they can run against a
//!    backend that is in use. Run one suite at a time against a backend.
//! 3. Every wait is bounded: a suite that hangs fails after a minute. With tokio's time paused, the memory adapters
//!    take no time.
//!
//! # Panics
//!
//! Each function panics if a guarantee is violated, with a message that names the guarantee.
//!
//! # Cancel safety
//!
//! A suite that is dropped leaves values with the prefix `conformance/` in the store, and envelopes in queues.

mod bus;
mod journal;
mod queue;
mod store;
mod transactions;

pub use bus::{bus, bus_lag, bus_limits, bus_listeners, bus_order};
pub use journal::{journal, journal_grows, journal_has_one_owner};
pub use queue::{
    queue, queue_deduplication, queue_deliveries, queue_dropped_takes, queue_leases, queue_limits,
    queue_order, queue_prefetch, queue_retries, queue_shutdown, queue_work, queue_workers,
};
pub use store::{
    store, store_compare_and_set, store_lag, store_limits, store_list, store_races,
    store_revisions, store_time_to_live, store_values, store_watch,
};
pub use transactions::{
    Application, transactions, transactions_commit, transactions_have_savepoints,
    transactions_race, transactions_refuse, transactions_roll_back,
    transactions_withstand_failures,
};

use super::BackendError;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

/// The maximum time that a suite waits for one event. It is long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the answer of the adapter to `what`. Panics on an error or a timeout.
async fn answer<T>(what: &str, future: impl Future<Output = Result<T, BackendError>>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => panic!("{what} failed: {error:?}"),
        Err(_) => panic!("{what} took longer than {PATIENCE:?}"),
    }
}

/// Returns the error of the adapter for `what`. Panics if the call succeeds or times out.
async fn refusal<T: Debug>(
    what: &str,
    future: impl Future<Output = Result<T, BackendError>>,
) -> BackendError {
    match timeout(PATIENCE, future).await {
        Ok(Err(error)) => error,
        Ok(Ok(answer)) => panic!("{what} must be an error and was {answer:?}"),
        Err(_) => panic!("{what} took longer than {PATIENCE:?}"),
    }
}

/// Names that violate a rule.
fn invalid_names() -> [String; 3] {
    let too_long = "x".repeat(super::MAX_NAME_BYTES + 1);
    [String::new(), "line\nbreak".to_owned(), too_long]
}

/// Valid names that an adapter may have to escape.
fn awkward_names() -> Vec<String> {
    let names = [
        "dots.and*stars>",
        " spaces ",
        "slash/slash//",
        "percent%2F",
        "Größe",
        "🦀",
        "UPPER",
        "upper",
        "quote'\"$1\\",
    ];
    let mut names: Vec<_> = names.map(|name| format!("conformance/{name}")).into();
    names.push(format!(
        "conformance/{}",
        "x".repeat(super::MAX_NAME_BYTES - 12)
    ));
    names
}
