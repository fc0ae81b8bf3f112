//! Measures durable requests: `cargo bench -p benches --bench durable`.
//!
//! - *suspended*: the memory of [`REQUESTS`] requests that wait for a settlement or sleep, see [`suspended`]. The
//!   budget is 200 bytes for each in the process, beside what the store has.
//! - *wake*: from the settlement of one of them to the beginning of its next pass.
//! - *due at once*: how many sleeping requests a second continue if all of them are due at the same time, and how late.
//! - *promise*: a durable promise beside an ordinary one, and beside one INSERT of the bare client, see [`promise`]. The
//!   budget is 1.3 times the INSERT.
//! - *recovery*: from the death of a process to the first pass in another one, see [`recovery`]. The budget is the lease
//!   and one second.
//!
//! Arguments choose the parts: `-- suspended`, `-- promise`, `-- recovery`, and `memory` or `SQLite` one backend.
//! `DURABLE_REQUESTS` sets the number of suspended requests.
#![allow(clippy::unwrap_used, missing_docs)]

mod promise;
mod recovery;
mod server;
mod suspended;

use benches::warn_of_debug_build;
use std::path::Path;
use tower_promises::backend::Backend;
use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_sqlite::SqliteDatabase;

/// The number of suspended requests of a kind.
const REQUESTS: usize = 100_000;

/// Room for a million envelopes, and for what they refer to.
fn memory() -> Backend {
    Backend::new(
        MemoryStore::builder().max_bytes(8 << 30).build(),
        MemoryBus::new(),
        MemoryQueue::builder()
            .max_envelopes(1_000_000)
            .max_bytes(1 << 32)
            .build(),
    )
}

async fn sqlite(file: &Path) -> Backend {
    let database = SqliteDatabase::builder(file).max_envelopes(1_000_000);
    database.open().await.unwrap().backend()
}

/// Whether an argument names this part or backend, or no argument names any of them.
fn is_chosen(one: &str, all: &[&str]) -> bool {
    let chosen: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| all.contains(&&**argument))
        .collect();
    chosen.is_empty() || chosen.iter().any(|chosen| chosen == one)
}

#[tokio::main]
async fn main() {
    if recovery::is_worker() {
        return recovery::work().await;
    }
    // On a worker thread of the runtime, like requests.
    tokio::spawn(measure()).await.unwrap();
}

async fn measure() {
    let is_part = |part| is_chosen(part, &["suspended", "promise", "recovery"]);
    let is_backend = |backend| is_chosen(backend, &["memory", "SQLite"]);
    let directory = tempfile::tempdir().unwrap();
    if is_part("promise") {
        promise::head();
        if is_backend("memory") {
            promise::measure("memory", memory(), directory.path()).await;
        }
        if is_backend("SQLite") {
            let backend = sqlite(&directory.path().join("promise.db")).await;
            promise::measure("SQLite", backend, directory.path()).await;
        }
    }
    if is_part("recovery") {
        recovery::measure(&directory.path().join("recovery.db")).await;
    }
    if is_part("suspended") {
        let number = std::env::var("DURABLE_REQUESTS").ok();
        let number = number.map_or(REQUESTS, |number| number.parse().unwrap());
        suspended::head(number);
        for kind in suspended::KINDS {
            if is_backend("memory") {
                suspended::measure("memory", kind, memory(), number).await;
            }
            if is_backend("SQLite") {
                let backend = sqlite(&directory.path().join(format!("{kind:?}.db"))).await;
                suspended::measure("SQLite", kind, backend, number).await;
            }
        }
    }
    warn_of_debug_build();
}
