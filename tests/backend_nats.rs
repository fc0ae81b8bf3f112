//! The NATS adapters pass the conformance suites on a real server, and go on when it is restarted.
#![allow(clippy::unwrap_used)]

mod nats;

use nats::Server;
use tower_promises::backend::conformance;

#[tokio::test]
async fn the_store_conforms_on_one_connection() {
    let server = Server::start().await;
    let store = server.backend().await.store();
    conformance::store(async || store.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_conforms_on_a_connection_for_each_caller() {
    let server = Server::start().await;
    conformance::store(async || server.backend().await.store()).await;
}

#[tokio::test]
async fn the_bus_conforms_on_one_connection() {
    let server = Server::start().await;
    let bus = server.backend().await.bus();
    conformance::bus(async || bus.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bus_conforms_on_a_connection_for_each_caller() {
    let server = Server::start().await;
    conformance::bus(async || server.backend().await.bus()).await;
}

#[tokio::test]
async fn the_queue_conforms_on_one_connection() {
    let server = Server::start().await;
    let queue = server.backend().await.queue();
    conformance::queue(async || queue.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_queue_conforms_on_a_connection_for_each_caller() {
    let server = Server::start().await;
    conformance::queue(async || server.backend().await.queue()).await;
}
