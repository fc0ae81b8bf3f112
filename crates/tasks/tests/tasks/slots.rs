//! Submissions of an id while its task gets the slot of a limit.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use test_support::stepping::{At, Gate, Stepping};
use test_support::task::SECOND;
use test_support::{Counter, soon, until};
use tokio::sync::Semaphore;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue};
use tower_promises_backend::{
    ApplicationConnection, Backend, BackendError, BoxFuture, Bus, CompareAndSet, Enqueued, Entry,
    Envelope, JoinedTransaction, Queue, Revision, Store, Transactional,
};
use tower_promises_tasks::{
    Principal, Submit, Task, TaskContext, TaskFailure, TaskLimit, TaskQueueOptions, Tasks, Unique,
};

/// A task that waits at the gate of the test. Each limit has a key of its own.
#[derive(Serialize, Deserialize)]
struct Export {
    at_once: u32,
}

#[derive(Clone)]
struct Exports {
    started: Counter,
    gate: Arc<Semaphore>,
}

impl Task for Export {
    const NAME: &'static str = "export";
    type Output = ();

    fn limit(&self, _: Option<&Principal>) -> Option<TaskLimit> {
        Some(TaskLimit::new(self.at_once.to_string(), self.at_once))
    }

    async fn run(self, context: TaskContext) -> Result<(), TaskFailure> {
        let exports = context.state::<Exports>()?.clone();
        exports.started.add();
        exports.gate.acquire().await?.forget();
        Ok(())
    }
}

/// Two processes. The first can be stopped where it writes down which tasks have a slot.
struct Site {
    exports: Exports,
    first: Tasks,
    other: Tasks,
    /// The number of the write at which the first process stops. Zero for none.
    stops: Arc<AtomicUsize>,
    stop: Gate,
}

