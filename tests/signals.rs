//! What signals reach whom, when, how often, and what is left afterwards.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, stream};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use static_assertions::assert_impl_all;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::{TestRequest, answer, ask, get, promises, text_response};
use tokio::sync::watch;
use tokio::time::{Instant, advance, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::backend::memory::{MemoryBus, MemoryStore};
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, Bus, BusStream, CompareAndSet, Entry, Revision, Store,
    WatchStream,
};
use tower_promises::signal::{Signals, Wait};
use tower_promises::{BoxError, PromiseError, PromiseLayer, SignalError};

assert_impl_all!(Signals: Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(Wait<String>: Send, Sync, std::fmt::Debug);
// Whatever the value is.
assert_impl_all!(Wait<std::rc::Rc<u8>>: Send, Sync);
assert_impl_all!(SignalError: Clone, Error, Send, Sync);

const SECOND: Duration = Duration::from_secs(1);

/// Lets other tasks run until something holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what} never happens");
}

/// What a future that should be ready before long resolves to.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(SECOND * 10_000, future)
        .await
        .expect("it is ready before long")
}

/// Two handles that know of each other only through the backend, as two processes do.
async fn two_processes() -> [Signals; 2] {
    let backend = Backend::memory();
    let processes = [Signals::new(backend.clone()), Signals::new(backend)];
    for process in &processes {
        process.listen().await.unwrap();
    }
    processes
}

