//! The adapters of SQLite.
#![allow(clippy::unwrap_used)]

mod database;
mod file;
mod ports;
mod queue;
mod remembered;
mod transactions;

/// The process that other tests start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "other tests start it as a process of its own"]
async fn the_other_process() {
    database::process::serve().await;
}
