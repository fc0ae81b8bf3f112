//! Dead letters: listing, sending again and discarding.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use test_support::task::{Act, Broken, SECOND, act, builder, process};
use test_support::{Counter, soon, until};
use tokio::sync::Semaphore;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Bus, BusStream, CompareAndSet, Entry, Envelope, Outcome,
    Page, Revision, Store, WatchStream,
};
use tower_promises_tasks::{Principal, TaskError, TaskFailure, TaskId, TaskState, Tasks};

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_listed_and_sent_again() {
    let backend = Backend::memory();
    let is_broken = Arc::new(AtomicBool::new(true));
    let attempts = Counter::default();
    let process = process(&backend, {
        let (is_broken, attempts) = (is_broken.clone(), attempts.clone());
        move |argument, context| {
            attempts.add();
            let is_broken = is_broken.load(Ordering::SeqCst);
            async move {
                if is_broken {
                    return Err(TaskFailure::conflict(Broken));
                }
                let principal = context.principal().unwrap();
                Ok(format!("{argument} {principal} {}", context.attempt()))
            }
        }
    });
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let submit = |task| {
        let queue = &queue;
        Principal::new("ada").scope(async move { queue.submit(act(task)).await })
    };
    let first = submit("first").await.unwrap();
    let _ = soon(process.output::<Act>(&first)).await;
    let second = submit("second").await.unwrap();
    let _ = soon(process.output::<Act>(&second)).await;

    let letters = queue.dead_letters().await.unwrap();
    let ids: Vec<_> = letters.iter().map(|letter| letter.id()).collect();
    assert_eq!(ids, [&first, &second]);
    assert_eq!(letters[0].error().unwrap(), "it is broken");
    assert_eq!(letters[0].principal().unwrap().as_str(), "ada");
    assert_eq!((letters[0].task(), letters[0].attempt()), ("act", 3));

    // The task becomes a dead letter again, after all its attempts.
    queue.send_again(&first).await.unwrap();
    let error = soon(process.output::<Act>(&first)).await.unwrap_err();
    assert!(matches!(error, TaskError::Dead { .. }));
    assert_eq!(attempts.get(), 9);

    is_broken.store(false, Ordering::SeqCst);
    queue.send_again(&first).await.unwrap();
    assert_eq!(
        soon(process.output::<Act>(&first)).await.unwrap(),
        "first ada 1"
    );
    queue.discard(&second).await.unwrap();
    assert!(queue.dead_letters().await.unwrap().is_empty());
    for id in [&first, &second, &TaskId::new("unknown")] {
        let errors = [queue.send_again(id).await, queue.discard(id).await];
        assert!(
            errors
                .iter()
                .all(|error| matches!(error, Err(TaskError::NotFound { .. })))
        );
    }
    assert_eq!(
        process.status(&second).await.unwrap().state(),
        TaskState::Dead
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_not_sent_by_another_queue() {
    let backend = Backend::memory();
    let process = builder(&backend, async |_, _| Err(TaskFailure::conflict(Broken)));
    let process = process.max_attempts(1).build();
    let _worker = process.work().unwrap();
    let id = process.queue("main").submit(act("")).await.unwrap();
    let _ = soon(process.output::<Act>(&id)).await;
    let other = process.queue("other");
    assert!(matches!(
        other.send_again(&id).await,
        Err(TaskError::NotFound { .. })
    ));
    assert!(matches!(
        other.discard(&id).await,
        Err(TaskError::NotFound { .. })
    ));
    assert_eq!(process.queue("main").dead_letters().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_list_of_dead_letters_has_a_limit() {
    let backend = Backend::memory();
    let process = builder(&backend, async |_, _| Err(TaskFailure::conflict(Broken)));
    let process = process.max_attempts(1).build();
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let name = |number| format!("{number:0>900}");
    for number in 0..60 {
        let call = queue.call(act("")).with_id(name(number));
        let error = soon(call).await.unwrap_err();
        assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
    }
    let letters = queue.dead_letters().await.unwrap();
    assert_eq!(letters.len(), 48 * 1024 / 903);
    assert_eq!(letters.last().unwrap().id().as_str(), name(59));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_too_large_for_the_store_is_not_retried_forever() {
    let store = MemoryStore::builder().max_value_bytes(2000).build();
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    let attempts = Counter::default();
    let count = attempts.clone();
    let process = process(&backend, move |argument, _| {
        count.add();
        async move {
            match argument.starts_with("conflict") {
                true => Err(TaskFailure::conflict(Broken)),
                false => std::future::pending().await,
            }
        }
    });
    let worker = process.work().unwrap();
    let queue = process.queue("main");
    let call = queue.call(act(format!("conflict{}", "x".repeat(5000))));
    let error = soon(call).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
    drop(worker);

    let id = queue.submit(act("x".repeat(5000))).await.unwrap();
    for crash in 1..=3 {
        let worker = process.work().unwrap();
        let begins = async {
            while attempts.get() < 3 + crash {
                tokio::time::sleep(SECOND).await;
            }
        };
        soon(begins).await;
        drop(worker);
    }
    let _worker = process.work().unwrap();
    let error = soon(process.output::<Act>(&id)).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
    assert!(queue.dead_letters().await.unwrap().is_empty());
}

/// Returns a process in which each task has a conflict and becomes a dead letter at once.
fn deadly(backend: &Backend) -> (Tasks, Counter) {
    let attempts = Counter::default();
    let count = attempts.clone();
    let process = builder(backend, move |_, _| {
        count.add();
        async { Err(TaskFailure::conflict(Broken)) }
    });
    (process.max_attempts(1).build(), attempts)
}

#[tokio::test(start_paused = true)]
async fn the_list_of_dead_letters_fits_into_the_store_for_all_ids() {
    // The minimum that each adapter accepts.
    let store = MemoryStore::builder().max_value_bytes(64 * 1024).build();
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    let (process, _) = deadly(&backend);
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let name = |number: u32| format!("{}{number:0>3}", "\"".repeat(900));
    for number in 0..60 {
        let call = queue.call(act("")).with_id(name(number));
        let error = soon(call).await.unwrap_err();
        assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
    }
    let letters = queue.dead_letters().await.unwrap();
    assert!(letters.len() > 20, "{}", letters.len());
    assert_eq!(letters.last().unwrap().id().as_str(), name(59));
}

/// A bus that can block one call of `publish`.
struct Holding {
    bus: MemoryBus,
    holds: Arc<AtomicBool>,
    gate: Arc<Semaphore>,
}

impl Bus for Holding {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            if self.holds.swap(false, Ordering::SeqCst) {
                self.gate.acquire().await.unwrap().forget();
            }
            self.bus.publish(topic, payload).await
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        self.bus.listen()
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_fails_while_it_is_sent_again_is_listed() {
    let (holds, gate) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Semaphore::new(0)),
    );
    let bus = Holding {
        bus: MemoryBus::new(),
        holds: holds.clone(),
        gate: gate.clone(),
    };
    let backend = Backend::new(MemoryStore::new(), bus, MemoryQueue::new());
    let (process, attempts) = deadly(&backend);
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let id = queue.submit(act("")).await.unwrap();
    let _ = soon(process.output::<Act>(&id)).await;
    assert_eq!(queue.dead_letters().await.unwrap().len(), 1);

    // The task is in the queue, and still on the list.
    holds.store(true, Ordering::SeqCst);
    let sent = tokio::spawn({
        let (queue, id) = (queue.clone(), id.clone());
        async move { queue.send_again(&id).await }
    });
    until("the task is tried again", || attempts.get() == 2).await;
    let error = soon(process.output::<Act>(&id)).await.unwrap_err();
    assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
    assert!(!sent.is_finished());
    gate.add_permits(1);
    soon(sent).await.unwrap().unwrap();
    let letters = queue.dead_letters().await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id(), &id);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_cancelled_after_it_was_sent_again_is_no_dead_letter() {
    let backend = Backend::memory();
    let (process, _) = deadly(&backend);
    let worker = process.work().unwrap();
    let queue = process.queue("main");
    let id = queue.submit(act("")).await.unwrap();
    let _ = soon(process.output::<Act>(&id)).await;
    assert_eq!(worker.drain(SECOND).await, 0);
    queue.send_again(&id).await.unwrap();
    // Sending again is possible until an attempt has started.
    queue.send_again(&id).await.unwrap();
    assert!(process.cancel(&id).await.unwrap());
    assert!(queue.dead_letters().await.unwrap().is_empty());
    assert!(matches!(
        queue.send_again(&id).await,
        Err(TaskError::NotFound { .. })
    ));
}

/// A store that fails to update the list of dead letters while `fails` is set.
struct NoList {
    store: MemoryStore,
    fails: Arc<AtomicBool>,
}

impl NoList {
    async fn or_fail<T>(
        &self,
        key: &str,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        if key.starts_with("task/dead/") && self.fails.load(Ordering::SeqCst) {
            return Err(BackendError::unavailable("it is down"));
        }
        answer.await
    }
}

impl Store for NoList {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(self.or_fail(key, self.store.get(key)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        self.store.put(key, value, time_to_live)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        let set = self
            .store
            .compare_and_set(key, expected, value, time_to_live);
        Box::pin(self.or_fail(key, set))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.store.delete(key)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        self.store.list(prefix, after, limit)
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

#[tokio::test(start_paused = true)]
async fn late_deliveries_of_an_earlier_submission_are_ignored() {
    let backend = Backend::memory();
    let attempts = Counter::default();
    let count = attempts.clone();
    let process = builder(&backend, move |_, _| {
        count.add();
        let is_first = count.get() == 1;
        async move {
            if is_first {
                return Err(TaskFailure::conflict(Broken));
            }
            std::future::pending().await
        }
    });
    let process = process.max_attempts(1).build();
    let main = process.queue("main");
    let id = main.submit(act("")).await.unwrap();
    // A queue may deliver an envelope a second time, and late.
    let queue = backend.queue();
    let taken = queue.take("task/main", 1, SECOND).await.unwrap();
    let late = Envelope::new("task/main", "late", taken[0].payload.clone());
    queue.enqueue(late.delay(SECOND * 60)).await.unwrap();
    let after = Duration::ZERO;
    queue
        .settle(&taken[0].receipt, Outcome::Retry { after })
        .await
        .unwrap();

    let _worker = process.work().unwrap();
    let _ = soon(process.output::<Act>(&id)).await;
    main.send_again(&id).await.unwrap();
    until("the task is tried again", || attempts.get() == 2).await;
    tokio::time::sleep(SECOND * 100).await;
    assert_eq!(attempts.get(), 2);
    let status = process.status(&id).await.unwrap();
    assert_eq!((status.state(), status.attempt()), (TaskState::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_could_not_be_listed_is_listed_later() {
    let store = NoList {
        store: MemoryStore::new(),
        fails: Arc::new(AtomicBool::new(true)),
    };
    let fails = store.fails.clone();
    let backend = Backend::new(store, MemoryBus::new(), MemoryQueue::new());
    let (process, attempts) = deadly(&backend);
    let _worker = process.work().unwrap();
    let queue = process.queue("main");
    let id = queue.submit(act("")).await.unwrap();
    let error = soon(process.output::<Act>(&id)).await.unwrap_err();
    assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");
    assert!(queue.dead_letters().await.is_err());
    fails.store(false, Ordering::SeqCst);
    let listed = soon(async {
        loop {
            let letters = queue.dead_letters().await.unwrap();
            if !letters.is_empty() {
                break letters;
            }
            tokio::time::sleep(SECOND).await;
        }
    });
    assert_eq!(listed.await[0].id(), &id);
    assert_eq!(attempts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_sent_again_may_wait_as_long_as_a_new_one() {
    let backend = Backend::memory();
    let hour = SECOND * 60 * 60;
    let brief = builder(&backend, async |_, _| Err(TaskFailure::conflict(Broken)));
    let brief = brief.lifetime(hour).max_attempts(1).build();
    let patient = builder(&backend, async |_, _| Ok(String::new()));
    let patient = patient.lifetime(hour * 100).build();
    let worker = brief.work().unwrap();
    let id = brief.queue("main").submit(act("")).await.unwrap();
    let _ = soon(brief.output::<Act>(&id)).await;
    assert_eq!(worker.drain(SECOND).await, 0);
    patient.queue("main").send_again(&id).await.unwrap();
    let expires = patient.status(&id).await.unwrap().expires();
    assert!(expires > SystemTime::now() + hour * 99);
}
