//! Durable requests in real processes that are killed at random, over a SQLite file and over NATS.
#![allow(clippy::unwrap_used)]

use test_support::killed::{orders_survive, work};
use test_support::nats::Server;
use tower_promises_backend::Backend;
use tower_promises_nats::{NatsBackend, async_nats};
use tower_promises_sqlite::SqliteDatabase;

/// Opens a backend: `sqlite` with the path of a file, or `nats` with an address.
async fn open(address: &str) -> Backend {
    match address.split_once(' ').unwrap() {
        ("sqlite", path) => SqliteDatabase::open(path).await.unwrap().backend(),
        (_, address) => {
            let client = async_nats::connect(address).await.unwrap();
            NatsBackend::open(client).await.unwrap().backend()
        }
    }
}

#[tokio::test]
#[ignore = "other tests start it as a process of its own"]
async fn the_worker() {
    work(open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_on_sqlite_survive_processes_that_are_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.db");
    let address = format!("sqlite {}", path.display());
    orders_survive(&address, open(&address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_on_nats_survive_processes_that_are_killed() {
    let server = Server::start().await;
    let address = format!("nats {}", server.address());
    orders_survive(&address, open(&address).await).await;
}
