//! The adapters of PostgreSQL while servers, connections and processes fail, and while clocks are wrong.
#![allow(clippy::unwrap_used)]

mod clocks;
mod connections;
mod load;
mod server;
mod standby;
mod workers;

use test_support::remote;
use tower_promises_postgres::PostgresDatabase;

/// The process that other tests start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "other tests start it as a process of its own"]
async fn the_other_process() {
    let database = PostgresDatabase::connect(&remote::place()).await.unwrap();
    remote::serve(database.backend()).await;
}
