use super::{
    LATE, LEASE, LONG_LEASE, PATIENCE, QUIET, RIVALS, TOLERANCE, add_id, answer, envelope, fresh,
    is_quiet,
};
use crate::kit::sync::lock;
use crate::{BackendError, Delivery, Handler, Outcome, Queue, WorkOptions};
use futures_util::FutureExt;
use futures_util::future::{join_all, ready};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A worker that runs until it is stopped.
struct Worker {
    task: JoinHandle<Result<(), BackendError>>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Worker {
    fn start(queue: impl Queue, options: WorkOptions, handler: impl Handler) -> Self {
        let (shutdown, is_shut_down) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = is_shut_down.map(|_| ()).boxed();
            queue.work(options, Arc::new(handler), shutdown).await
        });
        Self {
            task,
            shutdown: Some(shutdown),
        }
    }

    fn shut_down(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            // Fails if the worker has ended, which `end` detects.
            let _ = shutdown.send(());
        }
    }

    async fn end(mut self) {
        self.shut_down();
        let ended = timeout(PATIENCE, &mut self.task).await;
        let ended = ended.expect("a worker ends when it is shut down and its handlers have ended");
        let ended = ended.expect("a worker does not panic");
        ended.expect("a worker ends without an error");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>, what: &str) -> T {
    let next = timeout(PATIENCE, receiver.recv()).await;
    next.unwrap_or_else(|_| panic!("{what}"))
        .expect("the sender exists")
}

/// Checks that the outcome of a handler decides about its envelope, including handlers that panic, run longer than
/// their lease, or are dropped with their worker.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_work<Q: Queue>(make: impl AsyncFn() -> Q) {
    let (queue, name) = (make().await, fresh("work"));
    let options = WorkOptions::new(&*name).lease(LEASE);

    let invalid = WorkOptions::new("");
    let none = |_: Delivery| ready(Outcome::Done);
    let ended = queue
        .work(invalid, Arc::new(none), std::future::pending().boxed())
        .await;
    let is_invalid = matches!(ended, Err(BackendError::InvalidName { .. }));
    assert!(
        is_invalid,
        "an invalid name is `InvalidName`, not {ended:?}"
    );

    let (sender, mut handled) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let sender = sender.clone();
        async move {
            assert!(delivery.lease.is_held(), "a handler starts under its lease");
            assert_eq!(delivery.payload, delivery.id.as_bytes());
            let first = delivery.number == 1;
            if &*delivery.id == "long" {
                sleep(LEASE * 3).await;
                assert!(
                    delivery.lease.is_held(),
                    "the lease is renewed while the handler runs"
                );
            }
            let _ = sender.send((delivery.id.to_string(), delivery.number, Instant::now()));
            match &*delivery.id {
                "retry" if first => Outcome::Retry { after: LEASE },
                "panic" if first => panic!("the handler of an envelope panics, as it should here"),
                "give up" => Outcome::GiveUp,
                _ => Outcome::Done,
            }
        }
    };
    let workers = [
        Worker::start(make().await, options.clone(), handler.clone()),
        Worker::start(make().await, options.clone(), handler),
    ];
    let started = Instant::now();
    for id in ["done", "retry", "panic", "give up", "long"] {
        add_id(&queue, &name, id).await;
    }
    let mut deliveries = BTreeMap::<_, Vec<_>>::new();
    for _ in 0..7 {
        let (id, number, time) = next(&mut handled, "a handler runs for each delivery").await;
        deliveries.entry(id).or_default().push((number, time));
    }
    sleep(LEASE + TOLERANCE).await;
    for worker in workers {
        worker.end().await;
    }
    assert!(
        handled.recv().await.is_none(),
        "an envelope that has ended is not delivered again"
    );
    let times = |id| deliveries.get(id).map_or(0, Vec::len);
    let counts = ["done", "retry", "panic", "give up", "long"].map(times);
    assert_eq!(
        counts,
        [1, 2, 2, 1, 1],
        "each envelope is delivered until it has ended: {deliveries:?}"
    );
    for id in ["retry", "panic"] {
        let [(_, first), (number, second)] = deliveries[id][..] else {
            unreachable!("the deliveries were counted");
        };
        assert!(number > 1, "deliveries are counted");
        assert!(second - started >= LEASE - super::EARLY);
        assert!(
            second - first < LEASE + LATE,
            "`{id}` is delivered again in time"
        );
    }

    // A worker that is dropped leaves its envelopes to others.
    let (sender, mut begun) = mpsc::unbounded_channel();
    let stuck = move |delivery: Delivery| {
        let _ = sender.send(delivery.lease);
        std::future::pending()
    };
    let worker = Worker::start(make().await, options.clone(), stuck);
    add_id(&queue, &name, "dropped").await;
    let lease = next(&mut begun, "a handler runs").await;
    drop(worker);
    timeout(PATIENCE, lease.ended())
        .await
        .expect("the lease ends with its worker");
    assert!(!lease.is_held());
    let taken = answer("take", queue.take(&name, 1, LEASE)).await;
    assert_eq!(&*taken[0].id, "dropped");
    assert!(taken[0].number > 1, "deliveries are counted");
    super::settle(&queue, &taken[0], Outcome::Done).await;
    is_quiet(&queue, &name, "all envelopes have ended").await;
}

