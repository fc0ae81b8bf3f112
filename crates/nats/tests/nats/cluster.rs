//! Three servers with a replica of everything on each. They are killed in turn, under load.

use futures_util::FutureExt;
use futures_util::future::pending;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use test_support::nats::servers::{SERVERS, Servers};
use test_support::nats::{PAUSE, SECOND, until};
use tokio::time::sleep;
use tower_promises_backend::{Delivery, Envelope, Outcome, Queue, Store, WorkOptions};

const STREAMS: [&str; 3] = [
    "tower-promises-store",
    "tower-promises-queue",
    "tower-promises-leases",
];

/// Nothing that was acknowledged is lost, and no envelope is handled twice: a lease outlasts the election of a
/// new leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_each_server_in_turn_loses_nothing() {
    let mut servers = Servers::start().await;
    let handled = Arc::<Mutex<BTreeMap<String, Vec<u32>>>>::default();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (queue, handled) = (servers.open().await.queue(), handled.clone());
        let handler = move |delivery: Delivery| {
            let mut handled = handled.lock().unwrap();
            let numbers = handled.entry(delivery.id.to_string()).or_default();
            numbers.push(delivery.number);
            async {
                sleep(PAUSE).await;
                Outcome::Done
            }
        };
        let options = WorkOptions::new("work").lease(SECOND * 45);
        workers.push(tokio::spawn(async move {
            queue
                .work(options, Arc::new(handler), pending().boxed())
                .await
        }));
    }
    let enqueued = Arc::<Mutex<BTreeSet<String>>>::default();
    let stored = Arc::<Mutex<BTreeSet<String>>>::default();
    let mut producers = Vec::new();
    for producer in 0..2 {
        let backend = servers.open().await;
        let (enqueued, stored) = (enqueued.clone(), stored.clone());
        producers.push(tokio::spawn(async move {
            for number in 0.. {
                let id = format!("{producer}/{number}");
                let envelope = Envelope::new("work", &*id, "x".into());
                if backend.queue().enqueue(envelope).await.is_ok() {
                    enqueued.lock().unwrap().insert(id.clone());
                }
                let value = id.clone().into();
                if backend.store().put(&id, value, None).await.is_ok() {
                    stored.lock().unwrap().insert(id);
                }
                sleep(PAUSE).await;
            }
        }));
    }
    let goes_on = async |what: &str| {
        let before = enqueued.lock().unwrap().len();
        let handled_before = handled.lock().unwrap().len();
        let stored_before = stored.lock().unwrap().len();
        until(what, async || {
            enqueued.lock().unwrap().len() >= before + 50
                && handled.lock().unwrap().len() >= handled_before + 50
                && stored.lock().unwrap().len() >= stored_before + 50
        })
        .await;
    };
    goes_on("work with all servers").await;
    for number in 0..SERVERS {
        servers[number].kill();
        goes_on(&format!("work without server {number}")).await;
        servers[number].start_again().await;
        servers.have_caught_up(&STREAMS).await;
    }
    goes_on("work with all servers again").await;
    for producer in producers {
        producer.abort();
    }
    until("all enqueued envelopes are handled", async || {
        let handled = handled.lock().unwrap();
        let enqueued = enqueued.lock().unwrap();
        enqueued.iter().all(|id| handled.contains_key(id))
    })
    .await;
    for worker in workers {
        assert!(!worker.is_finished(), "workers go on");
        worker.abort();
    }
    let handled = handled.lock().unwrap().clone();
    let twice: Vec<_> = handled
        .iter()
        .filter(|(_, numbers)| numbers.len() > 1)
        .collect();
    assert!(twice.is_empty(), "of {}: {twice:?}", handled.len());
    let store = servers.open().await.store();
    let stored = stored.lock().unwrap().clone();
    for key in stored {
        let entry = store.get(&key).await.unwrap().unwrap();
        assert_eq!(entry.value, key);
    }
}
