//! Tasks with a slow or failing queue, bus or store, and the order of backend calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::task::{Act, SECOND, act, builder, chain, client, process};
use test_support::{Counter, Log, soon, until};
use tokio::time::{Instant, sleep, timeout};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Bus, BusStream, Capabilities, CompareAndSet, Enqueued, Entry,
    Envelope, Handler, Outcome, Page, Priority, Queue, Receipt, Revision, Store, Taken,
    WatchStream, WorkOptions,
};
use tower_promises_tasks::{TaskError, TaskState};

/// The fault of a [`Faulty`] queue.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The first envelope is lost, and the caller gets an error that reports the loss.
    LosesTheFirst,
    /// The first envelope is added, but the caller gets an error that leaves this open.
    LosesTheFirstAnswer,
    HasNoPriorities,
    Nothing,
}

#[derive(Clone)]
struct Faulty {
    fault: Fault,
    queue: MemoryQueue,
    store: MemoryStore,
    /// The results of `enqueue`.
    enqueued: Arc<Mutex<Vec<Enqueued>>>,
    calls: Arc<AtomicUsize>,
    /// The states of tasks in the store when their envelopes were settled.
    known: Arc<Mutex<Vec<String>>>,
    /// The requested pauses before the next deliveries.
    retried: Arc<Mutex<Vec<Duration>>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            queue: MemoryQueue::new(),
            store: MemoryStore::new(),
            enqueued: Arc::default(),
            calls: Arc::default(),
            known: Arc::default(),
            retried: Arc::default(),
        }
    }

    fn backend(&self) -> Backend {
        Backend::new(self.store.clone(), MemoryBus::new(), self.clone())
    }

    fn is_first(&self) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst) == 0
    }
}

impl Queue for Faulty {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.queue.capabilities();
        capabilities.priorities = self.fault != Fault::HasNoPriorities;
        capabilities
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move {
            self.capabilities().check(&envelope)?;
            let is_first = self.is_first();
            if is_first && self.fault == Fault::LosesTheFirst {
                return Err(BackendError::unavailable("it is lost"));
            }
            let enqueued = self.queue.enqueue(envelope).await?;
            self.enqueued.lock().unwrap().push(enqueued);
            if is_first && self.fault == Fault::LosesTheFirstAnswer {
                return Err(BackendError::unavailable("the answer is lost"));
            }
            Ok(enqueued)
        })
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        self.queue.take(queue, limit, lease)
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.queue.renew(receipt, lease)
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            if outcome == Outcome::Done {
                let entry = self.store.get("task/record/x").await?.unwrap();
                let record = String::from_utf8(entry.value.to_vec()).unwrap();
                self.known.lock().unwrap().push(record);
            }
            if let Outcome::Retry { after } = outcome {
                self.retried.lock().unwrap().push(after);
            }
            self.queue.settle(receipt, outcome).await
        })
    }
}

/// A queue in which the first workers end with an error after a while.
#[derive(Clone)]
struct Ending {
    queue: MemoryQueue,
    /// The lifetimes of these workers.
    lives: Vec<Duration>,
    /// The times at which workers started.
    started: Arc<Mutex<Vec<Instant>>>,
}

impl Ending {
    fn new(lives: impl Into<Vec<Duration>>) -> Self {
        Self {
            queue: MemoryQueue::new(),
            lives: lives.into(),
            started: Arc::default(),
        }
    }

    fn backend(&self) -> Backend {
        Backend::new(MemoryStore::new(), MemoryBus::new(), self.clone())
    }
}

impl Queue for Ending {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        self.queue.enqueue(envelope)
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        self.queue.take(queue, limit, lease)
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.queue.renew(receipt, lease)
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.queue.settle(receipt, outcome)
    }

    fn work<'a>(
        &'a self,
        options: WorkOptions,
        handler: Arc<dyn Handler>,
        shutdown: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let mut started = self.started.lock().unwrap();
        started.push(Instant::now());
        if let Some(life) = self.lives.get(started.len() - 1).copied() {
            return Box::pin(async move {
                sleep(life).await;
                Err(BackendError::unavailable("it is down"))
            });
        }
        self.queue.work(options, handler, shutdown)
    }
}