/// Checks that a worker that is shut down takes no more envelopes and waits for its handlers, and that no more handlers
/// run than the limit allows.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_shutdown<Q: Queue>(make: impl AsyncFn() -> Q) {
    const CONCURRENCY: usize = 3;
    let (queue, name) = (make().await, fresh("shutdown"));
    let (sender, mut begun) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let (release, released) = oneshot::channel();
        let _ = sender.send((delivery.id, release));
        async move { released.await.unwrap_or(Outcome::GiveUp) }
    };
    let options = WorkOptions::new(&*name)
        .lease(LEASE)
        .concurrency(CONCURRENCY);
    let mut worker = Worker::start(make().await, options, handler);
    let ids: BTreeSet<_> = (0..CONCURRENCY + 2)
        .map(|number| number.to_string())
        .collect();
    for id in &ids {
        add_id(&queue, &name, id).await;
    }
    let mut running = Vec::new();
    for _ in 0..CONCURRENCY {
        running.push(next(&mut begun, "as many handlers run as the limit allows").await);
    }
    sleep(QUIET).await;
    assert!(
        begun.try_recv().is_err(),
        "no more handlers run than the limit allows"
    );
    let (id, release) = running.remove(0);
    let _ = release.send(Outcome::Done);
    running.push(next(&mut begun, "a handler that ends makes room").await);

    worker.shut_down();
    sleep(LEASE * 2).await;
    assert!(
        !worker.task.is_finished(),
        "the worker waits for its running handlers"
    );
    let mut ended = BTreeSet::from([id.to_string()]);
    for (id, release) in running {
        let _ = release.send(Outcome::Done);
        ended.insert(id.to_string());
    }
    worker.end().await;
    assert!(
        begun.try_recv().is_err(),
        "a worker that is shut down takes no more envelopes"
    );

    let left: Vec<_> = ids.difference(&ended).collect();
    assert_eq!(left.len(), 1, "each envelope has one handler");
    let taken = super::take(&queue, &name, LONG_LEASE).await;
    assert_eq!(
        *taken.id, **left[0],
        "the remaining envelope goes to another worker"
    );
    super::settle(&queue, &taken, Outcome::Done).await;
    is_quiet(&queue, &name, "handled envelopes are not delivered again").await;
}

