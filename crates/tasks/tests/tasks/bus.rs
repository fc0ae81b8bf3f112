//! Tasks with a bus that loses messages: each loss only causes a delay.

use bytes::Bytes;
use futures_util::FutureExt;
use test_support::soon;
use test_support::task::{Act, SECOND, act, builder, client};
use tokio::time::{Instant, sleep, timeout};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{Backend, BackendError, BoxFuture, Bus, BusStream};
use tower_promises_tasks::{TaskError, TaskState};

/// A bus that loses all messages, or is slow to listen.
struct Faulty {
    bus: MemoryBus,
    is_deaf: bool,
}

impl Bus for Faulty {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        if self.is_deaf {
            return Box::pin(async { Ok(()) });
        }
        self.bus.publish(topic, payload)
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        Box::pin(async {
            if !self.is_deaf {
                sleep(SECOND * 3).await;
            }
            self.bus.listen().await
        })
    }
}

fn backend(bus: impl Bus) -> Backend {
    Backend::new(MemoryStore::new(), bus, MemoryQueue::new())
}

#[tokio::test(start_paused = true)]
async fn changes_before_the_subscription_are_not_missed() {
    let bus = MemoryBus::new();
    let backend = backend(Faulty {
        bus,
        is_deaf: false,
    });
    let waiter = builder(&backend, async |argument, _| Ok(argument));
    let waiter = waiter.poll_interval(SECOND * 10_000).build();
    let id = waiter.queue("main").submit(act("x")).await.unwrap();
    let start = Instant::now();
    let output = tokio::spawn({
        let (waiter, id) = (waiter.clone(), id.clone());
        async move { waiter.output::<Act>(&id).await }
    });
    sleep(SECOND).await;
    assert!(client(&backend).cancel(&id).await.unwrap());
    let error = soon(output).await.unwrap().unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
    assert!(start.elapsed() < SECOND * 5, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_lags_behind_the_bus_reads_the_store() {
    let backend = backend(MemoryBus::builder().bus_capacity(16).build());
    let waiter = builder(&backend, async |argument, _| Ok(argument));
    let waiter = waiter.poll_interval(SECOND * 10_000).build();
    let id = waiter.queue("main").submit(act("x")).await.unwrap();
    let output = tokio::spawn({
        let (waiter, id) = (waiter.clone(), id.clone());
        async move { waiter.output::<Act>(&id).await }
    });
    // The task is subscribed by then.
    sleep(SECOND).await;
    let start = Instant::now();
    let other = client(&backend);
    assert!(other.cancel(&id).await.unwrap());
    // The message about the cancel is displaced by later ones.
    for _ in 0..100 {
        let noise = backend.bus().publish("noise", Bytes::new());
        noise.now_or_never().unwrap().unwrap();
    }
    let error = soon(output).await.unwrap().unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
    assert!(start.elapsed() < SECOND * 5, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_changes_without_the_bus() {
    let bus = MemoryBus::new();
    let backend = backend(Faulty { bus, is_deaf: true });
    let client = client(&backend);
    let id = client.queue("main").submit(act("x")).await.unwrap();
    let mut watch = client.watch(&id).unwrap();
    // Reads all changes so far.
    while let Ok(status) = timeout(SECOND, watch.changed()).await {
        assert_eq!(status.unwrap().state(), TaskState::Queued);
    }
    let process = builder(&backend, async |argument, _| Ok(argument)).build();
    let _worker = process.work().unwrap();
    let start = Instant::now();
    while soon(watch.changed()).await.unwrap().state() != TaskState::Succeeded {}
    assert!(start.elapsed() <= SECOND * 6, "{:?}", start.elapsed());
}
