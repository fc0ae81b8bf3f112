//! The SQLite adapters within a process: delivery, retention, refused files, and the effects of dropped calls and ended
//! runtimes.

use crate::database::{NEVER, chain, connect, hear, message, number, place, see, soon, until};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future};
use sqlx::{AssertSqlSafe, Connection, query_scalar, raw_sql};
use static_assertions::assert_impl_all;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tower_promises_backend::{
    BackendError, Bus, BusEvent, Change, CompareAndSet, Revision, Store, conformance,
};
use tower_promises_sqlite::{SqliteBus, SqliteDatabase, SqliteStore};

assert_impl_all!(SqliteDatabase: Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(SqliteStore: Store, Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(SqliteBus: Bus, Clone, Send, Sync, std::fmt::Debug);

async fn refusal(path: impl Into<PathBuf>) -> String {
    chain(&SqliteDatabase::open(path).await.unwrap_err())
}

#[tokio::test]
async fn dropped_calls_leave_nothing_open() {
    let place = place();
    let database = SqliteDatabase::open(&place.path).await.unwrap();
    let store = database.store();
    // Calls are dropped before they start, while they wait for their turn, in the middle and at the end.
    for polls in 0..300 {
        let mut calls = Box::pin(future::join(
            store.put("dropped", "x".into(), None),
            store.get("dropped"),
        ));
        for _ in 0..polls % 6 {
            if (&mut calls).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let revision = soon(store.put("key", "x".into(), None)).await.unwrap();
    let entry = soon(store.get("key")).await.unwrap().unwrap();
    assert_eq!(entry.revision, revision);
    // No transaction is open: another program can write.
    let mut other = connect(&place.path).await;
    let lock = soon(other.begin_with("BEGIN IMMEDIATE")).await.unwrap();
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn writes_can_wait_for_the_disk() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path).flush_writes(true);
    let database = database.open().await.unwrap();
    conformance::store_values(async || database.store()).await;
    conformance::bus_limits(async || database.bus()).await;
}

#[tokio::test]
async fn writes_of_this_process_arrive_without_a_poll() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path)
        .poll_interval(NEVER)
        .open()
        .await
        .unwrap();
    let (store, bus) = (database.store(), database.bus());
    let mut listener = bus.listen().await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    for _ in 0..100 {
        bus.publish("topic", "x".into()).await.unwrap();
        assert_eq!(hear(&mut listener).await, message("topic", "x"));
        let revision = store.put("key", "x".into(), None).await.unwrap();
        let Change::Put { entry, .. } = see(&mut watch).await else {
            panic!("the change is a put");
        };
        assert_eq!(entry.revision, revision);
    }
}

#[tokio::test]
async fn a_listener_does_not_get_earlier_messages() {
    let place = place();
    let bus = SqliteDatabase::open(&place.path).await.unwrap().bus();
    let mut first = bus.listen().await.unwrap();
    for round in 0..50 {
        let early = format!("{round}/early");
        bus.publish(&early, "x".into()).await.unwrap();
        let mut second = bus.listen().await.unwrap();
        let late = format!("{round}/late");
        bus.publish(&late, "x".into()).await.unwrap();
        assert_eq!(hear(&mut second).await, message(&late, "x"));
        assert_eq!(hear(&mut first).await, message(&early, "x"));
        assert_eq!(hear(&mut first).await, message(&late, "x"));
    }
}

#[tokio::test]
async fn no_task_outlives_the_last_listener() {
    let tasks = || {
        let metrics = tokio::runtime::Handle::current().metrics();
        metrics.num_alive_tasks()
    };
    let place = place();
    let database = SqliteDatabase::builder(&place.path)
        .poll_interval(NEVER)
        .open()
        .await
        .unwrap();
    let (store, bus) = (database.store(), database.bus());
    bus.publish("topic", "x".into()).await.unwrap();
    until("the write ends", async || tasks() == 0).await;

    let listeners = [
        bus.listen().await.unwrap(),
        bus.clone().listen().await.unwrap(),
    ];
    let watches = [
        store.watch("a").await.unwrap(),
        store.watch("b").await.unwrap(),
    ];
    assert_eq!(tasks(), 2, "one task for listeners, one for watchers");
    let [first, last] = listeners;
    drop((first, watches));
    until("the task for watchers ends", async || tasks() == 1).await;
    drop(last);
    until("the task for listeners ends", async || tasks() == 0).await;

    let mut again = bus.listen().await.unwrap();
    bus.publish("topic", "again".into()).await.unwrap();
    assert_eq!(hear(&mut again).await, message("topic", "again"));
}

/// The numbers include the changes that another process deleted first, and the changes that a slow listener missed.
#[tokio::test]
async fn slow_subscribers_get_the_number_of_missed_events() {
    const CHANGES: u64 = 500;
    let place = place();
    let slow = SqliteDatabase::builder(&place.path)
        .poll_interval(NEVER)
        .open()
        .await
        .unwrap();
    let fast = SqliteDatabase::builder(&place.path)
        .retained_changes(10)
        .retained_messages(10)
        .open()
        .await
        .unwrap();
    let mut watch = slow.store().watch("key").await.unwrap();
    let mut listener = slow.bus().listen().await.unwrap();
    // The tasks have polled once, and do not poll again before this process writes.
    slow.store().put("key", "start".into(), None).await.unwrap();
    slow.bus().publish("topic", "start".into()).await.unwrap();
    see(&mut watch).await;
    assert_eq!(hear(&mut listener).await, message("topic", "start"));

    for _ in 0..CHANGES {
        fast.store().put("key", "x".into(), None).await.unwrap();
        fast.bus().publish("topic", "x".into()).await.unwrap();
    }
    for table in [
        "SELECT count(*) FROM promises_store_log",
        "SELECT count(*) FROM promises_bus_messages",
    ] {
        let rows = number(&place.path, table).await;
        assert!((10..=10 + 64).contains(&rows), "{rows}: {table}");
    }
    slow.store().put("key", "end".into(), None).await.unwrap();
    slow.bus().publish("topic", "end".into()).await.unwrap();

    let (mut missed, mut seen) = (0, 0);
    loop {
        match see(&mut watch).await {
            Change::Lagged(number) => missed += number,
            Change::Put { entry, .. } if entry.value == "end" => break,
            _ => seen += 1,
        }
    }
    assert_eq!(missed + seen, CHANGES);
    assert!(missed >= CHANGES - 10 - 64, "{missed} were missed");

    let (mut missed, mut heard) = (0, 0);
    loop {
        match hear(&mut listener).await {
            BusEvent::Lagged(number) => missed += number,
            event if event == message("topic", "end") => break,
            _ => heard += 1,
        }
    }
    assert_eq!(missed + heard, CHANGES);
    assert!(missed >= CHANGES - 10 - 64, "{missed} were missed");
}

#[tokio::test]
async fn a_slow_watcher_gets_the_number_of_missed_changes() {
    let place = place();
    let store = SqliteDatabase::builder(&place.path)
        .watch_capacity(2)
        .open()
        .await
        .unwrap()
        .store();
    let mut slow = store.watch("").await.unwrap();
    let mut quick = store.watch("").await.unwrap();
    for value in ["1", "2", "3", "4", "5"] {
        store.put("key", value.into(), None).await.unwrap();
        see(&mut quick).await;
    }
    assert_eq!(see(&mut slow).await, Change::Lagged(3));
    for value in ["4", "5"] {
        let Change::Put { entry, .. } = see(&mut slow).await else {
            panic!("the newest changes are kept");
        };
        assert_eq!(entry.value, value);
    }
}

#[tokio::test]
async fn expired_rows_are_deleted() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path)
        .retention(Duration::ZERO)
        .open()
        .await
        .unwrap();
    let (store, bus) = (database.store(), database.bus());
    let mut watch = store.watch("old").await.unwrap();
    for number in 0..200 {
        let key = format!("old/{number}");
        let put = store.put(&key, "x".into(), Some(Duration::ZERO));
        put.await.unwrap();
        bus.publish("topic", "x".into()).await.unwrap();
    }
    for number in 0..64 {
        store.put("new", "x".into(), None).await.unwrap();
        // Expired entries are deleted without a change. A slow watcher misses changes that are not retained.
        while let Some(change) = watch.next().now_or_never() {
            let change = change.unwrap().unwrap();
            let is_deletion = matches!(change, Change::Deleted { .. });
            assert!(!is_deletion, "{number}: {change:?}");
        }
    }
    until("the sweep ends", async || {
        let entries = number(&place.path, "SELECT count(*) FROM promises_store_entries").await;
        entries == 1
    })
    .await;
    let changes = number(&place.path, "SELECT count(*) FROM promises_store_log").await;
    let messages = number(&place.path, "SELECT count(*) FROM promises_bus_messages").await;
    assert!(changes <= 64 && messages <= 64, "{changes}, {messages}");
    assert!(
        messages >= 1,
        "the newest message shows which ones were missed"
    );
}

