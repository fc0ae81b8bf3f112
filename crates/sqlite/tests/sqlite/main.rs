//! The adapters of SQLite.
#![allow(clippy::unwrap_used)]

mod database;
mod file;
mod ports;
mod queue;
mod sweeps;
mod transactions;
mod watched;
mod within;

use sqlx::query;
use std::path::Path;
use test_support::remote::{self, Held};
use tower_promises_sqlite::SqliteDatabase;

/// The process that other tests start. It can hold the lock of a writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "other tests start it as a process of its own"]
async fn the_other_process() {
    let database = SqliteDatabase::open(remote::place()).await.unwrap();
    remote::serve_holding(database.backend(), || {
        Box::pin(async {
            let mut writer = database::connect(Path::new(&remote::place())).await;
            query("BEGIN IMMEDIATE").execute(&mut writer).await.unwrap();
            Box::new(writer) as Held
        })
    })
    .await;
}
