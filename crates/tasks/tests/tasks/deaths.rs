//! A process that dies at any call of its backend: before the call takes effect, or after it and before the answer.

use bytes::Bytes;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use test_support::task::{SECOND, act, builder};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Capabilities, CompareAndSet, Enqueued, Entry, Envelope,
    Outcome, Queue, Receipt, Revision, Store, Taken, WatchStream,
};
use tower_promises_tasks::{Schedule, TaskId, TaskState, Tasks};

/// A process whose backend calls are counted. It dies at one of them.
#[derive(Clone)]
struct Mortal {
    store: MemoryStore,
    queue: MemoryQueue,
    calls: Arc<Mutex<Life>>,
    died: Arc<Notify>,
}

struct Life {
    calls: usize,
    /// The number of the last call.
    last: usize,
    /// Whether the last call takes effect.
    has_effect: bool,
}

impl Mortal {
    /// A process that shares the backend and lives on.
    fn successor(&self) -> Self {
        let life = Life {
            calls: 0,
            last: usize::MAX,
            has_effect: true,
        };
        Self {
            calls: Arc::new(Mutex::new(life)),
            died: Arc::default(),
            ..self.clone()
        }
    }

    fn backend(&self) -> Backend {
        Backend::new(self.clone(), MemoryBus::new(), self.clone())
    }

    async fn call<T>(&self, call: BoxFuture<'_, T>) -> T {
        let (dies, has_effect) = {
            let mut life = self.calls.lock().unwrap();
            life.calls += 1;
            (
                life.calls >= life.last,
                life.calls == life.last && life.has_effect,
            )
        };
        if !dies {
            return call.await;
        }
        if has_effect {
            call.await;
        }
        self.died.notify_one();
        pending().await
    }
}

impl Store for Mortal {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(self.call(self.store.get(key)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(self.call(self.store.put(key, value, time_to_live)))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(
            self.call(
                self.store
                    .compare_and_set(key, expected, value, time_to_live),
            ),
        )
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.call(self.store.delete(key)))
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

impl Queue for Mortal {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(self.call(self.queue.enqueue(envelope)))
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
        Box::pin(self.call(self.queue.settle(receipt, outcome)))
    }
}

/// Runs a scenario once for each backend call of the first process, which dies at that call, before it or after it.
/// The scenario gets the process, and returns when it has checked what the next process has made of it.
async fn at_each_call(scenario: impl AsyncFn(&Mortal)) {
    for has_effect in [false, true] {
        for last in 1.. {
            let life = Life {
                calls: 0,
                last,
                has_effect,
            };
            let mortal = Mortal {
                store: MemoryStore::new(),
                queue: MemoryQueue::new(),
                calls: Arc::new(Mutex::new(life)),
                died: Arc::default(),
            };
            scenario(&mortal).await;
            if mortal.calls.lock().unwrap().calls < last {
                assert!(last > 3, "the scenario has few calls: {last}");
                break;
            }
        }
    }
}

/// The tasks that have run, with the ends that they were called on.
type Calls = Arc<Mutex<Vec<(String, Option<(TaskId, TaskState)>)>>>;

fn process(backend: &Backend, calls: &Calls) -> Tasks {
    let calls = calls.clone();
    let script = move |name: String, context: tower_promises_tasks::TaskContext| {
        let calls = calls.clone();
        async move {
            let ended = context.ended();
            let ended = ended.map(|ended| (ended.id().clone(), ended.state()));
            calls.lock().unwrap().push((name.clone(), ended));
            match &*name {
                "fails" => Err("it fails".into()),
                _ => Ok(name),
            }
        }
    };
    builder(backend, script).build()
}

#[tokio::test(start_paused = true)]
async fn a_task_is_called_on_an_end_wherever_the_process_dies() {
    for (name, state) in [
        ("works", TaskState::Succeeded),
        ("fails", TaskState::Failed),
    ] {
        at_each_call(async |mortal| {
            let (calls, backend) = (Calls::default(), mortal.successor().backend());
            let client = process(&backend, &calls);
            let submit = client.queue("main").submit(act(name)).with_id("first");
            submit.on_end("main", act("told")).await.unwrap();
            let worker = process(&mortal.backend(), &calls).work().unwrap();
            let _ = timeout(SECOND * 100, mortal.died.notified()).await;
            drop(worker);
            let _worker = client.work().unwrap();
            sleep(SECOND * 100).await;
            let status = client.status(&"first".into()).await.unwrap();
            assert_eq!(status.state(), state);
            let calls = calls.lock().unwrap();
            let told: Vec<_> = calls.iter().filter(|(name, _)| name == "told").collect();
            assert!(!told.is_empty());
            for (_, ended) in told {
                assert_eq!(*ended, Some((TaskId::from("first"), state)));
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_due_time_runs_wherever_the_process_dies() {
    at_each_call(async |mortal| {
        let start = Instant::now();
        let clock = move || SystemTime::UNIX_EPOCH + SECOND * 3_000_030 + start.elapsed();
        let calls = Calls::default();
        let process = |backend: &Backend| {
            let calls = calls.clone();
            let hourly = Schedule::new("tick", "main", "0 * * * *", |due| {
                let due = due.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                act(due.as_secs().to_string())
            });
            let script = move |due: String, _| {
                calls.lock().unwrap().push((due.clone(), None));
                async { Ok(due) }
            };
            builder(backend, script)
                .clock(clock)
                .schedule(hourly.unwrap())
                .build()
        };
        let worker = process(&mortal.backend()).work().unwrap();
        let _ = timeout(SECOND * 5_000, mortal.died.notified()).await;
        drop(worker);
        let next = process(&mortal.successor().backend());
        let _worker = next.work().unwrap();
        sleep(SECOND * 7_200).await;
        // A run whose process has died begins again. No due time is without a run, and each is one task.
        let mut due: Vec<_> = calls
            .lock()
            .unwrap()
            .iter()
            .map(|(due, _)| due.clone())
            .collect();
        due.sort();
        due.dedup();
        let numbers: Vec<u64> = due.iter().map(|due| due.parse().unwrap()).collect();
        assert!(numbers.len() >= 2);
        for pair in numbers.windows(2) {
            assert_eq!(pair[1] - pair[0], 3600);
        }
    })
    .await;
}
