//! The NATS queue bears restarts of the server and dropped calls.
#![allow(clippy::unwrap_used)]

mod nats;

use futures_util::FutureExt;
use nats::{SECOND, Server, soon};
use std::time::{Duration, Instant};
use tower_promises::backend::nats::NatsQueue;
use tower_promises::backend::{Enqueued, Envelope, Outcome, Queue, Receipt, Taken};

/// Longer than any of these tests waits.
const NEVER: Duration = Duration::from_secs(60 * 60);

async fn add(queue: &NatsQueue, id: &str) {
    let envelope = Envelope::new("work", id, "x".into());
    assert_eq!(queue.enqueue(envelope).await.unwrap(), Enqueued::Added);
}

async fn take(queue: &NatsQueue) -> Taken {
    let mut taken = soon(queue.take("work", 1, NEVER)).await.unwrap();
    taken.remove(0)
}

/// The server has forgotten who waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_waits_learns_of_a_restart_at_once() {
    let mut server = Server::start().await;
    let builder = server.builder().await.poll_interval(NEVER);
    let queue = builder.open().await.unwrap().queue();
    add(&queue, "before").await;
    let before = take(&queue).await;
    assert!(queue.settle(&before.receipt, Outcome::Done).await.unwrap());
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take("work", 1, NEVER).await }
    });
    // It waits by then.
    let quiet = tokio::time::timeout(SECOND, queue.take("work", 1, NEVER)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    server.kill();
    server.start_again().await;
    add(&server.backend().await.queue(), "after").await;
    let taken = match soon(waiting).await.unwrap() {
        Ok(mut taken) => taken.remove(0),
        // A worker tries again.
        Err(_) => take(&queue).await,
    };
    assert_eq!(&*taken.id, "after");
}

#[tokio::test]
async fn what_is_taken_by_a_dropped_call_is_given_back_at_once() {
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
            // What the server says comes between two polls.
            queue.renew(&never_taken, SECOND).await.unwrap();
        }
        drop(early);
        let started = Instant::now();
        let taken = match early_taken {
            Some(taken) => taken.unwrap().remove(0),
            None => take(&queue).await,
        };
        let elapsed = started.elapsed();
        assert!(elapsed < SECOND, "after {turns} turns: {elapsed:?}");
        assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
    }
    assert!(drops > 0);
}