#[tokio::test(start_paused = true)]
async fn a_send_reaches_all_waiters_and_tells_how_many() {
    let signals = Signals::memory();
    let waits: Vec<_> = (0..100).map(|_| signals.wait::<u32>("x")).collect();
    let other = signals.wait::<u32>("y");
    assert_eq!((signals.waiters("x"), signals.all_waiters()), (100, 101));

    assert_eq!(signals.send("x", &7).await.unwrap(), 100);
    assert_eq!((signals.waiters("x"), signals.all_waiters()), (0, 1));
    for wait in waits {
        assert_eq!(soon(wait).await.unwrap(), 7);
    }
    assert!(other.timeout(SECOND).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_send_that_nobody_waits_for_is_lost() {
    let signals = Signals::memory();
    assert_eq!(signals.send("x", &1).await.unwrap(), 0);
    assert!(!signals.send_one("x", &2).await.unwrap());
    let error = signals.wait::<u32>("x").timeout(SECOND).await.unwrap_err();
    assert!(matches!(error, SignalError::TimedOut { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_send_before_the_first_poll_is_not_lost() {
    let signals = Signals::memory();
    let wait = signals.wait::<String>("x");
    let only = signals.wait::<String>("one");
    assert_eq!(signals.send("x", "early").await.unwrap(), 1);
    assert!(signals.send_one("one", "early").await.unwrap());
    assert_eq!(wait.now_or_never().unwrap().unwrap(), "early");
    assert_eq!(only.now_or_never().unwrap().unwrap(), "early");
}

#[tokio::test(start_paused = true)]
async fn a_send_does_nothing_before_it_is_polled_and_borrows_nothing() {
    let signals = Signals::memory();
    let wait = signals.wait::<u32>("x");
    let send = signals.send("x", &1);
    drop(signals);
    let sent = tokio::spawn(send).await.unwrap();
    assert_eq!((sent.unwrap(), soon(wait).await.unwrap()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_a_value() {
    let signals = Signals::memory().namespace("chat");
    let start = Instant::now();
    let wait = signals.wait::<u32>("room").timeout(SECOND);
    // It counts from here, not from the first poll.
    advance(SECOND / 2).await;
    let error = soon(wait).await.unwrap_err();
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(
        error.to_string(),
        "nobody has sent signal `chat/room` within 1s"
    );
    assert_eq!(error.name(), "chat/room");
    assert_eq!(signals.all_waiters(), 0);

    let forever = signals.wait::<u32>("room").timeout(Duration::MAX);
    assert!(timeout(SECOND * 1000, forever).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_there_is_better_than_a_timeout() {
    let signals = Signals::memory();
    let wait = signals.wait::<u32>("x").timeout(SECOND);
    signals.send("x", &1).await.unwrap();
    advance(SECOND * 2).await;
    assert_eq!(soon(wait).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_is_gone_at_once() {
    let signals = Signals::memory();
    let (first, second) = (signals.wait::<u32>("x"), signals.wait::<u32>("x"));
    drop(first);
    assert_eq!(signals.all_waiters(), 1);
    assert_eq!(signals.send("x", &1).await.unwrap(), 1);
    drop(second);
    assert_eq!(signals.all_waiters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_latch_reaches_late_waiters_until_its_time_is_over() {
    let signals = Signals::memory();
    let before = signals.wait::<u32>("x");
    assert_eq!(signals.latch("x", &7, SECOND * 10).await.unwrap(), 1);
    assert_eq!(soon(before).await.unwrap(), 7);

    for _ in 0..3 {
        advance(SECOND * 3).await;
        let late = signals.wait::<u32>("x").timeout(SECOND / 10).await;
        assert_eq!(late.unwrap(), 7);
    }
    advance(SECOND).await;
    let too_late = signals.wait::<u32>("x").timeout(SECOND * 100).await;
    assert!(matches!(too_late, Err(SignalError::TimedOut { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_latch_is_replaced_and_ended() {
    let signals = Signals::memory();
    signals.latch("x", &1, SECOND * 10).await.unwrap();
    signals.latch("x", &2, SECOND * 10).await.unwrap();
    assert_eq!(signals.wait::<u32>("x").timeout(SECOND).await.unwrap(), 2);
    assert!(signals.unlatch("x").await.unwrap());
    assert!(!signals.unlatch("x").await.unwrap());
    signals.wait::<u32>("x").timeout(SECOND).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn signals_cross_processes_once() {
    let [here, there] = two_processes().await;
    let mine = here.wait::<u32>("x");
    let theirs = there.wait::<u32>("x");
    assert_eq!(here.send("x", &1).await.unwrap(), 1);
    // A second delivery, to the sender or to the other process, would end these.
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
    assert!(start.elapsed() < SECOND, "nobody waits for the slow poll");
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
    // Nobody is left here, so one of another process gets it.
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

#[tokio::test(start_paused = true)]
async fn send_one_goes_on_to_the_next_when_its_waiter_is_dropped() {
    let signals = Signals::memory();
    let (first, second) = (signals.wait::<u32>("x"), signals.wait::<u32>("x"));
    assert!(signals.send_one("x", &1).await.unwrap());
    drop(first);
    assert_eq!(soon(second).await.unwrap(), 1);
    // A value for all is for each of them only.
    let (first, second) = (signals.wait::<u32>("x"), signals.wait::<u32>("x"));
    assert_eq!(signals.send("x", &2).await.unwrap(), 2);
    let third = signals.wait::<u32>("x").timeout(SECOND);
    drop((first, second));
    third.await.unwrap_err();
}

/// A store that answers when the test lets it.
#[derive(Clone)]
struct SlowStore {
    store: MemoryStore,
    /// Answers to `get` and `compare_and_set` are known, and given while it is true.
    answers: watch::Sender<bool>,
    /// How many questions have been asked.
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

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_after_the_end_of_a_latch_does_not_get_it() {
    let store = SlowStore::new();
    let signals = Signals::new(Backend::new(store.clone(), MemoryBus::new()));
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
    let processes = [(); 3].map(|()| Signals::new(Backend::new(store.clone(), bus.clone())));
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

#[tokio::test(start_paused = true)]
async fn namespaces_do_not_meet() {
    let signals = Signals::memory();
    let names = [
        (signals.clone(), "a/b"),
        (signals.clone(), "a%2Fb"),
        (signals.namespace("a"), "b"),
        (signals.namespace("a/b"), ""),
        (signals.namespace("a").namespace("b"), ""),
        (signals.namespace("").namespace("a"), "b"),
        (signals.namespace(""), "a/b"),
        (signals.clone(), "a\0b"),
    ];
    for (index, (handle, name)) in names.iter().enumerate() {
        let waits = names
            .iter()
            .map(|(handle, name)| handle.wait::<usize>(name).timeout(SECOND));
        let waits: Vec<_> = waits.collect();
        assert_eq!(handle.send(name, &index).await.unwrap(), 1);
        let results = future::join_all(waits).await;
        let got: Vec<_> = results.iter().map(Result::is_ok).collect();
        let expected: Vec<_> = (0..names.len()).map(|other| other == index).collect();
        assert_eq!(got, expected, "{name:?}");
    }
    assert_eq!(&*signals.namespace("a").path("b/c"), "a/b%2Fc");
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Point {
    x: i32,
    y: i32,
}

#[tokio::test(start_paused = true)]
async fn values_are_serde_values() {
    let [here, there] = two_processes().await;
    let same = there.wait::<Point>("x");
    let alike = there.wait::<serde_json::Value>("x");
    let wrong = there.wait::<Vec<String>>("x");
    here.send("x", &Point { x: 1, y: -1 }).await.unwrap();
    assert_eq!(soon(same).await.unwrap(), Point { x: 1, y: -1 });
    assert_eq!(soon(alike).await.unwrap()["y"], -1);
    let error = soon(wrong).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "signal `x`: what was sent is not a `alloc::vec::Vec<alloc::string::String>`"
    );
    assert!(error.source().is_some());

    let not_json = std::collections::HashMap::from([(Some(1), 2), (None, 3)]);
    let error = here.send("x", &not_json).await.unwrap_err();
    assert!(matches!(error, SignalError::Serialize { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn waiters_are_limited() {
    let signals = Signals::builder(Backend::memory())
        .max_waiters_per_name(2)
        .max_waiters(3)
        .build();
    let mut waits: Vec<_> = (0..2).map(|_| signals.wait::<u32>("x")).collect();
    let error = signals.wait::<u32>("x").await.unwrap_err();
    assert_eq!(error.to_string(), "signal `x`: there are already 2 waiters");
    waits.push(signals.namespace("other").wait("x"));
    let error = signals.wait::<u32>("y").await.unwrap_err();
    assert!(matches!(
        error,
        SignalError::TooManyWaiters { limit: 3, .. }
    ));
    // A place is free again once its wait is over, be it dropped or served.
    drop(waits.remove(0));
    let wait = signals.wait::<u32>("x");
    assert_eq!(signals.send("x", &1).await.unwrap(), 2);
    let next = signals.wait::<u32>("x").timeout(SECOND);
    assert_eq!(soon(wait).await.unwrap(), 1);
    assert!(matches!(next.await, Err(SignalError::TimedOut { .. })));
}

#[tokio::test(start_paused = true)]
async fn sizes_are_limited() {
    let signals = Signals::builder(Backend::memory())
        .max_message_bytes(5)
        .build();
    let wait = signals.wait::<String>("x");
    for error in [
        signals.send("x", "abcd").await.unwrap_err(),
        signals.send_one("x", "abcd").await.map(|_| ()).unwrap_err(),
        signals.latch("x", "abcd", SECOND).await.unwrap_err(),
    ] {
        assert_eq!(
            error.to_string(),
            "signal `x`: the value has 6 bytes, more than the 5 that are allowed"
        );
    }
    assert_eq!(signals.send("x", "abc").await.unwrap(), 1);
    assert_eq!(soon(wait).await.unwrap(), "abc");

    let name = "n".repeat(513);
    let error = signals.send(&name, "").await.unwrap_err();
    assert!(error.to_string().starts_with("the name of a signal has"));
    let error = signals.wait::<String>(&name).await.unwrap_err();
    assert!(matches!(error, SignalError::NameTooLong { .. }));
    let error = signals.unlatch(&name).await.unwrap_err();
    assert!(matches!(error, SignalError::NameTooLong { .. }));
    let longest = signals.wait::<String>(&name[1..]);
    assert_eq!(signals.send(&name[1..], "").await.unwrap(), 1);
    assert_eq!(soon(longest).await.unwrap(), "");
}

/// A bus that a test can disturb.
#[derive(Clone)]
struct TestBus {
    bus: MemoryBus,
    /// How many subscriptions there are.
    listeners: Arc<AtomicUsize>,
    /// How often `listen` was called.
    attempts: Arc<AtomicUsize>,
    /// Ends all subscriptions when it changes. While it is false, `listen` fails.
    up: watch::Sender<bool>,
    /// Messages are silently dropped.
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
    let here = Signals::new(Backend::new(store.clone(), bus.clone()));
    let there = Signals::builder(Backend::new(store, bus.clone()))
        .poll_interval(SECOND * 5)
        .build();
    there.listen().await.unwrap();
    let wait = there.wait::<u32>("x");
    // The first look at the latch finds nothing.
    advance(SECOND).await;

    bus.deaf.store(true, Ordering::SeqCst);
    let start = Instant::now();
    here.latch("x", &1, SECOND * 100).await.unwrap();
    assert_eq!(soon(wait).await.unwrap(), 1);
    let elapsed = start.elapsed();
    assert!(elapsed > SECOND && elapsed <= SECOND * 5, "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn after_lag_latches_are_read_again() {
    let (store, bus) = (MemoryStore::new(), MemoryBus::new().capacity(4));
    let backend = Backend::new(store, bus);
    let [here, there] = [Signals::new(backend.clone()), Signals::new(backend)];
    there.listen().await.unwrap();
    let (latched, lost) = (there.wait::<u32>("latched"), there.wait::<u32>("lost"));
    advance(SECOND).await;

    let start = Instant::now();
    // Never ready to wait, so the other process does not run in between.
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
    // One that is not latched is lost, and the next one is heard.
    here.send("lost", &3).await.unwrap();
    assert_eq!(soon(lost).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_bus_is_listened_to_again_and_latches_are_read() {
    let (store, bus) = (MemoryStore::new(), TestBus::new(MemoryBus::new()));
    let here = Signals::new(Backend::new(store.clone(), MemoryBus::new()));
    let there = Signals::builder(Backend::new(store, bus.clone()))
        .poll_interval(SECOND * 1000)
        .build();
    there.listen().await.unwrap();
    let (latched, sent) = (there.wait::<u32>("latched"), there.wait::<u32>("sent"));
    advance(SECOND).await;

    bus.up.send_replace(false);
    until("the subscription ends", || bus.listeners() == 0).await;
    // Into the store, while the other process hears nothing.
    here.latch("latched", &1, SECOND * 1000).await.unwrap();
    // Within the process nothing depends on the bus.
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
    let third = Signals::new(Backend::new(MemoryStore::new(), bus));
    third.send("sent", &3).await.unwrap();
    assert_eq!(soon(sent).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn to_listen_is_bounded() {
    let bus = TestBus::new(MemoryBus::new());
    bus.up.send_replace(false);
    let signals = Signals::builder(Backend::new(MemoryStore::new(), bus.clone()))
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
async fn what_is_no_signal_is_ignored() {
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
    let signals = Signals::new(Backend::new(MemoryStore::new(), bus.clone()));
    signals.send("x", &1).await.unwrap();
    assert_eq!(tasks(), 0, "who only sends needs no task");

    let waits: Vec<_> = (0..10).map(|_| signals.wait::<u32>("x")).collect();
    let other = signals.namespace("other");
    signals.listen().await.unwrap();
    assert_eq!((tasks(), bus.listeners()), (1, 1), "one for all");
    drop((signals, waits));
    let last = other.wait::<u32>("x");
    drop(other);
    tokio::task::yield_now().await;
    assert_eq!((tasks(), bus.listeners()), (1, 1), "a wait needs it");
    drop(last);
    until("the task ends", || tasks() == 0).await;
    assert_eq!(bus.listeners(), 0);
}

#[test]
fn without_a_runtime_there_is_an_error_value() {
    let signals = Signals::memory();
    let wait = signals.wait::<u32>("x").timeout(SECOND);
    let error = wait.now_or_never().unwrap().unwrap_err();
    assert!(matches!(error, SignalError::NoRuntime { .. }), "{error}");
    assert_eq!(signals.all_waiters(), 0);
    let send = signals.send("x", &1).now_or_never().unwrap();
    assert!(matches!(send, Err(SignalError::NoRuntime { .. })));
    let listen = signals.listen().now_or_never().unwrap();
    assert!(matches!(listen, Err(SignalError::NoRuntime { .. })));
}

/// As in a thread pool that renders templates.
#[test]
fn a_wait_can_be_made_outside_of_a_runtime() {
    let [here, there] = {
        let backend = Backend::memory();
        [Signals::new(backend.clone()), Signals::new(backend)]
    };
    let wait = there.wait::<u32>("x");
    for _ in 0..2 {
        // The second runtime takes over when the first has ended.
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

/// A page that shows what another request says, rendered without waiting.
fn page(
    signals: &Signals,
) -> impl Fn(&tower_promises::Promises) -> Result<String, BoxError> + Clone {
    let signals = signals.clone();
    move |promises| {
        let message = promises.result_or_try_submit("message", || {
            signals.wait::<String>("message").timeout(SECOND * 30)
        });
        match message {
            Ok(message) => Ok(format!("they say {message}")),
            Err(PromiseError::Failed { error, .. })
                if matches!(error.downcast_ref(), Some(SignalError::TimedOut { .. })) =>
            {
                Ok("nobody answered".to_owned())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_shows_what_another_request_says() {
    let signals = Signals::memory();
    let asked = ask(PromiseLayer::new(), page(&signals));
    let said = async {
        until("somebody waits", || signals.waiters("message") == 1).await;
        signals.send("message", "hello").await.unwrap()
    };
    let (answer, heard) = future::join(asked, said).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes, heard),
        ("they say hello", 2, 1)
    );

    let start = Instant::now();
    let answer = ask(PromiseLayer::new(), page(&signals)).await.unwrap();
    assert_eq!(answer.body, "nobody answered");
    assert_eq!(start.elapsed(), SECOND * 30);
}

#[tokio::test(start_paused = true)]
async fn a_send_between_submit_and_first_poll_is_not_lost() {
    let signals = Signals::memory();
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let value = promises.result_or_try_submit("x", || signals.wait::<u32>("x"));
        if promises.pass() == 1 {
            // Promises start when the pass ends.
            assert_eq!(signals.send("x", &7).await.unwrap(), 1);
        }
        Ok::<_, PromiseError>(text_response(value?.to_string()))
    }));
    let response = timeout(SECOND, service.oneshot(get("/"))).await.unwrap();
    let answer = answer(response.unwrap()).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "7"));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_goes_with_its_request() {
    let signals = Signals::memory();
    let requests: Vec<_> = (0..10)
        .map(|_| Box::pin(ask(PromiseLayer::new(), page(&signals))))
        .collect();
    let mut requests = future::join_all(requests);
    assert!((&mut requests).now_or_never().is_none());
    assert_eq!(signals.all_waiters(), 10);
    drop(requests);
    assert_eq!(signals.all_waiters(), 0);
    assert_eq!(signals.send("message", "hello").await.unwrap(), 0);
}

/// Real threads, two processes: every value reaches its waiter, latched or sent to one or all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_between_threads() {
    const PAIRS: usize = 3000;
    let bus = MemoryBus::new().capacity(8 * PAIRS);
    let backend = Backend::new(MemoryStore::new(), bus);
    let [here, there] = [Signals::new(backend.clone()), Signals::new(backend)];
    here.listen().await.unwrap();
    there.listen().await.unwrap();

    let mut tasks = Vec::new();
    for number in 0..PAIRS {
        let (sender, waiter) = (here.clone(), [&here, &there][number % 2].clone());
        let name = format!("{}", number / 3);
        let name = format!("{name}/{}", number % 3);
        // A latch may come first. For the others the wait does.
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

/// Waiters come and go while values are sent, each of which reaches one that stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn values_for_one_survive_waiters_that_come_and_go() {
    const VALUES: usize = 3000;
    let signals = Signals::memory();
    let sent = Arc::new(AtomicBool::new(false));
    let mut fickle = Vec::new();
    for _ in 0..3 {
        let (signals, sent) = (signals.clone(), sent.clone());
        fickle.push(std::thread::spawn(move || {
            while !sent.load(Ordering::SeqCst) {
                drop((signals.wait::<usize>("x"), signals.wait::<usize>("x")));
            }
        }));
    }
    let mut patient = Vec::new();
    for _ in 0..VALUES {
        patient.push(tokio::spawn(signals.wait::<usize>("x")));
    }
    for value in 0..VALUES {
        assert!(signals.send_one("x", &value).await.unwrap());
    }
    let received = timeout(SECOND * 60, future::join_all(patient)).await;
    sent.store(true, Ordering::SeqCst);
    for thread in fickle {
        thread.join().unwrap();
    }
    let received = received.expect("none is lost").into_iter();
    let mut received: Vec<_> = received.map(|value| value.unwrap().unwrap()).collect();
    received.sort_unstable();
    assert_eq!(received, (0..VALUES).collect::<Vec<_>>());
}
