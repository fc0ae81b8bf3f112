//! Restarts of the server and dropped calls with the NATS queue.

use futures_util::{FutureExt, future};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::nats::{SECOND, Server, soon};
use tokio::time::sleep;
use tower_promises_backend::{
    Delivery, Enqueued, Envelope, Outcome, Queue, Receipt, Taken, WorkOptions,
};
use tower_promises_nats::NatsQueue;

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(60 * 60);

async fn add(queue: &NatsQueue, id: &str) {
    let envelope = Envelope::new("work", id, "x".into());
    assert_eq!(queue.enqueue(envelope).await.unwrap(), Enqueued::Added);
}

async fn take(queue: &NatsQueue) -> Taken {
    let mut taken = soon(queue.take("work", 1, NEVER)).await.unwrap();
    taken.remove(0)
}

/// A restarted server no longer knows the waiting calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_worker_notices_a_restart_at_once() {
    let mut server = Server::start().await;
    let builder = server.builder().await.pull_expiry(NEVER);
    let queue = builder.open().await.unwrap().queue();
    add(&queue, "before").await;
    let before = take(&queue).await;
    assert!(queue.settle(&before.receipt, Outcome::Done).await.unwrap());
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take("work", 1, NEVER).await }
    });
    // The spawned call is waiting when this call times out.
    let quiet = tokio::time::timeout(SECOND, queue.take("work", 1, NEVER)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    server.kill();
    server.start_again().await;
    add(&server.backend().await.queue(), "after").await;
    let taken = match soon(waiting).await.unwrap() {
        Ok(mut taken) => taken.remove(0),
        // A worker would try again.
        Err(_) => take(&queue).await,
    };
    assert_eq!(&*taken.id, "after");
}

#[tokio::test]
async fn envelopes_of_a_dropped_call_are_returned_at_once() {
    let server = Server::start().await;
    let queue = server.backend().await.queue();
    let never_taken = Receipt::new("4000000000 1 1 1 nobody");
    let mut drops = 0;
    for turns in 0..20 {
        add(&queue, &turns.to_string()).await;
        let mut early = queue.take("work", 1, NEVER);
        let mut early_taken = None;
        for _ in 0..turns {
            early_taken = (&mut early).now_or_never();
            if early_taken.is_some() {
                break;
            }
            drops += 1;
            // Receives the messages of the server between two polls.
            queue.renew(&never_taken, SECOND).await.unwrap();
        }
        drop(early);
        // Without the return, the lease would end far later.
        let taken = match early_taken {
            Some(taken) => taken.unwrap().remove(0),
            None => take(&queue).await,
        };
        assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
    }
    assert!(drops > 0);
}

/// Two producers and two workers have calls in progress whenever the server is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_lose_nothing_that_was_acknowledged() {
    const RESTARTS: usize = 3;
    let mut server = Server::start().await;
    let open = async || {
        let builder = server.builder().await.timeout(SECOND * 5);
        builder.open().await.unwrap().queue()
    };
    let handled = Arc::new(Mutex::new(BTreeSet::new()));
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (queue, handled) = (open().await, handled.clone());
        let handler = move |delivery: Delivery| {
            handled.lock().unwrap().insert(delivery.id.to_string());
            future::ready(Outcome::Done)
        };
        let options = WorkOptions::new("work").lease(SECOND * 3);
        workers.push(tokio::spawn(async move {
            let never = future::pending().boxed();
            queue.work(options, Arc::new(handler), never).await
        }));
    }
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut producers = Vec::new();
    for producer in 0..2 {
        let (queue, acknowledged) = (open().await, acknowledged.clone());
        producers.push(tokio::spawn(async move {
            for number in 0.. {
                let id = format!("{producer}/{number}");
                let envelope = Envelope::new("work", &*id, "x".into());
                match queue.enqueue(envelope).await {
                    Ok(_) => drop(acknowledged.lock().unwrap().insert(id)),
                    // The server is starting again.
                    Err(_) => sleep(SECOND / 50).await,
                }
            }
        }));
    }
    let many_more = async || {
        let before = acknowledged.lock().unwrap().len();
        let are_there = async || acknowledged.lock().unwrap().len() >= before + 100;
        test_support::nats::until("all clients are connected again", are_there).await;
    };
    for _ in 0..RESTARTS {
        many_more().await;
        server.kill();
        server.start_again().await;
    }
    many_more().await;
    for producer in producers {
        producer.abort();
    }
    test_support::nats::until("all acknowledged envelopes are handled", async || {
        let acknowledged = acknowledged.lock().unwrap();
        handled.lock().unwrap().is_superset(&acknowledged)
    })
    .await;
    for worker in workers {
        assert!(!worker.is_finished(), "workers go on");
        worker.abort();
    }
}
