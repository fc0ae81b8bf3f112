//! The adapters of PostgreSQL.
#![allow(clippy::unwrap_used)]

mod feeds;
mod place;
mod pools;
mod ports;
mod queue;
mod reads;
mod schema;
mod transactions;
mod within;

use test_support::remote;

/// The process that other tests start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "other tests start it as a process of its own"]
async fn the_other_process() {
    let database = place::builder().connect(&remote::place()).await.unwrap();
    remote::serve(database.backend()).await;
}