impl Site {
    fn new() -> Self {
        let exports = Exports {
            started: Counter::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let (stops, stop) = (Arc::new(AtomicUsize::new(0)), Gate::new());
        let left = stops.clone();
        let store = Stepping::gated(&stop, move |at, key| {
            let is_write = at == At::BeforeWrite && key.starts_with("task/limit/");
            match left.load(Ordering::SeqCst) {
                0 => false,
                1 => is_write,
                more => {
                    left.store(more - usize::from(is_write), Ordering::SeqCst);
                    false
                }
            }
        });
        let (bus, queue) = (MemoryBus::new(), MemoryQueue::new());
        let elsewhere = Immediate {
            store: store.elsewhere(),
            bus: bus.clone(),
            queue: queue.clone(),
        };
        let process = |backend| {
            let exports = exports.clone();
            let queue = TaskQueueOptions::new("main")
                .task::<Export>()
                .concurrency(1);
            Tasks::builder(backend).queue(queue).state(exports).build()
        };
        let first = process(Backend::new(store, bus, queue));
        let other = Backend::new(
            elsewhere.store.clone(),
            elsewhere.bus.clone(),
            elsewhere.queue.clone(),
        );
        Self {
            first,
            other: process(other.transactional(elsewhere)),
            exports,
            stops,
            stop,
        }
    }

    fn submit(&self, id: &str, at_once: u32) -> Submit {
        let submit = self.other.queue("main").submit(Export { at_once });
        submit.with_id(id)
    }

    /// Stops the first process before this write of the document with the slots, counted from now on, and each later one.
    fn stop_at_write(&self, number: usize) {
        self.stops.store(number, Ordering::SeqCst);
    }

    /// Time does not advance while envelopes follow each other without an end.
    async fn sees_start(&self, at: &str) {
        for _ in 0..1000 {
            if self.exports.started.get() == 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{at}: the task does not start");
    }

    async fn see_task(&self, at: &str) {
        let id = "task".into();
        soon(self.other.output::<Export>(&id)).await.expect(at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_submitted_again_while_it_gets_a_slot_runs() {
    for (unique, is_within) in [
        (Unique::Same, true),
        (Unique::KeepFirst, true),
        (Unique::Replace, true),
        (Unique::Same, false),
        (Unique::KeepFirst, false),
        (Unique::Replace, false),
    ] {
        let site = Site::new();
        let submit = |id| site.submit(id, 1).unique(unique);
        submit("before").await.unwrap();
        let _worker = site.first.work().unwrap();
        until("the first task runs", || site.exports.started.get() == 1).await;
        submit("task").await.unwrap();
        site.stop_at_write(1);
        site.exports.gate.add_permits(2);
        site.stop.is_reached().await;

        if is_within {
            submit("task").within(&mut ()).await.unwrap();
        } else {
            submit("task").await.unwrap();
        }
        let _other = site.other.work().unwrap();
        // What the other process can do at this moment.
        tokio::time::sleep(SECOND).await;
        site.stop.open();
        let at = format!("{unique:?}, in a transaction: {is_within}");
        site.see_task(&at).await;
        assert_eq!(site.exports.started.get(), 2, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_submitted_again_after_it_got_a_slot_runs_once() {
    for unique in [Unique::Same, Unique::KeepFirst, Unique::Replace] {
        for is_within in [false, true] {
            let site = Site::new();
            // Slots are free.
            for _ in 0..4 {
                let submit = site.submit("task", 3).unique(unique);
                if is_within {
                    submit.within(&mut ()).await.unwrap();
                } else {
                    submit.await.unwrap();
                }
            }
            let _workers = [site.first.work().unwrap(), site.other.work().unwrap()];
            let at = format!("{unique:?}, in a transaction: {is_within}");
            site.exports.gate.add_permits(1);
            site.sees_start(&at).await;
            site.see_task(&at).await;
            // Longer than anything that is repeated after a pause.
            tokio::time::sleep(SECOND * 100).await;
            assert_eq!(site.exports.started.get(), 1, "{at}");
        }
    }
}

/// A process ends while it gives a slot to a task that it submits.
#[tokio::test(start_paused = true)]
async fn a_task_whose_submission_was_not_acknowledged_runs_after_it_is_submitted_again() {
    for unique in [Unique::Same, Unique::KeepFirst, Unique::Replace] {
        for is_within in [false, true] {
            let site = Site::new();
            // The first write is the place in the line.
            site.stop_at_write(2);
            let submit = site.first.queue("main").submit(Export { at_once: 1 });
            let submit = tokio::spawn(submit.with_id("task").unique(unique));
            site.stop.is_reached().await;
            submit.abort();

            let submit = site.submit("task", 1).unique(unique);
            if is_within {
                submit.within(&mut ()).await.unwrap();
            } else {
                submit.await.unwrap();
            }
            let _worker = site.other.work().unwrap();
            site.exports.gate.add_permits(1);
            let at = format!("{unique:?}, in a transaction: {is_within}");
            site.see_task(&at).await;
            assert_eq!(site.exports.started.get(), 1, "{at}");
        }
    }
}

/// A process ends while it gives a slot of another limit to a task that it replaces.
#[tokio::test(start_paused = true)]
async fn a_task_that_was_replaced_with_another_limit_runs_although_its_process_has_ended() {
    let site = Site::new();
    let submit = site.submit("task", 1).unique(Unique::Replace);
    submit.await.unwrap();
    site.stop_at_write(2);
    let submit = site.first.queue("main").submit(Export { at_once: 2 });
    let submit = tokio::spawn(submit.with_id("task").unique(Unique::Replace).into_future());
    site.stop.is_reached().await;
    submit.abort();

    let _worker = site.other.work().unwrap();
    site.exports.gate.add_permits(1);
    site.see_task("replaced").await;
    assert_eq!(site.exports.started.get(), 1);
}

/// Transactions that commit with each of their calls.
struct Immediate {
    store: Stepping,
    bus: MemoryBus,
    queue: MemoryQueue,
}

impl Transactional for Immediate {
    fn join<'c>(
        &'c self,
        _: ApplicationConnection<'c>,
    ) -> BoxFuture<'c, Result<Box<dyn JoinedTransaction + 'c>, BackendError>> {
        Box::pin(async move { Ok(Box::new(self) as Box<dyn JoinedTransaction>) })
    }
}

impl JoinedTransaction for &Immediate {
    fn get<'a>(&'a mut self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        self.store.get(key)
    }

    fn compare_and_set<'a>(
        &'a mut self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        self.store
            .compare_and_set(key, expected, value, time_to_live)
    }

    fn enqueue(&mut self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        self.queue.enqueue(envelope)
    }

    fn publish<'a>(
        &'a mut self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.bus.publish(topic, payload)
    }

    fn finish<'a>(self: Box<Self>) -> BoxFuture<'a, Result<(), BackendError>>
    where
        Self: 'a,
    {
        Box::pin(async { Ok(()) })
    }
}