#[tokio::test]
async fn a_lost_file_is_an_error() {
    let place = place();
    let database = SqliteDatabase::open(&place.path).await.unwrap();
    let (store, bus) = (database.store(), database.bus());
    store.put("key", "x".into(), None).await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    let mut listener = bus.listen().await.unwrap();

    let backup = place.directory.path().join("backup.db");
    std::fs::rename(&place.path, &backup).unwrap();
    soon(watch.next()).await.unwrap().unwrap_err();
    assert!(soon(watch.next()).await.is_none(), "the stream ends");
    soon(listener.next()).await.unwrap().unwrap_err();
    assert!(soon(listener.next()).await.is_none(), "the stream ends");
    store.put("key", "y".into(), None).await.unwrap_err();
    store.get("key").await.unwrap_err();
    assert!(store.watch("").await.is_err());
    assert!(bus.listen().await.is_err());

    std::fs::copy(&backup, &place.path).unwrap();
    let error = bus.publish("topic", "x".into()).await.unwrap_err();
    assert_eq!(
        chain(&error),
        "the backend is not available: the database file has been replaced"
    );
}

#[tokio::test]
async fn a_file_of_another_application_is_refused() {
    let place = place();
    let path = &place.path;
    let prefix = format!(
        "the backend is not available: cannot open the database {}: ",
        path.display()
    );

    drop(SqliteDatabase::open(path).await.unwrap());
    let mut connection = connect(path).await;
    let newer = raw_sql("UPDATE promises_schema SET version = 1000");
    newer.execute(&mut connection).await.unwrap();
    assert_eq!(
        refusal(path).await,
        format!("{prefix}its schema has version 1000, and this program knows versions up to 6")
    );
    drop(connection);

    let other = place.directory.path().join("other.db");
    let mut connection = connect(&other).await;
    for change in [
        "CREATE TABLE users (name TEXT)",
        "PRAGMA application_id = 5",
    ] {
        let change = raw_sql(AssertSqlSafe(change));
        change.execute(&mut connection).await.unwrap();
        let error = refusal(&other).await;
        assert!(
            error.contains(": it belongs to another application"),
            "{error}"
        );
    }
    let mode: String = query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(mode, "delete", "the file is unchanged");

    let text = place.directory.path().join("text");
    std::fs::write(
        &text,
        "This is no database, but it is longer than a header.".repeat(20),
    )
    .unwrap();
    let error = refusal(&text).await;
    assert!(error.contains("file is not a database"), "{error}");
}

