//! Workers that crash, stall, shut down or are overloaded, and the effects on their tasks.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::task::{Act, Broken, SECOND, act, builder, chain, client, process};
use test_support::{Counter, Log, soon, until};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Capabilities, CompareAndSet, Enqueued, Entry, Envelope,
    Outcome, Page, Queue, Receipt, Revision, Store, Taken, WatchStream,
};
use tower_promises_tasks::{
    TaskContext, TaskError, TaskFailure, TaskId, TaskQueueOptions, TaskState, Tasks,
};

/// Returns a process in which tasks never end, and a counter of started attempts.
fn endless(backend: &Backend) -> (Tasks, Counter) {
    let begun = Counter::default();
    let count = begun.clone();
    let tasks = process(backend, move |_, _| {
        count.add();
        std::future::pending()
    });
    (tasks, begun)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_kills_its_workers_ends_as_a_dead_letter() {
    let log = Log::start();
    let backend = Backend::memory();
    let client = client(&backend);
    let id = client.queue("main").submit(act("poison")).await.unwrap();
    for crash in 1..=3 {
        let (process, begun) = endless(&backend);
        let worker = process.work().unwrap();
        let mut watch = client.watch(&id).unwrap();
        let status = soon(async {
            loop {
                let status = watch.changed().await.unwrap();
                if begun.get() > 0 {
                    break status;
                }
            }
        });
        let status = status.await;
        assert_eq!(
            (status.state(), status.attempt()),
            (TaskState::Running, crash)
        );
        // Like the end of the process.
        drop(worker);
    }
    let (process, begun) = endless(&backend);
    let _worker = process.work().unwrap();
    let error = soon(client.output::<Act>(&id)).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
    assert!(
        chain(&error).contains("the worker has ended"),
        "{}",
        chain(&error)
    );
    assert_eq!(begun.get(), 0, "the task does not begin again");
    assert!(log.text().contains("task is a dead letter now"));
    let letters = client.queue("main").dead_letters().await.unwrap();
    assert_eq!(letters.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_tasks_and_takes_no_more() {
    let backend = Backend::memory();
    let gate = Arc::new(Semaphore::new(0));
    let begun = Counter::default();
    let process = process(&backend, {
        let (gate, begun) = (gate.clone(), begun.clone());
        move |argument, _| {
            let (gate, begun) = (gate.clone(), begun.clone());
            async move {
                begun.add();
                gate.acquire().await.unwrap().forget();
                Ok(argument)
            }
        }
    });
    let worker = process.work().unwrap();
    let first = process.queue("main").submit(act("first")).await.unwrap();
    until("the task begins", || begun.get() == 1).await;
    let drain = tokio::spawn(worker.drain(SECOND * 60));
    tokio::task::yield_now().await;
    let second = process.queue("main").submit(act("second")).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(2);
    assert_eq!(drain.await.unwrap(), 0);
    assert_eq!(process.output::<Act>(&first).await.unwrap(), "first");
    let status = process.status(&second).await.unwrap();
    assert_eq!(status.state(), TaskState::Queued);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_end_in_time_are_returned_at_once() {
    let backend = Backend::memory();
    let id = TaskId::new("slow");
    // More repetitions than the maximum number of attempts.
    for _ in 0..5 {
        let (process, begun) = endless(&backend);
        let worker = process.work().unwrap();
        process
            .queue("main")
            .submit(act(""))
            .with_id(id.clone())
            .await
            .unwrap();
        until("the task begins", || begun.get() == 1).await;
        let start = Instant::now();
        assert_eq!(worker.drain(SECOND).await, 1);
        assert_eq!(start.elapsed(), SECOND);
        let status = process.status(&id).await.unwrap();
        assert_eq!((status.state(), status.attempt()), (TaskState::Queued, 0));
    }
    let process = process(&backend, async |_, context| {
        Ok(context.attempt().to_string())
    });
    let _worker = process.work().unwrap();
    let start = Instant::now();
    assert_eq!(soon(process.output::<Act>(&id)).await.unwrap(), "1");
    assert!(
        start.elapsed() < SECOND * 2,
        "no wait for the end of a lease"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_takes_too_long_has_failed() {
    let backend = Backend::memory();
    let stopped = Counter::default();
    let process = builder(&backend, {
        let stopped = stopped.clone();
        move |_, context: TaskContext| {
            let guard = stopped.on_drop();
            async move {
                std::future::pending::<()>().await;
                drop((guard, context));
                Ok(String::new())
            }
        }
    });
    let queue = TaskQueueOptions::new("main")
        .task::<Act>()
        .timeout(SECOND * 90);
    let process = process.queue(queue).build();
    let _worker = process.work().unwrap();
    let start = Instant::now();
    let error = soon(process.queue("main").call(act(""))).await.unwrap_err();
    assert!(matches!(error, TaskError::Failed { .. }));
    assert!(
        chain(&error).ends_with(": the task took more than 90s"),
        "{}",
        chain(&error)
    );
    assert!(start.elapsed() < SECOND * 92);
    assert_eq!(stopped.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_waited_too_long_does_not_begin() {
    let backend = Backend::memory();
    let late = builder(&backend, async |_, _| Ok(String::new()));
    let late = late.lifetime(Duration::ZERO).build();
    let (process, begun) = endless(&backend);
    let _worker = process.work().unwrap();
    let error = soon(late.queue("main").call(act(""))).await.unwrap_err();
    assert!(matches!(error, TaskError::Failed { .. }));
    assert!(chain(&error).ends_with(": it has waited longer than its lifetime"));
    assert_eq!(begun.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_worker_expires() {
    let backend = Backend::memory();
    let late = builder(&backend, async |_, _| Ok(String::new()));
    let late = late.lifetime(SECOND * 60).build();
    let error = soon(late.queue("main").call(act(""))).await.unwrap_err();
    assert!(matches!(error, TaskError::NotFound { .. }), "{error:?}");
}

/// The queue of a disconnected worker, which assumes that its leases are still active.
struct OutOfTouch(MemoryQueue);

impl Queue for OutOfTouch {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        self.0.enqueue(envelope)
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        self.0.take(queue, limit, lease)
    }

    fn renew<'a>(
        &'a self,
        _: &'a Receipt,
        _: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async { Ok(true) })
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.0.settle(receipt, outcome)
    }
}

/// Two workers run the same task at the same time. The second one ends first.
async fn a_lost_lease(poll_interval: Duration) -> (String, usize) {
    let (store, bus, queue) = (MemoryStore::new(), MemoryBus::new(), MemoryQueue::new());
    let touching = Backend::new(store.clone(), bus.clone(), queue.clone());
    let out_of_touch = Backend::new(store, bus, OutOfTouch(queue));
    let (begun, dropped) = (Counter::default(), Counter::default());
    let late = builder(&out_of_touch, {
        let (begun, dropped) = (begun.clone(), dropped.clone());
        move |_, _| {
            begun.add();
            let guard = dropped.on_drop();
            async move {
                tokio::time::sleep(SECOND * 120).await;
                std::mem::forget(guard);
                Ok("late".into())
            }
        }
    });
    // One slot, so the worker cannot receive the same task again.
    let queue = TaskQueueOptions::new("main").task::<Act>().concurrency(1);
    let late = late.queue(queue).poll_interval(poll_interval).build();
    let worker = late.work().unwrap();
    let id = late.queue("main").submit(act("")).await.unwrap();
    until("the task begins", || begun.get() == 1).await;

    let other = process(&touching, async |_, context| {
        Ok(format!("in time {}", context.attempt()))
    });
    let _worker = other.work().unwrap();
    assert_eq!(soon(other.output::<Act>(&id)).await.unwrap(), "in time 2");
    assert_eq!(worker.drain(SECOND * 1000).await, 0);
    (other.output::<Act>(&id).await.unwrap(), dropped.get())
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_lost_its_lease_does_not_change_the_result() {
    let log = Log::start();
    let (output, dropped) = a_lost_lease(SECOND * 10_000).await;
    assert_eq!((&*output, dropped), ("in time 2", 0));
    assert!(log.text().contains("another worker has the task"));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_lost_its_lease_drops_the_task() {
    let (output, dropped) = a_lost_lease(SECOND * 5).await;
    assert_eq!((&*output, dropped), ("in time 2", 1));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_type_of_task_is_a_dead_letter_in_the_end() {
    let backend = Backend::memory();
    let id = client(&backend)
        .queue("main")
        .submit(act(""))
        .await
        .unwrap();
    let old = Tasks::builder(backend.clone())
        .queue(TaskQueueOptions::new("main"))
        .build();
    let start = Instant::now();
    let worker = old.work().unwrap();
    let error = soon(old.output::<Act>(&id)).await.unwrap_err();
    assert!(chain(&error).ends_with("this worker does not know tasks `act`"));
    assert!(
        start.elapsed() >= SECOND * 60,
        "a roll-out has time to finish"
    );
    drop(worker);

    let new = process(&backend, async |_, _| Ok("known".into()));
    let _worker = new.work().unwrap();
    new.queue("main").send_again(&id).await.unwrap();
    assert_eq!(soon(new.output::<Act>(&id)).await.unwrap(), "known");
}

#[tokio::test(start_paused = true)]
async fn an_invalid_envelope_does_not_block_tasks() {
    let log = Log::start();
    let backend = Backend::memory();
    let envelope = Envelope::new("task/main", "x", "no task".into());
    backend.queue().enqueue(envelope).await.unwrap();
    let process = process(&backend, async |argument, _| Ok(argument));
    let _worker = process.work().unwrap();
    assert_eq!(
        soon(process.queue("main").call(act("x"))).await.unwrap(),
        "x"
    );
    assert!(
        log.text()
            .contains("an envelope in the queue is not a task")
    );
}

/// A store that fails on request of the test.
#[derive(Clone)]
struct Fragile {
    store: MemoryStore,
    fails: Arc<AtomicBool>,
    /// The next change takes effect, but returns an error.
    seems_to_fail: Arc<AtomicBool>,
}

impl Fragile {
    async fn or_fail<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(BackendError::unavailable("it is down"));
        }
        answer.await
    }
}

impl Store for Fragile {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(self.or_fail(self.store.get(key)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(self.or_fail(self.store.put(key, value, time_to_live)))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(async move {
            let store = &self.store;
            let set = store.compare_and_set(key, expected, value, time_to_live);
            let set = self.or_fail(set).await;
            if self.seems_to_fail.swap(false, Ordering::SeqCst) {
                return Err(BackendError::unavailable("the answer is lost"));
            }
            set
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.or_fail(self.store.delete(key)))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        Box::pin(self.or_fail(self.store.list(prefix, after, limit)))
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_continue_when_the_store_has_recovered() {
    let store = Fragile {
        store: MemoryStore::new(),
        fails: Arc::default(),
        seems_to_fail: Arc::default(),
    };
    let backend = Backend::new(store.clone(), MemoryBus::new(), MemoryQueue::new());
    let fails = |fails| store.fails.store(fails, Ordering::SeqCst);
    let begun = Counter::default();
    let process = process(&backend, {
        let (begun, fails) = (begun.clone(), store.fails.clone());
        move |argument, _| {
            begun.add();
            fails.store(true, Ordering::SeqCst);
            async { Ok(argument) }
        }
    });
    fails(true);
    let error = process.queue("main").submit(act("x")).await.unwrap_err();
    assert_eq!(
        chain(&error),
        "tasks: backend failed: the backend is not available: it is down"
    );
    fails(false);

    let id = process.queue("main").submit(act("x")).await.unwrap();
    fails(true);
    // Neither the waiting call nor the worker gives up.
    let output = tokio::spawn({
        let (process, id) = (process.clone(), id.clone());
        async move { process.output::<Act>(&id).await }
    });
    let _worker = process.work().unwrap();
    tokio::time::sleep(SECOND * 30).await;
    assert_eq!(
        begun.get(),
        0,
        "a task that cannot be claimed does not begin"
    );
    fails(false);
    while begun.get() == 0 {
        tokio::time::sleep(SECOND / 10).await;
    }
    // Storing the result failed at first.
    tokio::time::sleep(SECOND).await;
    fails(false);
    assert_eq!(soon(output).await.unwrap().unwrap(), "x");
    assert_eq!(begun.get(), 1);
    assert_eq!(process.status(&id).await.unwrap().attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_task_is_lost_when_an_answer_of_the_store_is_lost() {
    let store = Fragile {
        store: MemoryStore::new(),
        fails: Arc::default(),
        seems_to_fail: Arc::default(),
    };
    let backend = Backend::new(store.clone(), MemoryBus::new(), MemoryQueue::new());
    let process = process(&backend, {
        let seems_to_fail = store.seems_to_fail.clone();
        move |argument, context| {
            // The call that fails is the one that records the end of this attempt.
            seems_to_fail.store(context.attempt() < 3, Ordering::SeqCst);
            async move {
                match (&*argument, context.attempt()) {
                    ("conflict", 1) => Err(TaskFailure::conflict(Broken)),
                    ("error", _) => Err(Broken.into()),
                    (_, attempt) => Ok(attempt.to_string()),
                }
            }
        }
    });
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    assert_eq!(soon(queue.call(act("conflict"))).await.unwrap(), "2");
    assert_eq!(soon(queue.call(act("success"))).await.unwrap(), "1");
    let error = soon(queue.call(act("error"))).await.unwrap_err();
    assert!(matches!(error, TaskError::Failed { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_record_is_recreated_from_the_queue() {
    let backend = Backend::memory();
    let id = client(&backend)
        .queue("main")
        .submit(act("x"))
        .await
        .unwrap();
    assert!(
        backend
            .store()
            .delete(&format!("task/record/{id}"))
            .await
            .unwrap()
    );
    let process = process(&backend, async |argument, _| Ok(argument));
    let _worker = process.work().unwrap();
    let output = soon(async {
        loop {
            match process.output::<Act>(&id).await {
                Err(TaskError::NotFound { .. }) => tokio::task::yield_now().await,
                other => break other,
            }
        }
    });
    assert_eq!(output.await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_an_error_and_leaves_nothing() {
    let queue = MemoryQueue::builder().max_envelopes(1).build();
    let backend = Backend::new(MemoryStore::new(), MemoryBus::new(), queue);
    assert!(backend.queue().capabilities().delays);
    let queue = client(&backend).queue("main");
    queue.submit(act("x")).await.unwrap();
    let submit = queue.submit(act("y")).with_id("y");
    let error = submit.await.unwrap_err();
    assert!(matches!(
        error,
        TaskError::Backend {
            error: BackendError::Full,
            ..
        }
    ));
    // The task can be submitted once the queue has room.
    let tasks = process(&backend, async |argument, _| Ok(argument));
    let error = tasks.status(&"y".into()).await.unwrap_err();
    assert!(matches!(error, TaskError::NotFound { .. }));
}
