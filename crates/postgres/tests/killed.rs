//! Durable requests in real processes that are killed at random, over PostgreSQL.
#![allow(clippy::unwrap_used)]

use test_support::killed::{orders_survive, work};
use test_support::postgres::shared;
use tower_promises_backend::Backend;
use tower_promises_postgres::PostgresDatabase;

async fn open(url: &str) -> Backend {
    PostgresDatabase::connect(url).await.unwrap().backend()
}

#[tokio::test]
#[ignore = "other tests start it as a process of its own"]
async fn the_worker() {
    work(open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_processes_that_are_killed() {
    let url = shared().await.database().await;
    orders_survive(&url, open(&url).await).await;
}
