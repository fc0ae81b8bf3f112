//! The memory adapters pass the conformance suites, and broken adapters fail them.

use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use static_assertions::{assert_impl_all, assert_obj_safe};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tower_promises_backend::memory::{MemoryBus, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Bus, BusEvent, BusStream, Change, CompareAndSet, Entry,
    Envelope, Page, Queue, Revision, Store, WatchStream, check_name, conformance,
};

assert_obj_safe!(Bus, Queue, Store);
assert_impl_all!(Backend: Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(BackendError: Clone, Error, Send, Sync);

#[tokio::test(start_paused = true)]
async fn the_memory_store_conforms() {
    let store = MemoryStore::new();
    conformance::store(async || store.clone()).await;
    conformance::journal(async || store.clone()).await;
}

#[tokio::test(start_paused = true)]
async fn the_memory_bus_conforms() {
    for capacity in [1024, 256] {
        let bus = MemoryBus::builder().bus_capacity(capacity).build();
        conformance::bus(async || bus.clone()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_hands_out_its_adapters() {
    let backend = Backend::memory();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    conformance::store_values(async || store.clone()).await;
    let revision = backend.store().put("key", "value".into(), None).await;
    assert_eq!(revision.unwrap().to_string(), "1");
    backend.bus().publish("topic", "x".into()).await.unwrap();
    let envelope = Envelope::new("queue", "id", "x".into());
    backend.queue().enqueue(envelope).await.unwrap();
}

/// Entries that the store has dropped for others are not listed.
#[tokio::test(start_paused = true)]
async fn a_full_store_lists_what_it_has_kept() {
    let store = MemoryStore::builder().max_bytes(100 * 1024).build();
    for number in 0..2000 {
        let key = format!("key/{number}");
        store.put(&key, "value".into(), None).await.unwrap();
    }
    let page = store.list("key/", None, 1000).await.unwrap();
    assert!((100..1000).contains(&page.entries.len()) && page.next.is_none());
}

/// Runs on several threads, so that competing calls overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_decides_races_between_threads() {
    let store = MemoryStore::new();
    for _ in 0..20 {
        conformance::store_races(async || store.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_bus_keeps_order_between_threads() {
    let bus = MemoryBus::new();
    for _ in 0..20 {
        conformance::bus_order(async || bus.clone()).await;
    }
}

#[tokio::test]
async fn sizes_are_limited() {
    let store = MemoryStore::builder().max_value_bytes(3).build();
    store.put("key", "abc".into(), None).await.unwrap();
    let error = store.put("key", "abcd".into(), None).await.unwrap_err();
    assert!(matches!(
        error,
        BackendError::TooLarge {
            size: 4,
            limit: 3,
            ..
        }
    ));
    let set = store.compare_and_set("other", None, "abcd".into(), None);
    assert_eq!(
        set.await.unwrap_err().to_string(),
        "4 bytes are more than the 3 that are allowed"
    );

    let bus = MemoryBus::builder().max_message_bytes(3).build();
    bus.publish("topic", "abc".into()).await.unwrap();
    bus.publish("topic", "abcd".into()).await.unwrap_err();
}

#[tokio::test]
async fn names_are_checked() {
    for name in ["", "a\0b", "a\nb", &"x".repeat(1025)] {
        let error = check_name(name).unwrap_err();
        assert!(error.to_string().starts_with("invalid name: it "));
    }
    check_name(&"x".repeat(1024)).unwrap();
}

#[tokio::test]
async fn a_full_store_drops_the_least_used_entries() {
    const ENTRIES: usize = 1000;
    let value = Bytes::from(vec![0; 744]);
    // Has room for about a hundred entries.
    let store = MemoryStore::builder().max_bytes(100 * 1024).build();
    for number in 0..ENTRIES {
        let key = number.to_string();
        store.put(&key, value.clone(), None).await.unwrap();
    }
    // The cache evicts entries from time to time, when it is used.
    for _ in 0..ENTRIES {
        store.get("none").await.unwrap();
    }
    let mut kept = Vec::new();
    for number in 0..ENTRIES {
        if store.get(&number.to_string()).await.unwrap().is_some() {
            kept.push(number);
        }
    }
    assert!(kept.len() < ENTRIES / 2, "{} entries are kept", kept.len());
    assert!(kept.contains(&(ENTRIES - 1)), "the last entry is kept");
}

#[tokio::test]
async fn a_slow_watcher_gets_the_number_of_missed_changes() {
    let store = MemoryStore::builder().watch_capacity(2).build();
    let mut watch = store.watch("").await.unwrap();
    for value in ["1", "2", "3", "4", "5"] {
        store.put("key", value.into(), None).await.unwrap();
    }
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first, Change::Lagged(3));
    for value in ["4", "5"] {
        let Change::Put { entry, .. } = watch.next().await.unwrap().unwrap() else {
            panic!("the newest changes are kept");
        };
        assert_eq!(entry.value, value);
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_of_zero_ends_at_once() {
    let store = MemoryStore::new();
    let put = store.put("key", "value".into(), Some(Duration::ZERO));
    put.await.unwrap();
    assert_eq!(store.get("key").await.unwrap(), None);
}

#[test]
fn memory_adapters_need_no_runtime() {
    let backend = Backend::memory();
    let put = backend
        .store()
        .put("key", "value".into(), Some(Duration::from_secs(1)));
    futures_util::FutureExt::now_or_never(put).unwrap().unwrap();
    let listen = backend.bus().listen();
    let mut events = futures_util::FutureExt::now_or_never(listen)
        .unwrap()
        .unwrap();
    let publish = backend.bus().publish("topic", "x".into());
    futures_util::FutureExt::now_or_never(publish)
        .unwrap()
        .unwrap();
    let event = futures_util::FutureExt::now_or_never(events.next()).unwrap();
    assert!(matches!(event, Some(Ok(BusEvent::Message { .. }))));
    let envelope = Envelope::new("queue", "id", "x".into()).delay(Duration::from_secs(1));
    let enqueue = backend.queue().enqueue(envelope);
    futures_util::FutureExt::now_or_never(enqueue)
        .unwrap()
        .unwrap();
}

#[test]
fn errors_have_a_source() {
    let error = BackendError::unavailable("connection refused");
    assert_eq!(error.to_string(), "the backend is not available");
    assert_eq!(error.source().unwrap().to_string(), "connection refused");
}

/// The fault of a [`Broken`] adapter.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    SetsAlways,
    SetsWithoutAtomicity,
    IgnoresTimeToLive,
    ConfusesCase,
    ListSkips,
    ListsOtherKeys,
    ListSkipsReplaced,
    WatchesLate,
    WatchSkips,
    WatchLagsSilently,
    AcceptsAllNames,
    DropsMessages,
    RepeatsMessages,
    ListensLate,
    LagsSilently,
}

/// A memory adapter with a fault.
#[derive(Clone)]
struct Broken {
    fault: Fault,
    store: MemoryStore,
    bus: MemoryBus,
    count: Arc<AtomicUsize>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            store: MemoryStore::new(),
            bus: MemoryBus::new(),
            count: Arc::default(),
        }
    }

    fn every(&self, nth: usize) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst) % nth == nth - 1
    }

    fn key(&self, key: &str) -> String {
        match self.fault {
            Fault::ConfusesCase => key.to_lowercase(),
            Fault::AcceptsAllNames => key.replace('\n', " "),
            _ => key.to_owned(),
        }
    }
}

impl Store for Broken {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async { self.store.get(&self.key(key)).await })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        let time_to_live = time_to_live.filter(|_| self.fault != Fault::IgnoresTimeToLive);
        Box::pin(async move { self.store.put(&self.key(key), value, time_to_live).await })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(async move {
            match self.fault {
                Fault::SetsAlways => {}
                Fault::SetsWithoutAtomicity => {
                    let found = self.get(key).await?.map(|entry| entry.revision);
                    tokio::task::yield_now().await;
                    if found != expected {
                        return Ok(CompareAndSet::Conflict);
                    }
                }
                _ => {
                    let key = self.key(key);
                    let set = self
                        .store
                        .compare_and_set(&key, expected, value, time_to_live);
                    return set.await;
                }
            }
            let put = self.put(key, value, time_to_live).await;
            put.map(CompareAndSet::Set)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async { self.store.delete(&self.key(key)).await })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        Box::pin(async move {
            let mut prefix = self.key(prefix);
            if self.fault == Fault::ListsOtherKeys {
                prefix.pop();
            }
            let mut page = self.store.list(&prefix, after, limit).await?;
            if self.fault == Fault::ListSkips && self.every(3) {
                page.entries.pop();
            }
            if self.fault == Fault::ListSkipsReplaced {
                // Values are replaced before the page is complete.
                tokio::task::yield_now().await;
                let present = self.store.list(&prefix, after, limit).await?.entries;
                page.entries.retain(|listed| present.contains(listed));
            }
            Ok(page)
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        if self.fault == Fault::WatchesLate {
            let (store, prefix) = (self.store.clone(), prefix.to_owned());
            let watch = async move { store.watch(&prefix).await.unwrap() };
            return Box::pin(async { Ok(stream::once(watch).flatten().boxed()) });
        }
        let skip = self.fault == Fault::WatchSkips;
        Box::pin(async move {
            let changes = self.store.watch(prefix).await?;
            let this = self.clone();
            let hushes = self.fault == Fault::WatchLagsSilently;
            let changes = changes.filter(move |change| {
                let is_lag = matches!(change, Ok(Change::Lagged(_)));
                future::ready(!(skip && this.every(3) || hushes && is_lag))
            });
            Ok(changes.boxed())
        })
    }
}

impl Bus for Broken {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            if self.fault == Fault::DropsMessages && self.every(50) {
                return Ok(());
            }
            if self.fault == Fault::RepeatsMessages && self.every(4) {
                self.bus.publish(topic, payload.clone()).await?;
            }
            if self.fault == Fault::AcceptsAllNames {
                return self.bus.publish(&self.key(topic), payload).await;
            }
            self.bus.publish(topic, payload).await
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        if self.fault == Fault::ListensLate {
            let bus = self.bus.clone();
            let listen = async move { bus.listen().await.unwrap() };
            return Box::pin(async { Ok(stream::once(listen).flatten().boxed()) });
        }
        let silent = self.fault == Fault::LagsSilently;
        Box::pin(async move {
            let events = self.bus.listen().await?;
            let events = events.filter(move |event| {
                future::ready(!(silent && matches!(event, Ok(BusEvent::Lagged(_)))))
            });
            Ok(events.boxed())
        })
    }
}

async fn check_store(fault: Fault) {
    let broken = Broken::new(fault);
    conformance::store(async || broken.clone()).await;
}

async fn check_bus(fault: Fault) {
    let broken = Broken::new(fault);
    conformance::bus(async || broken.clone()).await;
}

/// Defines tests: each fault fails the suite, with a message that names the violated guarantee.
macro_rules! broken {
    ($($name:ident: $check:ident($fault:ident), $message:literal;)*) => {$(
        #[tokio::test(start_paused = true)]
        #[should_panic(expected = $message)]
        async fn $name() {
            $check(Fault::$fault).await;
        }
    )*};
}

broken! {
    a_store_that_sets_always_fails: check_store(SetsAlways), "an absent value has no revision";
    a_store_that_is_not_atomic_fails: check_store(SetsWithoutAtomicity), "only one of many";
    a_store_without_time_to_live_fails: check_store(IgnoresTimeToLive), "expires after its time to live";
    a_store_that_confuses_keys_fails: check_store(ConfusesCase), "existed";
    a_store_that_accepts_all_keys_fails: check_store(AcceptsAllNames), "must be an error";
    a_list_that_skips_entries_fails: check_store(ListSkips), "each entry is listed once";
    a_list_of_other_keys_fails: check_store(ListsOtherKeys), "each entry is listed once";
    a_list_that_skips_replaced_values_fails: check_store(ListSkipsReplaced), "although values are replaced";
    a_watch_that_starts_late_fails: check_store(WatchesLate), "a watch sees every change";
    a_watch_that_skips_changes_fails: check_store(WatchSkips), "a watch sees every change";
    a_watch_that_lags_silently_fails: check_store(WatchLagsSilently), "gets `Lagged`";
    a_bus_that_drops_messages_fails: check_bus(DropsMessages), "no message is lost";
    a_bus_that_repeats_messages_fails: check_bus(RepeatsMessages), "a message arrives only once";
    a_bus_that_listens_late_fails: check_bus(ListensLate), "after `listen` has resolved";
    a_bus_that_lags_silently_fails: check_bus(LagsSilently), "gets `Lagged`";
    a_bus_that_accepts_all_topics_fails: check_bus(AcceptsAllNames), "must be an error";
}

/// An adapter whose fault concerns another trait passes, so the failures above are due to the faults.
#[tokio::test(start_paused = true)]
async fn the_broken_adapter_without_a_fault_conforms() {
    let sound = Broken::new(Fault::DropsMessages);
    conformance::store(async || sound.clone()).await;
    let sound = Broken::new(Fault::SetsAlways);
    conformance::bus(async || sound.clone()).await;
}

#[tokio::test]
async fn a_value_larger_than_the_memory_store_is_refused() {
    use tower_promises_backend::Store as _;

    let store = tower_promises_backend::memory::MemoryStore::builder()
        .max_bytes(1000)
        .build();
    let error = store.put("key", vec![0; 1000].into(), None).await;
    assert!(
        matches!(error, Err(BackendError::TooLarge { size: 1000, .. })),
        "{error:?}"
    );
    store.put("key", vec![0; 500].into(), None).await.unwrap();
    assert!(store.get("key").await.unwrap().is_some());
}
