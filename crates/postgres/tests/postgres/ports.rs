//! The PostgreSQL adapters pass the conformance suites, directly and behind PgBouncer, in one process and in two.

use crate::place::{Place, place};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use test_support::remote::Process;
use tower_promises_backend::{Bus, Queue, Store, conformance};

#[tokio::test]
async fn the_store_conforms_on_one_database() {
    let store = place().await.open().await.store();
    conformance::store(async || store.clone()).await;
    conformance::journal(async || store.clone()).await;
}

#[tokio::test]
async fn the_bus_conforms_on_one_database() {
    let bus = place().await.open().await.bus();
    conformance::bus(async || bus.clone()).await;
}

#[tokio::test]
async fn the_queue_conforms_on_one_database() {
    let queue = place().await.open().await.queue();
    conformance::queue(async || queue.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_conforms_on_a_database_for_each_caller() {
    let place = place().await;
    conformance::store(async || place.open().await.store()).await;
    conformance::journal(async || place.open().await.store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bus_conforms_on_a_database_for_each_caller() {
    let place = place().await;
    conformance::bus(async || place.open().await.bus()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_queue_conforms_on_a_database_for_each_caller() {
    let place = place().await;
    conformance::queue(async || place.open().await.queue()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_conforms_behind_a_pooler() {
    let place = place().await.behind_a_pooler().await;
    conformance::store(async || place.open().await.store()).await;
    conformance::journal(async || place.open().await.store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bus_conforms_behind_a_pooler() {
    let place = place().await.behind_a_pooler().await;
    conformance::bus(async || place.open().await.bus()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_queue_conforms_behind_a_pooler() {
    let place = place().await.behind_a_pooler().await;
    conformance::queue(async || place.open().await.queue()).await;
}

/// Every second caller is in the other process: first the odd callers, then the even ones.
async fn between_two_processes(place: &Place, suite: impl AsyncFn(&Ports<'_>)) {
    let here = place.open().await;
    let there = Process::start(&place.url);
    for first in [0, 1] {
        let calls = AtomicUsize::new(first);
        let is_here = || calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        suite(&Ports {
            store: &|| match is_here() {
                true => Arc::new(here.store()),
                false => Arc::new(there.adapter()),
            },
            bus: &|| match is_here() {
                true => Arc::new(here.bus()),
                false => Arc::new(there.adapter()),
            },
            queue: &|| match is_here() {
                true => Arc::new(here.queue()),
                false => Arc::new(there.adapter()),
            },
        })
        .await;
    }
}

/// The ports of the next caller.
struct Ports<'a> {
    store: &'a dyn Fn() -> Arc<dyn Store>,
    bus: &'a dyn Fn() -> Arc<dyn Bus>,
    queue: &'a dyn Fn() -> Arc<dyn Queue>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_between_two_processes() {
    between_two_processes(&place().await, async |ports| {
        conformance::store(async || (ports.store)()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_conforms_between_two_processes() {
    between_two_processes(&place().await, async |ports| {
        conformance::bus(async || (ports.bus)()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_conforms_between_two_processes() {
    between_two_processes(&place().await, async |ports| {
        conformance::queue(async || (ports.queue)()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_operation_survives_the_loss_of_its_process() {
    let place = place().await;
    let (one, other) = (place.open().await, place.open().await);
    test_support::durable::survives_the_loss_of_its_process(one.backend(), other.backend()).await;
}
