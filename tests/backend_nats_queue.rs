//! The NATS queue bears restarts of the server.
#![allow(clippy::unwrap_used)]

mod nats;

use nats::{SECOND, Server, soon};
use std::time::Duration;
use tower_promises::backend::nats::NatsQueue;
use tower_promises::backend::{Enqueued, Envelope, Outcome, Queue, Taken};

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