/// Checks that a worker keeps the envelopes that it has taken in advance, leaves the others to other workers, and returns
/// what waits when it is shut down.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_prefetch<Q: Queue>(make: impl AsyncFn() -> Q) {
    const PREFETCH: usize = 4;
    const ENVELOPES: usize = 7;
    let (queue, name) = (make().await, fresh("prefetch"));
    for number in 0..ENVELOPES {
        add_id(&queue, &name, &number.to_string()).await;
    }
    let (sender, mut begun) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let (release, released) = oneshot::channel();
        let _ = sender.send((delivery, release));
        async move { released.await.unwrap_or(Outcome::GiveUp) }
    };
    let options = WorkOptions::new(&*name)
        .lease(LEASE)
        .concurrency(1)
        .prefetch(PREFETCH);
    let mut worker = Worker::start(make().await, options, handler);
    let (_, release) = next(&mut begun, "a handler runs").await;
    sleep(LEASE * 3).await;
    assert!(
        begun.try_recv().is_err(),
        "no more handlers run than the limit allows"
    );
    let mut ended = 1;
    while let Ok(taken) = timeout(QUIET, queue.take(&name, ENVELOPES, LEASE)).await {
        for taken in taken.expect("a call of `take` succeeds") {
            super::settle(&queue, &taken, Outcome::Done).await;
            ended += 1;
        }
    }
    // The worker has a handler and at least half of what it may take in advance.
    let kept = ENVELOPES - ended;
    assert!(
        (PREFETCH / 2..=PREFETCH).contains(&kept),
        "a worker keeps what it has taken in advance, and takes no more than it may, but has {kept}"
    );

    let _ = release.send(Outcome::Done);
    let (delivery, release) = next(&mut begun, "an envelope that waits is handled").await;
    assert!(delivery.lease.is_held(), "a handler starts under its lease");
    assert_eq!(
        delivery.number, 1,
        "the lease of an envelope that waits is renewed"
    );
    worker.shut_down();
    for _ in 1..kept {
        let taken = super::take(&queue, &name, LONG_LEASE).await;
        assert!(taken.number > 1, "deliveries are counted");
        super::settle(&queue, &taken, Outcome::Done).await;
    }
    assert!(
        delivery.lease.is_held(),
        "what waits is returned while a handler runs"
    );
    let _ = release.send(Outcome::Done);
    worker.end().await;
    assert!(
        begun.try_recv().is_err(),
        "a worker that is shut down starts no handlers"
    );
    is_quiet(&queue, &name, "all envelopes have ended").await;
}

/// Checks that four workers handle a thousand envelopes, each once and by one handler. Run it on a multi-threaded
/// runtime as well.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_workers<Q: Queue>(make: impl AsyncFn() -> Q) {
    const WORKERS: usize = 4;
    const ENVELOPES: usize = 1000;
    const CONCURRENCY: usize = 8;
    let (queue, name) = (make().await, fresh("workers"));
    let deliveries = Arc::new(Mutex::new(BTreeMap::<Arc<str>, usize>::new()));
    let (sender, mut handled) = mpsc::unbounded_channel();
    let mut workers = Vec::new();
    let mut most = Vec::new();
    for _ in 0..WORKERS {
        let running = Arc::new(AtomicUsize::new(0));
        let highest = Arc::new(AtomicUsize::new(0));
        most.push(highest.clone());
        let (deliveries, sender) = (deliveries.clone(), sender.clone());
        let handler = move |delivery: Delivery| {
            let (deliveries, sender) = (deliveries.clone(), sender.clone());
            let (running, highest) = (running.clone(), highest.clone());
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                highest.fetch_max(now, Ordering::SeqCst);
                *lock(&deliveries).entry(delivery.id).or_default() += 1;
                sleep(Duration::from_millis(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                let _ = sender.send(());
                Outcome::Done
            }
        };
        let options = WorkOptions::new(&*name)
            .lease(LONG_LEASE)
            .concurrency(CONCURRENCY);
        workers.push(Worker::start(make().await, options, handler));
    }
    let ids: Vec<_> = (0..ENVELOPES).map(|number| number.to_string()).collect();
    for ids in ids.chunks(RIVALS) {
        let enqueue = ids.iter().map(|id| queue.enqueue(envelope(&name, id)));
        join_all(enqueue.map(|enqueue| answer("enqueue", enqueue))).await;
    }
    for _ in 0..ENVELOPES {
        next(&mut handled, "every envelope is handled").await;
    }
    for worker in workers {
        worker.end().await;
    }
    is_quiet(&queue, &name, "all envelopes have ended").await;
    let deliveries = lock(&deliveries);
    assert_eq!(deliveries.len(), ENVELOPES, "every envelope is handled");
    let twice: Vec<_> = deliveries.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "no envelope is handled twice: {twice:?}");
    for most in most {
        assert!(
            most.load(Ordering::SeqCst) <= CONCURRENCY,
            "no more handlers run than the limit allows"
        );
    }
}