#[tokio::test]
async fn an_invalid_path_is_refused() {
    let place = place();
    for path in ["", ":memory:", "file:shared.db?mode=memory"] {
        let error = refusal(path).await;
        assert!(
            error.ends_with("databases in memory and URIs are not supported"),
            "{error}"
        );
    }
    let error = refusal(place.directory.path()).await;
    assert!(error.contains("it must be the path of a file"), "{error}");
    let error = refusal(place.path.join("deeper")).await;
    assert!(error.contains("No such file or directory"), "{error}");
    assert!(!place.path.exists());
}

#[tokio::test]
async fn a_relative_path_is_valid() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let name = directory.path().file_name().unwrap();
    let path = Path::new(name).join("shared.db");
    let store = SqliteDatabase::open(&path).await.unwrap().store();
    store.put("key", "x".into(), None).await.unwrap();
    assert!(path.is_file());
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_file_is_private_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;

    let place = place();
    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    store.put("key", "secret".into(), None).await.unwrap();
    let mut files = 0;
    for file in std::fs::read_dir(place.directory.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        files += 1;
    }
    assert_eq!(files, 3, "the database, its log, and the index of the log");
}

#[tokio::test]
async fn sizes_are_limited() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path)
        .max_value_bytes(3)
        .max_message_bytes(4)
        .open()
        .await
        .unwrap();
    let (store, bus) = (database.store(), database.bus());
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
    assert!(matches!(set.await, Err(BackendError::TooLarge { .. })));
    bus.publish("topic", "abcd".into()).await.unwrap();
    let error = bus.publish("topic", "abcde".into()).await.unwrap_err();
    assert!(matches!(
        error,
        BackendError::TooLarge {
            size: 5,
            limit: 4,
            ..
        }
    ));
}