/// Whether a pause in milliseconds is at most a quarter shorter than expected. A timer may be a few milliseconds late.
fn is_about(pause: u128, expected: u128) -> bool {
    (expected * 3 / 4..=expected + 3).contains(&pause)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_ended_is_started_again_after_pauses_that_grow() {
    let log = Log::start();
    let queue = Ending::new([Duration::ZERO; 10]);
    let process = process(&queue.backend(), async |argument, _| Ok(argument));
    let worker = process.work().unwrap();
    let output = soon(process.queue("main").call(act("x"))).await;
    assert_eq!(output.unwrap(), "x");
    let started = queue.started.lock().unwrap().clone();
    let pauses: Vec<_> = started.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let milliseconds: Vec<_> = pauses.iter().map(|pause| pause.as_millis()).collect();
    let expected = [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000];
    assert_eq!(milliseconds.len(), expected.len());
    for (pause, expected) in milliseconds.into_iter().zip(expected) {
        assert!(is_about(pause, expected), "{pause} is not about {expected}");
    }
    for part in ["a worker has ended", "it is down", "queue=\"main\""] {
        assert!(log.text().contains(part), "{part}");
    }
    assert_eq!(worker.drain(SECOND).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ran_for_long_is_started_again_soon() {
    let queue = Ending::new([Duration::ZERO, Duration::ZERO, SECOND * 10]);
    let process = process(&queue.backend(), async |argument, _| Ok(argument));
    let _worker = process.work().unwrap();
    soon(process.queue("main").call(act("x"))).await.unwrap();
    let started = queue.started.lock().unwrap().clone();
    let pauses = [
        started[1] - started[0],
        started[2] - started[1],
        started[3] - started[2] - SECOND * 10,
    ];
    let milliseconds = pauses.map(|pause| pause.as_millis());
    for (pause, expected) in milliseconds.into_iter().zip([100, 200, 100]) {
        assert!(is_about(pause, expected), "{pause} is not about {expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn draining_does_not_wait_for_a_worker_that_pauses() {
    let queue = Ending::new([Duration::ZERO; 1000]);
    let process = process(&queue.backend(), async |argument, _| Ok(argument));
    let worker = process.work().unwrap();
    // The pauses are long by then.
    sleep(SECOND * 100).await;
    let start = Instant::now();
    assert_eq!(worker.drain(SECOND).await, 0);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_result_is_stored_before_the_envelope_is_settled() {
    let queue = Faulty::new(Fault::Nothing);
    let process = process(&queue.backend(), async |argument, _| Ok(argument + "!"));
    let worker = process.work().unwrap();
    let call = process.queue("main").call(act("hello")).with_id("x");
    assert_eq!(soon(call).await.unwrap(), "hello!");
    assert_eq!(worker.drain(SECOND).await, 0);
    let known = queue.known.lock().unwrap();
    let [known] = &known[..] else {
        panic!("{known:?}");
    };
    assert!(
        known.contains("Succeeded") && known.contains("hello!"),
        "{known}"
    );
}

/// Submits a task again after an error. Returns the results of `enqueue`, and the number of runs.
async fn submitted_again(fault: Fault) -> (Vec<Enqueued>, usize) {
    let queue = Faulty::new(fault);
    let ran = Counter::default();
    let count = ran.clone();
    let process = process(&queue.backend(), move |argument, _| {
        count.add();
        async { Ok(argument) }
    });
    let submit = || process.queue("main").submit(act("x")).with_id("x");
    let error = submit().await.unwrap_err();
    assert!(
        matches!(error, TaskError::Backend { .. }),
        "{}",
        chain(&error)
    );
    let id = submit().await.unwrap();
    let worker = process.work().unwrap();
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "x");
    assert_eq!(worker.drain(SECOND).await, 0);
    (queue.enqueued.lock().unwrap().clone(), ran.get())
}

#[tokio::test(start_paused = true)]
async fn a_task_that_may_have_been_enqueued_runs_once_when_it_is_submitted_again() {
    let (enqueued, ran) = submitted_again(Fault::LosesTheFirstAnswer).await;
    // Both submissions use the same envelope id.
    assert_eq!(enqueued, [Enqueued::Added, Enqueued::Duplicate]);
    assert_eq!(ran, 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_stored_but_not_enqueued_is_enqueued_by_the_next_submission() {
    let (enqueued, ran) = submitted_again(Fault::LosesTheFirst).await;
    assert_eq!((enqueued, ran), (vec![Enqueued::Added], 1));
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_the_queue_does_not_have_is_an_error_and_leaves_nothing() {
    let queue = Faulty::new(Fault::HasNoPriorities);
    let client = client(&queue.backend());
    let submit = client.queue("main").submit(act("x"));
    let id = submit.id().clone();
    let error = submit.priority(Priority::High).await.unwrap_err();
    assert!(chain(&error).ends_with("the backend does not support priorities"));
    assert!(matches!(
        client.status(&id).await,
        Err(TaskError::NotFound { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_leaves_nothing() {
    let queue = MemoryQueue::builder().max_envelopes(1).build();
    let backend = Backend::new(MemoryStore::new(), MemoryBus::new(), queue);
    let client = client(&backend);
    client.queue("main").submit(act("x")).await.unwrap();
    let call = client.queue("main").call(act("y"));
    let id = call.id().clone();
    let error = call.await.unwrap_err();
    assert!(chain(&error).ends_with("the backend is full"));
    // The cleanup after a drop runs in another task.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        client.status(&id).await,
        Err(TaskError::NotFound { .. })
    ));
}

/// A bus that never answers.
struct Silent(MemoryBus);

impl Bus for Silent {
    fn publish<'a>(
        &'a self,
        _: &'a str,
        _: bytes::Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(std::future::pending())
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        self.0.listen()
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_does_not_wait_for_the_bus_before_it_begins() {
    let bus = Silent(MemoryBus::new());
    let backend = Backend::new(MemoryStore::new(), bus, MemoryQueue::new());
    let begun = Counter::default();
    let count = begun.clone();
    let process = process(&backend, move |argument, _| {
        count.add();
        async { Ok(argument) }
    });
    let _worker = process.work().unwrap();
    let start = Instant::now();
    let id = process.queue("main").submit(act("x")).await.unwrap();
    until("the task begins", || begun.get() == 1).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    // A waiter in the same process does not wait for the bus either.
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "x");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn all_times_may_be_the_longest_duration() {
    let backend = Backend::memory();
    let begun = Counter::default();
    let count = begun.clone();
    let process = builder(&backend, move |_, _| {
        count.add();
        std::future::pending()
    });
    let forever = Duration::MAX;
    let process = process
        .backend_timeout(forever)
        .poll_interval(forever)
        .progress_interval(forever)
        .lifetime(forever)
        .retention(forever)
        .dead_letter_retention(forever)
        .lease(forever)
        .build();
    let worker = process.work().unwrap();
    let id = process.queue("main").submit(act("x")).await.unwrap();
    until("the task begins", || begun.get() == 1).await;
    assert_eq!(worker.drain(SECOND).await, 1);
    assert_eq!(
        process.status(&id).await.unwrap().state(),
        TaskState::Queued
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_a_lone_task_goes_to_other_workers_eventually() {
    let queue = Faulty::new(Fault::Nothing);
    let begun = Arc::new(Mutex::new(Vec::new()));
    let names = begun.clone();
    let process = process(&queue.backend(), move |name, _| {
        names.lock().unwrap().push(name);
        std::future::pending()
    });
    let begins = |times| {
        let begun = begun.clone();
        soon(async move {
            while begun.lock().unwrap().len() < times {
                sleep(SECOND).await;
            }
        })
    };
    let main = process.queue("main");
    main.submit(act("suspect")).await.unwrap();
    // The task may have crashed these two workers.
    for crash in 1..=2 {
        let worker = process.work().unwrap();
        begins(crash).await;
        drop(worker);
    }
    let _worker = process.work().unwrap();
    begins(3).await;
    main.submit(act("late")).await.unwrap();
    sleep(SECOND * 60 * 4).await;
    assert!(queue.retried.lock().unwrap().is_empty());
    sleep(SECOND * 60 * 2).await;
    assert_eq!(*queue.retried.lock().unwrap(), [SECOND]);
    assert_eq!(
        begun.lock().unwrap().len(),
        3,
        "the suspect task does not begin on this worker"
    );
}

/// A slow store that completes calls even after their futures were dropped.
#[derive(Clone)]
struct Remote(MemoryStore);

impl Store for Remote {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        self.0.get(key)
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: bytes::Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        self.0.put(key, value, time_to_live)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: bytes::Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        let (store, key) = (self.0.clone(), key.to_owned());
        Box::pin(async move {
            let set = tokio::spawn(async move {
                // The first call takes effect after the later one.
                let is_first = expected.is_none() && !is_cancelled(&value);
                sleep(SECOND * u32::from(is_first)).await;
                let set = store.compare_and_set(&key, expected, value, time_to_live);
                set.await
            });
            set.await.unwrap()
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.0.delete(key)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        self.0.list(prefix, after, limit)
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.0.watch(prefix)
    }
}

fn is_cancelled(record: &[u8]) -> bool {
    String::from_utf8_lossy(record).contains("Cancelled")
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_its_task_is_stored_leaves_no_waiting_task() {
    let store = Remote(MemoryStore::new());
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    let client = client(&backend);
    let call = client.queue("main").call(act("x"));
    let id = call.id().clone();
    // The store has received the call, and takes a second.
    assert!(timeout(SECOND / 2, call).await.is_err());
    sleep(SECOND * 10).await;
    let status = client.status(&id).await.unwrap();
    assert_eq!(status.state(), TaskState::Cancelled);
}
