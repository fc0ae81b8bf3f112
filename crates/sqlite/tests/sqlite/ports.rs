//! The SQLite adapters pass the conformance suites, in one process and in two, and withstand restarts, crashes and
//! locks.

use crate::database::start;
use crate::database::{NEVER, hear, message, number, place, see, soon, until};
use bytes::Bytes;
use futures_util::{FutureExt, future};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tower_promises_backend::{BackendError, Bus, Change, CompareAndSet, Store, conformance};
use tower_promises_signals::Signals;
use tower_promises_sqlite::SqliteDatabase;

#[tokio::test]
async fn the_store_conforms_on_one_database() {
    let place = place();
    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    conformance::store(async || store.clone()).await;
    conformance::journal(async || store.clone()).await;
}

#[tokio::test]
async fn the_bus_conforms_on_one_database() {
    let place = place();
    let bus = SqliteDatabase::open(&place.path).await.unwrap().bus();
    conformance::bus(async || bus.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_conforms_on_a_database_for_each_caller() {
    let place = place();
    conformance::store(async || SqliteDatabase::open(&place.path).await.unwrap().store()).await;
    conformance::journal(async || SqliteDatabase::open(&place.path).await.unwrap().store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bus_conforms_on_a_database_for_each_caller() {
    let place = place();
    conformance::bus(async || SqliteDatabase::open(&place.path).await.unwrap().bus()).await;
}

/// Every second caller is in the other process: first the odd callers, then the even ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_between_two_processes() {
    let place = place();
    let here = SqliteDatabase::open(&place.path).await.unwrap();
    let there = start(&place.path);
    for first in [0, 1] {
        let calls = AtomicUsize::new(first);
        conformance::store(async || {
            let is_here = calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            let adapter: Arc<dyn Store> = if is_here {
                Arc::new(here.store())
            } else {
                Arc::new(there.adapter())
            };
            adapter
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_conforms_between_two_processes() {
    let place = place();
    let here = SqliteDatabase::open(&place.path).await.unwrap();
    let there = start(&place.path);
    for first in [0, 1] {
        let calls = AtomicUsize::new(first);
        conformance::bus(async || {
            let is_here = calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            let adapter: Arc<dyn Bus> = if is_here {
                Arc::new(here.bus())
            } else {
                Arc::new(there.adapter())
            };
            adapter
        })
        .await;
    }
}

#[tokio::test]
async fn a_restart_keeps_values_and_revisions() {
    let place = place();
    let process = start(&place.path);
    let store = process.adapter();
    let first = store.put("kept", "1".into(), None).await.unwrap();
    let deleted = store.put("deleted", "2".into(), None).await.unwrap();
    assert!(store.delete("deleted").await.unwrap());
    process.kill();

    let process = start(&place.path);
    let store = process.adapter();
    let entry = store.get("kept").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision), (&b"1"[..], first));
    let set = store.compare_and_set("kept", Some(first), "3".into(), None);
    let CompareAndSet::Set(second) = set.await.unwrap() else {
        panic!("the revision has not changed");
    };
    assert!(second > first);
    let again = store.put("deleted", "4".into(), None).await.unwrap();
    let of_deletion = deleted.get() + 1;
    assert!(
        again.get() > of_deletion,
        "the deletion has a revision, too"
    );
}

#[tokio::test]
async fn a_time_to_live_continues_over_a_restart() {
    const TIME_TO_LIVE: Duration = Duration::from_millis(1500);
    let place = place();
    let process = start(&place.path);
    let started = Instant::now();
    for (key, time_to_live) in [("short", Some(TIME_TO_LIVE)), ("long", Some(NEVER))] {
        let store = process.adapter();
        store.put(key, "x".into(), time_to_live).await.unwrap();
    }
    process.kill();

    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    let is_there = async |key| store.get(key).await.unwrap().is_some();
    until("the value expires", async || !is_there("short").await).await;
    assert!(started.elapsed() >= TIME_TO_LIVE);
    assert!(is_there("long").await);
}

#[tokio::test]
async fn a_kill_in_the_middle_of_writes_leaves_a_sound_database() {
    let place = place();
    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    let mut seen = 0;
    for _ in 0..5 {
        let process = start(&place.path);
        let mut watch = store.watch("count").await.unwrap();
        let _counting = process.count().await;
        for _ in 0..100 {
            let Change::Put { entry, .. } = see(&mut watch).await else {
                panic!("the process only counts, and this watch is fast enough");
            };
            seen = entry.revision.get();
        }
        process.kill();

        let check = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
        assert_eq!(number(&place.path, check).await, 1);
        let entry = store.get("count").await.unwrap().unwrap();
        assert!(entry.revision.get() >= seen, "seen revisions are kept");
        let change = "SELECT count(*) FROM promises_store_log
            JOIN promises_store_entries USING (key, revision, value) JOIN sqlite_sequence ON seq = number
            WHERE name = 'promises_store_log'";
        assert_eq!(
            number(&place.path, change).await,
            1,
            "the tables are consistent"
        );
        let revision = store.put("count", "x".into(), None).await.unwrap();
        assert!(revision > entry.revision);
    }
}

#[tokio::test]
async fn a_lock_of_another_process_is_waited_for_and_then_an_error() {
    const BUSY_TIMEOUT: Duration = Duration::from_millis(300);
    let place = place();
    let database = SqliteDatabase::builder(&place.path)
        .busy_timeout(BUSY_TIMEOUT)
        .open()
        .await
        .unwrap();
    let (store, bus) = (database.store(), database.bus());
    store.put("key", "before".into(), None).await.unwrap();
    let process = start(&place.path);

    let lock = process.hold().await;
    let started = Instant::now();
    // The calls wait concurrently: in sequence they would take longer than `soon` waits.
    let puts = future::join_all((0..500).map(|_| store.put("key", "locked".into(), None)));
    let publish = bus.publish("topic", "locked".into());
    let (puts, published) = soon(future::join(puts, publish)).await;
    for error in puts.into_iter().map(Result::unwrap_err) {
        assert!(
            matches!(error, BackendError::TimedOut { after, .. } if after == BUSY_TIMEOUT),
            "{error:?}"
        );
    }
    published.unwrap_err();
    let elapsed = started.elapsed();
    assert!(elapsed >= BUSY_TIMEOUT, "{elapsed:?}");

    let entry = store.get("key").await.unwrap().unwrap();
    assert_eq!(entry.value, "before", "readers do not wait");
    let mut listener = bus.listen().await.unwrap();
    drop(lock);
    // The other process has to notice the drop first.
    until("the lock is free", async || {
        store.put("key", "after".into(), None).await.is_ok()
    })
    .await;
    bus.publish("topic", "after".into()).await.unwrap();
    assert_eq!(hear(&mut listener).await, message("topic", "after"));
}

#[tokio::test]
async fn dropped_calls_that_wait_for_a_lock_do_not_add_up() {
    const BUSY_TIMEOUT: Duration = Duration::from_millis(300);
    let place = place();
    let database = SqliteDatabase::builder(&place.path)
        .busy_timeout(BUSY_TIMEOUT)
        .open()
        .await
        .unwrap();
    let store = database.store();
    let process = start(&place.path);
    let lock = process.hold().await;
    // In sequence, the calls would take longer than `soon` waits.
    for _ in 0..500 {
        let mut put = store.put("dropped", "x".into(), None);
        for _ in 0..3 {
            assert!((&mut put).now_or_never().is_none(), "the call waits");
            tokio::task::yield_now().await;
        }
    }
    let put = soon(store.put("key", "x".into(), None)).await;
    assert!(matches!(put, Err(BackendError::TimedOut { .. })), "{put:?}");
    drop(lock);
    until("the lock is free", async || {
        store.put("key", "x".into(), None).await.is_ok()
    })
    .await;
}

/// Opening an existing database needs no lock.
#[tokio::test]
async fn a_locked_database_can_be_opened() {
    let place = place();
    drop(SqliteDatabase::open(&place.path).await.unwrap());
    let process = start(&place.path);
    let _lock = process.hold().await;
    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    assert_eq!(store.get("key").await.unwrap(), None);
}

#[tokio::test]
async fn signals_cross_processes() {
    let place = place();
    let signals = Signals::new(SqliteDatabase::open(&place.path).await.unwrap().backend());
    signals.listen().await.unwrap();
    let process = start(&place.path);

    let there = process.wait("there").await;
    signals.send("there", "hello").await.unwrap();
    assert_eq!(soon(there).await, "hello");

    let here = signals.wait::<String>("here");
    process.send("here", "hello back").await;
    assert_eq!(soon(here).await.unwrap(), "hello back");

    // A latch is for later waiters in any process, and outlives the process that set it.
    signals.latch("later", "latched", NEVER).await.unwrap();
    drop(signals);
    let later = process.wait("later").await;
    assert_eq!(soon(later).await, "latched");
}

/// Processes that create the same file at the same time do not disturb each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_can_create_the_file_at_once() {
    for _ in 0..5 {
        let place = place();
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let path = place.path.clone();
                tokio::spawn(async move {
                    let (key, value) = (number.to_string(), Bytes::from("x"));
                    if number % 4 == 0 {
                        let process = tokio::task::spawn_blocking(move || start(&path));
                        let process = process.await.unwrap();
                        process.adapter().put(&key, value, None).await.unwrap()
                    } else {
                        let database = SqliteDatabase::open(&path).await.unwrap();
                        database.store().put(&key, value, None).await.unwrap()
                    }
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().get(), 1);
        }
        let entries = "SELECT count(*) FROM promises_store_entries";
        assert_eq!(number(&place.path, entries).await, 16);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_operation_survives_the_loss_of_its_process() {
    let place = place();
    let one = SqliteDatabase::open(&place.path).await.unwrap();
    let other = SqliteDatabase::open(&place.path).await.unwrap();
    test_support::durable::survives_the_loss_of_its_process(one.backend(), other.backend()).await;
}