#[tokio::test]
async fn impossible_revisions_are_conflicts() {
    let place = place();
    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    store.put("key", "x".into(), None).await.unwrap();
    for revision in [0, i64::MAX as u64, u64::MAX] {
        let revision = Some(Revision::new(revision));
        for key in ["key", "absent"] {
            let set = store.compare_and_set(key, revision, "y".into(), None);
            assert_eq!(set.await.unwrap(), CompareAndSet::Conflict);
        }
    }
}

/// A paused clock does not make calls time out while they wait for real events.
#[tokio::test(start_paused = true)]
async fn paused_time_does_no_harm() {
    let place = place();
    let database = SqliteDatabase::open(&place.path).await.unwrap();
    let (store, bus) = (database.store(), database.bus());
    let mut listener = bus.listen().await.unwrap();
    for _ in 0..50 {
        let puts = (0..20).map(|_| store.put("key", "x".into(), None));
        future::try_join_all(puts).await.unwrap();
        bus.publish("topic", "x".into()).await.unwrap();
        let heard = listener.next().await.unwrap().unwrap();
        assert_eq!(heard, message("topic", "x"));
    }
}

/// A runtime that exists, but is not polled any more, does not block the others.
#[test]
fn a_stopped_runtime_does_no_harm() {
    let place = place();
    let runtimes = [(); 3].map(|()| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    });
    let store = runtimes[0].block_on(SqliteDatabase::open(&place.path));
    let store = store.unwrap().store();
    for number in 0..300 {
        let runtime = &runtimes[number % 3];
        runtime.block_on(async {
            // Some calls have started and are dropped without an answer.
            for _ in 0..number % 5 {
                assert!(store.put("key", "x".into(), None).now_or_never().is_none());
            }
            soon(store.put("key", "x".into(), None)).await.unwrap();
        });
    }
}

#[test]
fn a_database_outlives_its_runtime() {
    let place = place();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let first = runtime();
    let database = first.block_on(SqliteDatabase::open(&place.path)).unwrap();
    let (store, bus) = (database.store(), database.bus());
    let mut listener = first.block_on(bus.listen()).unwrap();
    let put = store.put("key", "x".into(), None);
    assert!(
        put.now_or_never().is_some_and(|put| put.is_err()),
        "no runtime"
    );
    drop(first);

    let second = runtime();
    second.block_on(async {
        assert!(
            soon(listener.next()).await.is_none(),
            "the task of the listener has ended"
        );
        let mut listener = bus.listen().await.unwrap();
        bus.publish("topic", "x".into()).await.unwrap();
        assert_eq!(hear(&mut listener).await, message("topic", "x"));
        store.put("key", Bytes::new(), None).await.unwrap();
    });
}
