//! Signals between processes: over a bus that loses messages, with a slow store, and with a single listening task.

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, stream};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use test_support::{soon, two_processes, until};
use tokio::sync::watch;
use tokio::time::{Instant, advance, timeout};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Bus, BusStream, CompareAndSet, Entry, Page, Revision, Store,
    WatchStream,
};
use tower_promises_signals::{SignalError, Signals};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn signals_cross_processes_once() {
    let [here, there] = two_processes().await;
    let mine = here.wait::<u32>("x");
    let theirs = there.wait::<u32>("x");
    assert_eq!(here.send("x", &1).await.unwrap(), 1);
    // A second delivery, to the sender or to the other process, would resolve these waits.
    assert_eq!(soon(mine).await.unwrap(), 1);
    let again = here.wait::<u32>("x").timeout(SECOND);
    assert_eq!(soon(theirs).await.unwrap(), 1);
    let again_there = there.wait::<u32>("x").timeout(SECOND);
    let again = future::join(again, again_there).await;
    assert!(matches!(again, (Err(_), Err(_))), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_latch_crosses_processes() {
    let [here, there] = two_processes().await;
    let start = Instant::now();
    let early = there.wait::<u32>("x");
    assert_eq!(here.latch("x", &1, SECOND * 100).await.unwrap(), 0);
    assert_eq!(soon(early).await.unwrap(), 1);
    assert_eq!(there.wait::<u32>("x").await.unwrap(), 1);
    assert!(
        start.elapsed() < SECOND,
        "the bus is faster than the slow poll"
    );
    there.unlatch("x").await.unwrap();
    let late = here.wait::<u32>("x").timeout(SECOND).await;
    late.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_later_sees_latches() {
    let backend = Backend::memory();
    let here = Signals::new(backend.clone());
    here.latch("x", "there", SECOND * 100).await.unwrap();
    let there = Signals::new(backend);
    assert_eq!(there.wait::<String>("x").await.unwrap(), "there");
}

#[tokio::test(start_paused = true)]
async fn send_one_serves_the_longest_waiting_first() {
    let [here, there] = two_processes().await;
    let elsewhere = there.wait::<u32>("x").timeout(SECOND);
    let waits: Vec<_> = (0..3).map(|_| here.wait::<u32>("x")).collect();
    for number in 0..3 {
        assert!(here.send_one("x", &number).await.unwrap());
    }
    for (number, wait) in waits.into_iter().enumerate() {
        assert_eq!(soon(wait).await.unwrap() as usize, number);
    }
    // No waiter is left in this process, so one in another process gets the value.
    assert!(!here.send_one("x", &3).await.unwrap());
    assert_eq!(elsewhere.await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn send_one_reaches_one_waiter_of_all_processes() {
    const PROCESSES: usize = 5;
    const VALUES: usize = 50;
    let backend = Backend::memory();
    let sender = Signals::new(backend.clone());
    let mut waits = Vec::new();
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let process = Signals::new(backend.clone());
        process.listen().await.unwrap();
        for _ in 0..VALUES {
            waits.push(process.wait::<usize>("x").timeout(SECOND));
        }
        processes.push(process);
    }
    for value in 0..VALUES {
        assert!(!sender.send_one("x", &value).await.unwrap());
    }
    let results = future::join_all(waits).await;
    let mut received: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
    received.sort_unstable();
    assert_eq!(received, (0..VALUES).collect::<Vec<_>>());
}

/// A store that answers when the test allows it.
#[derive(Clone)]
struct SlowStore {
    store: MemoryStore,
    /// While `false`, the answers of `get` and `compare_and_set` are computed but held back.
    answers: watch::Sender<bool>,
    /// The number of calls so far.
    asked: Arc<AtomicUsize>,
}

impl SlowStore {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            answers: watch::Sender::new(true),
            asked: Arc::default(),
        }
    }

    async fn delay<T>(&self, answer: impl Future<Output = T>) -> T {
        let answer = answer.await;
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.subscribe();
        answers.wait_for(|answers| *answers).await.unwrap();
        answer
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Store for SlowStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        self.delay(self.store.get(key)).boxed()
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
        self.delay(set).boxed()
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
async fn a_wait_after_the_end_of_a_latch_does_not_get_its_value() {
    let store = SlowStore::new();
    let signals = Signals::new(Backend::new(
        store.clone(),
        MemoryBus::new(),
        MemoryQueue::new(),
    ));
    signals.listen().await.unwrap();
    signals.latch("x", &1, SECOND * 100).await.unwrap();
    store.answers.send_replace(false);
    let before = signals.wait::<u32>("x");
    until("the latch is read", || store.asked() > 0).await;

    signals.unlatch("x").await.unwrap();
    let after = signals.wait::<u32>("x").timeout(SECOND);
    store.answers.send_replace(true);
    assert_eq!(soon(before).await.unwrap(), 1);
    after.await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn send_one_goes_to_another_process_when_its_waiter_is_dropped() {
    let (store, bus) = (SlowStore::new(), MemoryBus::new());
    let processes = [(); 3]
        .map(|()| Signals::new(Backend::new(store.clone(), bus.clone(), MemoryQueue::new())));
    let [sender, first, second] = &processes;
    first.listen().await.unwrap();
    second.listen().await.unwrap();
    let wait = first.wait::<u32>("x");
    until("the latch is read", || store.asked() == 1).await;

    store.answers.send_replace(false);
    assert!(!sender.send_one("x", &1).await.unwrap());
    until("the first process claims the value", || store.asked() == 2).await;
    drop(wait);
    let other = second.wait::<u32>("x").timeout(SECOND);
    store.answers.send_replace(true);
    assert_eq!(other.await.unwrap(), 1);
}

/// A bus that a test can disturb.
#[derive(Clone)]
struct TestBus {
    bus: MemoryBus,
    /// The number of subscriptions.
    listeners: Arc<AtomicUsize>,
    /// The number of calls of `listen`.
    attempts: Arc<AtomicUsize>,
    /// A change ends all subscriptions. While `false`, `listen` fails.
    up: watch::Sender<bool>,
    /// Whether messages are silently dropped.
    deaf: Arc<AtomicBool>,
}

impl TestBus {
    fn new(bus: MemoryBus) -> Self {
        Self {
            bus,
            listeners: Arc::default(),
            attempts: Arc::default(),
            up: watch::Sender::new(true),
            deaf: Arc::default(),
        }
    }

    fn listeners(&self) -> usize {
        self.listeners.load(Ordering::SeqCst)
    }
}

struct Listener(Arc<AtomicUsize>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Bus for TestBus {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        if self.deaf.load(Ordering::SeqCst) {
            return future::ready(Ok(())).boxed();
        }
        if !*self.up.borrow() {
            return future::ready(Err(BackendError::unavailable("down"))).boxed();
        }
        self.bus.publish(topic, payload)
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        async {
            self.attempts.fetch_add(1, Ordering::SeqCst);
            let mut up = self.up.subscribe();
            if !*up.borrow_and_update() {
                return Err(BackendError::unavailable("down"));
            }
            let events = self.bus.listen().await?;
            self.listeners.fetch_add(1, Ordering::SeqCst);
            let listener = Listener(self.listeners.clone());
            let down = async move {
                let _ = up.changed().await;
                drop(listener);
            };
            let error = stream::iter([Err(BackendError::unavailable("cut"))]);
            Ok(events.take_until(Box::pin(down)).chain(error).boxed())
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_latch_that_the_bus_lost_is_found_by_the_slow_poll() {
    let (store, bus) = (MemoryStore::new(), TestBus::new(MemoryBus::new()));
    let here = Signals::new(Backend::new(store.clone(), bus.clone(), MemoryQueue::new()));
    let there = Signals::builder(Backend::new(store, bus.clone(), MemoryQueue::new()))
        .poll_interval(SECOND * 5)
        .build();
    there.listen().await.unwrap();
    let wait = there.wait::<u32>("x");
    // The first read of the latch finds nothing.
    advance(SECOND).await;

    bus.deaf.store(true, Ordering::SeqCst);
    let start = Instant::now();
    here.latch("x", &1, SECOND * 100).await.unwrap();
    // New waits request latches all the time, which must not delay the slow poll.
    let busy = async {
        loop {
            drop(there.wait::<u32>("other"));
            advance(SECOND / 2).await;
        }
    };
    tokio::select! {
        value = soon(wait) => assert_eq!(value.unwrap(), 1),
        () = busy => unreachable!("this loop never ends"),
    }
    let elapsed = start.elapsed();
    assert!(elapsed > SECOND && elapsed <= SECOND * 6, "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn after_lag_latches_are_read_again() {
    let (store, bus) = (
        MemoryStore::new(),
        MemoryBus::builder().bus_capacity(4).build(),
    );
    let backend = Backend::new(store, bus, MemoryQueue::new());
    let [here, there] = [Signals::new(backend.clone()), Signals::new(backend)];
    there.listen().await.unwrap();
    let (latched, lost) = (there.wait::<u32>("latched"), there.wait::<u32>("lost"));
    advance(SECOND).await;

    let start = Instant::now();
    // Sending is always ready, so the other process does not run in between.
    let send = async {
        here.latch("latched", &1, SECOND * 100).await.unwrap();
        here.send("lost", &2).await.unwrap();
        for _ in 0..20 {
            here.send("flood", &0).await.unwrap();
        }
    };
    send.now_or_never().unwrap();
    assert_eq!(soon(latched).await.unwrap(), 1);
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    // A signal without a latch is lost, and the next one arrives.
    here.send("lost", &3).await.unwrap();
    assert_eq!(soon(lost).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_bus_is_listened_to_again_and_latches_are_read() {
    let (store, bus) = (MemoryStore::new(), TestBus::new(MemoryBus::new()));
    let here = Signals::new(Backend::new(
        store.clone(),
        MemoryBus::new(),
        MemoryQueue::new(),
    ));
    let there = Signals::builder(Backend::new(store, bus.clone(), MemoryQueue::new()))
        .poll_interval(SECOND * 1000)
        .build();
    there.listen().await.unwrap();
    let (latched, sent) = (there.wait::<u32>("latched"), there.wait::<u32>("sent"));
    advance(SECOND).await;

    bus.up.send_replace(false);
    until("the subscription ends", || bus.listeners() == 0).await;
    // Stored while the other process is not listening.
    here.latch("latched", &1, SECOND * 1000).await.unwrap();
    // Within the process, delivery does not depend on the bus.
    let local = there.wait::<u32>("local");
    let error = there.send("local", &2).await.unwrap_err();
    assert!(matches!(error, SignalError::Backend { .. }), "{error}");
    assert_eq!(
        error.source().unwrap().to_string(),
        "the backend is not available"
    );
    assert_eq!(soon(local).await.unwrap(), 2);

    let attempts = bus.attempts.load(Ordering::SeqCst);
    tokio::time::sleep(SECOND * 60).await;
    let attempts = bus.attempts.load(Ordering::SeqCst) - attempts;
    assert!((8..=16).contains(&attempts), "{attempts} in a minute");

    bus.up.send_replace(true);
    let start = Instant::now();
    assert_eq!(soon(latched).await.unwrap(), 1);
    assert!(start.elapsed() <= SECOND * 10, "{:?}", start.elapsed());
    let third = Signals::new(Backend::new(MemoryStore::new(), bus, MemoryQueue::new()));
    third.send("sent", &3).await.unwrap();
    assert_eq!(soon(sent).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn listening_has_a_timeout() {
    let bus = TestBus::new(MemoryBus::new());
    bus.up.send_replace(false);
    let signals = Signals::builder(Backend::new(
        MemoryStore::new(),
        bus.clone(),
        MemoryQueue::new(),
    ))
    .backend_timeout(SECOND)
    .build();
    let error = signals.listen().await.unwrap_err();
    assert_eq!(error.to_string(), "signals: backend failed");
    let cause = error.source().unwrap().to_string();
    assert_eq!(cause, "the backend did not answer within 1s");
    bus.up.send_replace(true);
    tokio::time::sleep(SECOND * 10).await;
    signals.listen().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_not_signals_are_ignored() {
    let backend = Backend::memory();
    let signals = Signals::new(backend.clone());
    signals.listen().await.unwrap();
    let wait = signals.wait::<u32>("x").timeout(SECOND);
    for (topic, payload) in [
        ("signal/x", "no json"),
        ("signal/x", "{}"),
        ("signal/x", r#"{"from":"elsewhere","value":"#),
        ("x", r#"{"from":"elsewhere","value":1}"#),
        ("task/x", r#"{"from":"elsewhere","value":1}"#),
    ] {
        backend.bus().publish(topic, payload.into()).await.unwrap();
    }
    let message = r#"{"later":"field","value":7,"from":"elsewhere"}"#;
    let publish = backend.bus().publish("signal/x", message.into());
    publish.await.unwrap();
    assert_eq!(soon(wait).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn no_task_outlives_the_last_handle_and_wait() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let bus = TestBus::new(MemoryBus::new());
    let signals = Signals::new(Backend::new(
        MemoryStore::new(),
        bus.clone(),
        MemoryQueue::new(),
    ));
    signals.send("x", &1).await.unwrap();
    assert_eq!(tasks(), 0, "sending needs no task");

    let waits: Vec<_> = (0..10).map(|_| signals.wait::<u32>("x")).collect();
    let other = signals.namespace("other");
    signals.listen().await.unwrap();
    assert_eq!(
        (tasks(), bus.listeners()),
        (1, 1),
        "all waits share one task and one listener"
    );
    drop((signals, waits));
    let last = other.wait::<u32>("x");
    drop(other);
    tokio::task::yield_now().await;
    assert_eq!((tasks(), bus.listeners()), (1, 1), "a wait keeps the task");
    drop(last);
    until("the task ends", || tasks() == 0).await;
    assert_eq!(bus.listeners(), 0);
}

/// Like in a thread pool that renders templates.
#[test]
fn a_wait_can_be_made_outside_of_a_runtime() {
    let [here, there] = {
        let backend = Backend::memory();
        [Signals::new(backend.clone()), Signals::new(backend)]
    };
    let wait = there.wait::<u32>("x");
    for _ in 0..2 {
        // The second runtime takes over after the end of the first.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let again = there.wait::<u32>("again");
            there.listen().await.unwrap();
            here.send("again", &1).await.unwrap();
            assert_eq!(soon(again).await.unwrap(), 1);
        });
    }
    assert_eq!(there.waiters("x"), 1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        here.latch("x", &2, SECOND * 100).await.unwrap();
        assert_eq!(soon(wait).await.unwrap(), 2);
    });
}

/// Real threads and two processes: every value reaches its waiter, whether it is latched, sent to one or sent to all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_between_threads() {
    const PAIRS: usize = 3000;
    let bus = MemoryBus::builder().bus_capacity(8 * PAIRS).build();
    let backend = Backend::new(MemoryStore::new(), bus, MemoryQueue::new());
    let [here, there] = [Signals::new(backend.clone()), Signals::new(backend)];
    here.listen().await.unwrap();
    there.listen().await.unwrap();

    let mut tasks = Vec::new();
    for number in 0..PAIRS {
        let (sender, waiter) = (here.clone(), [&here, &there][number % 2].clone());
        let name = format!("{}", number / 3);
        let name = format!("{name}/{}", number % 3);
        // A latch may be set before the wait. For the other kinds, the wait is created first.
        let kind = number % 3;
        let early = (kind != 0).then(|| waiter.wait::<usize>(&name));
        let waiting = name.clone();
        tasks.push(tokio::spawn(async move {
            let wait = early.unwrap_or_else(|| waiter.wait(&waiting));
            assert_eq!(soon(wait).await.unwrap(), number);
        }));
        tasks.push(tokio::spawn(async move {
            match kind {
                0 => drop(sender.latch(&name, &number, SECOND * 60).await.unwrap()),
                1 => drop(sender.send(&name, &number).await.unwrap()),
                _ => assert_eq!(
                    sender.send_one(&name, &number).await.unwrap(),
                    number % 2 == 0
                ),
            }
        }));
    }
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
    };
    timeout(SECOND * 60, all).await.expect("none is lost");
    assert_eq!((here.all_waiters(), there.all_waiters()), (0, 0));
}
