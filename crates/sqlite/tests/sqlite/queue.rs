//! The SQLite queue passes the conformance suite, in one process and in two, and withstands crashes, locks and dropped
//! calls.

use crate::database::start;
use crate::database::{NEVER, Place, SECOND, connect, number, place, soon, until};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future};
use sqlx::{AssertSqlSafe, Connection, raw_sql};
use static_assertions::assert_impl_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower_promises_backend::{
    BackendError, Bus, Change, Enqueued, Envelope, Outcome, Priority, Queue, Receipt, Store, Taken,
    conformance,
};
use tower_promises_sqlite::{SqliteDatabase, SqliteQueue};

assert_impl_all!(SqliteQueue: Queue, Clone, Send, Sync, std::fmt::Debug);

/// Long enough for a busy machine to renew the lease.
const LEASE: Duration = Duration::from_secs(3);

/// Retries at once.
const RETRY: Outcome = Outcome::Retry {
    after: Duration::ZERO,
};

fn envelope(id: &str) -> Envelope {
    Envelope::new("queue", id, Bytes::copy_from_slice(id.as_bytes()))
}

async fn add(queue: &impl Queue, id: &str) {
    let added = queue.enqueue(envelope(id)).await.unwrap();
    assert_eq!(added, Enqueued::Added);
}

async fn take(queue: &impl Queue, lease: Duration) -> Taken {
    let taken = soon(queue.take("queue", 1, lease)).await.unwrap();
    taken.into_iter().next().unwrap()
}

async fn done(queue: &impl Queue, taken: &Taken) -> bool {
    queue.settle(&taken.receipt, Outcome::Done).await.unwrap()
}

#[tokio::test]
async fn the_queue_conforms_on_one_database() {
    let place = place();
    let queue = SqliteDatabase::open(&place.path).await.unwrap().queue();
    conformance::queue(async || queue.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_queue_conforms_on_a_database_for_each_caller() {
    let place = place();
    conformance::queue(async || SqliteDatabase::open(&place.path).await.unwrap().queue()).await;
}

/// Every second caller is in the other process: first the odd callers, then the even ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_conforms_between_two_processes() {
    let place = place();
    let here = SqliteDatabase::open(&place.path).await.unwrap();
    let there = start(&place.path);
    for first in [0, 1] {
        let calls = AtomicUsize::new(first);
        conformance::queue(async || {
            let is_here = calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            let adapter: Arc<dyn Queue> = if is_here {
                Arc::new(here.queue())
            } else {
                Arc::new(there.adapter())
            };
            adapter
        })
        .await;
    }
}

#[tokio::test]
async fn envelopes_of_a_killed_process_come_back_when_their_leases_end() {
    const ENVELOPES: usize = 3;
    let place = place();
    let queue = SqliteDatabase::open(&place.path).await.unwrap().queue();
    let process = start(&place.path);
    let mut begun = process.work("queue", LEASE).await;
    let ids = ["a", "b", "c"];
    for id in ids {
        add(&queue, id).await;
    }
    let mut seen = BTreeSet::new();
    for _ in 0..ENVELOPES {
        let (id, number) = soon(begun.next()).await;
        assert_eq!(number, 1);
        seen.insert(id);
    }
    assert_eq!(seen.len(), ENVELOPES);

    // The worker renews its leases, so no other worker gets the envelopes.
    let early = timeout(LEASE * 4, queue.take("queue", 1, LEASE)).await;
    assert!(early.is_err(), "{early:?}");
    process.kill();
    let mut back = BTreeSet::new();
    for _ in 0..ENVELOPES {
        let taken = take(&queue, NEVER).await;
        assert_eq!(taken.number, 2);
        assert!(done(&queue, &taken).await);
        back.insert(taken.id.to_string());
    }
    assert_eq!(back, seen);
}

/// When the process continues, another process has its leases.
#[cfg(unix)]
#[tokio::test]
async fn a_stopped_process_changes_nothing_after_its_leases_have_ended() {
    let place = place();
    let queue = SqliteDatabase::open(&place.path).await.unwrap().queue();
    let process = start(&place.path);
    // A worker, and a call that settles after the stop.
    let mut begun = process.work("queue", LEASE).await;
    add(&queue, "worker").await;
    assert_eq!(soon(begun.next()).await, ("worker".to_owned(), 1));
    let there = process.adapter();
    let late = Envelope::new("late", "late", Bytes::new());
    queue.enqueue(late).await.unwrap();
    let late = soon(there.take("late", 1, LEASE)).await.unwrap().remove(0);

    process.stop();
    let worker = take(&queue, NEVER).await;
    let again = soon(queue.take("late", 1, NEVER)).await.unwrap().remove(0);
    assert_eq!((worker.number, again.number), (2, 2));
    process.go_on();
    for outcome in [Outcome::Done, RETRY, Outcome::GiveUp] {
        let settled = soon(there.settle(&late.receipt, outcome)).await;
        assert!(!settled.unwrap(), "the lease has ended");
    }
    // The worker continues with the next envelope.
    add(&queue, "next").await;
    assert_eq!(soon(begun.next()).await, ("next".to_owned(), 1));
    for taken in [&worker, &again] {
        let renewed = queue.renew(&taken.receipt, NEVER).await.unwrap();
        assert!(renewed, "the late calls changed nothing");
        assert!(done(&queue, taken).await);
    }
}

#[tokio::test]
async fn a_restart_keeps_queued_envelopes() {
    let place = place();
    let process = start(&place.path);
    let queue = process.adapter();
    add(&queue, "first").await;
    add(&queue, "second").await;
    let urgent = envelope("urgent").priority(Priority::High);
    queue.enqueue(urgent).await.unwrap();
    let late = envelope("late").delay(SECOND);
    let asked = Instant::now();
    queue.enqueue(late).await.unwrap();
    process.kill();

    let process = start(&place.path);
    let queue = process.adapter();
    for id in ["urgent", "first", "second", "late"] {
        let again = queue.enqueue(envelope(id)).await.unwrap();
        assert_eq!(again, Enqueued::Duplicate);
    }
    for id in ["urgent", "first", "second", "late"] {
        let taken = take(&queue, NEVER).await;
        assert_eq!((&*taken.id, &taken.payload[..]), (id, id.as_bytes()));
        assert!(done(&queue, &taken).await);
    }
    assert!(asked.elapsed() >= SECOND);
    process.kill();
    let queue = SqliteDatabase::open(&place.path).await.unwrap().queue();
    let again = queue.enqueue(envelope("first")).await.unwrap();
    assert_eq!(
        again,
        Enqueued::Duplicate,
        "the id is remembered after the end"
    );
}

/// A kill at any moment loses nothing, and settled envelopes do not come again.
#[tokio::test]
async fn kills_in_the_middle_of_work_lose_nothing() {
    const ENVELOPES: usize = 60;
    let place = place();
    let queue = SqliteDatabase::open(&place.path).await.unwrap().queue();
    for number in 0..ENVELOPES {
        add(&queue, &number.to_string()).await;
    }
    let (mut ended, mut open) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..8 {
        let process = start(&place.path);
        let there = process.adapter();
        let mut taken = soon(there.take("queue", 3, LEASE)).await.unwrap();
        let last = taken.pop().unwrap();
        for taken in taken {
            assert!(done(&there, &taken).await);
            assert!(
                ended.insert(taken.id),
                "settled envelopes do not come again"
            );
        }
        // The kill hits a take and a settlement, each time at another point.
        let kill = async {
            for _ in 0..round * 3 {
                tokio::task::yield_now().await;
            }
            process.kill();
        };
        let settle = there.settle(&last.receipt, Outcome::Done);
        let take = there.take("queue", 1, LEASE);
        let (settled, _, ()) = soon(future::join3(settle, take, kill)).await;
        match settled {
            Ok(settled) => assert!(settled && ended.insert(last.id)),
            // The envelope may be settled or not.
            Err(_) => drop(open.insert(last.id)),
        }
    }
    let left = async || number(&place.path, "SELECT envelopes FROM promises_queue_size").await;
    while left().await > 0 {
        let taken = take(&queue, NEVER).await;
        assert!(done(&queue, &taken).await);
        open.remove(&taken.id);
        assert!(
            ended.insert(taken.id),
            "settled envelopes do not come again"
        );
    }
    // Envelopes that did not come again had been settled when the process was killed.
    ended.append(&mut open);
    assert_eq!(ended.len(), ENVELOPES, "nothing is lost");
    let check = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
    assert_eq!(number(&place.path, check).await, 1);
}

#[tokio::test]
async fn a_worker_of_the_same_process_does_not_wait_for_a_poll() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path).poll_interval(NEVER);
    let queue = database.open().await.unwrap().queue();
    for id in 0..20 {
        let id = id.to_string();
        let (taken, ()) = future::join(take(&queue, NEVER), add(&queue, &id)).await;
        let retry = queue.settle(&taken.receipt, RETRY);
        let (again, retried) = future::join(take(&queue, NEVER), retry).await;
        assert!(retried.unwrap());
        assert_eq!(again.number, 2);
        assert!(done(&queue, &again).await);
    }
    // A worker that knows the end of a delay or of a lease does not wait for a poll.
    queue.enqueue(envelope("late").delay(LEASE)).await.unwrap();
    let taken = take(&queue, LEASE).await;
    let again = take(&queue, NEVER).await;
    assert_eq!((again.id, again.number), (taken.id, 2));
}

/// Two databases are not notified of each other's writes, like two processes.
#[tokio::test]
async fn a_busy_database_is_polled_more_often() {
    const ROUNDS: u32 = 20;
    // So long that the delays of a busy machine are small in comparison.
    const INTERVAL: Duration = Duration::from_secs(4);
    let place = place();
    let open = async || {
        let database = SqliteDatabase::builder(&place.path).poll_interval(INTERVAL);
        database.open().await.unwrap()
    };
    let (here, there) = (open().await, open().await);
    let mut answers = here.bus().listen().await.unwrap();
    let started = Instant::now();
    for round in 0..ROUNDS {
        add(&here.queue(), &round.to_string()).await;
        let taken = take(&there.queue(), NEVER).await;
        there.bus().publish("answer", "x".into()).await.unwrap();
        crate::database::hear(&mut answers).await;
        assert!(done(&there.queue(), &taken).await);
    }
    // With polls at the interval, each message would wait for half of the interval on average, two messages a round.
    let elapsed = started.elapsed();
    assert!(elapsed < INTERVAL * ROUNDS / 2, "{elapsed:?}");
}

#[tokio::test]
async fn an_id_can_be_used_again_after_the_window() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path).deduplication_window(Duration::ZERO);
    let queue = database.open().await.unwrap().queue();
    let mut receipts = BTreeSet::new();
    for _ in 0..3 {
        let payload = Bytes::from(receipts.len().to_string());
        let envelope = Envelope::new("queue", "id", payload.clone());
        until("the window is over", async || {
            let added = queue.enqueue(envelope.clone()).await.unwrap();
            added == Enqueued::Added
        })
        .await;
        let taken = take(&queue, NEVER).await;
        assert_eq!((taken.number, &taken.payload), (1, &payload));
        for receipt in &receipts {
            let receipt = Receipt::new(String::clone(receipt));
            assert!(!queue.settle(&receipt, Outcome::Done).await.unwrap());
        }
        assert!(done(&queue, &taken).await);
        receipts.insert(taken.receipt.as_str().to_owned());
    }
    assert_eq!(receipts.len(), 3, "each lease has a receipt of its own");
}

#[tokio::test]
async fn settled_envelopes_are_deleted_after_the_window() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path).deduplication_window(LEASE);
    let database = database.open().await.unwrap();
    let (queue, store) = (database.queue(), database.store());
    let large = Envelope::new("queue", "large", vec![1; 100_000].into());
    queue.enqueue(large).await.unwrap();
    add(&queue, "kept").await;
    let taken = take(&queue, NEVER).await;
    assert!(done(&queue, &taken).await);
    let bytes = "SELECT sum(length(payload)) FROM promises_queue_envelopes";
    assert_eq!(
        number(&place.path, bytes).await,
        4,
        "the payload is deleted at once"
    );
    until("the settled envelope is deleted", async || {
        store.put("key", "x".into(), None).await.unwrap();
        number(&place.path, "SELECT count(*) FROM promises_queue_envelopes").await == 1
    })
    .await;
    assert_eq!(&*take(&queue, NEVER).await.id, "kept");
}

#[tokio::test]
async fn numbers_and_sizes_are_limited() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path)
        .max_envelopes(2)
        .max_envelope_bytes(3);
    let queue = database.open().await.unwrap().queue();
    let error = queue.enqueue(envelope("four")).await.unwrap_err();
    let limit = (4, 3);
    assert!(
        matches!(error, BackendError::TooLarge { size, limit: allowed, .. } if (size, allowed) == limit),
        "{error:?}"
    );
    add(&queue, "a").await;
    add(&queue, "b").await;
    let full = queue.enqueue(envelope("c")).await;
    assert!(matches!(full, Err(BackendError::Full)), "{full:?}");
    let known = queue.enqueue(envelope("b")).await.unwrap();
    assert_eq!(known, Enqueued::Duplicate);
    let taken = take(&queue, NEVER).await;
    let full = queue.enqueue(envelope("c")).await;
    assert!(matches!(full, Err(BackendError::Full)), "{full:?}");
    assert!(done(&queue, &taken).await);
    add(&queue, "c").await;
}

#[tokio::test]
async fn envelopes_of_a_dropped_call_are_returned_at_once() {
    let place = place();
    let queue = SqliteDatabase::open(&place.path).await.unwrap().queue();
    add(&queue, "id").await;
    let mut drops = 0;
    for turns in 0..200 {
        let mut early = queue.take("queue", 1, NEVER);
        for _ in 0..turns {
            if let Some(taken) = (&mut early).now_or_never() {
                let [taken] = &taken.unwrap()[..] else {
                    panic!("one envelope is taken");
                };
                assert!(queue.settle(&taken.receipt, RETRY).await.unwrap());
                break;
            }
            drops += 1;
            tokio::task::yield_now().await;
        }
        drop(early);
    }
    assert!(drops > 0);
    let taken = take(&queue, NEVER).await;
    assert!(done(&queue, &taken).await);
}

#[tokio::test]
async fn a_lock_of_another_process_is_an_error_until_it_ends() {
    const BUSY_TIMEOUT: Duration = Duration::from_millis(300);
    let place = place();
    let database = SqliteDatabase::builder(&place.path).busy_timeout(BUSY_TIMEOUT);
    let queue = database.open().await.unwrap().queue();
    add(&queue, "id").await;
    let process = start(&place.path);
    let lock = process.hold().await;
    let taken = soon(queue.take("queue", 1, NEVER)).await;
    assert!(
        matches!(taken, Err(BackendError::TimedOut { .. })),
        "{taken:?}"
    );
    let added = soon(queue.enqueue(envelope("other"))).await;
    assert!(
        matches!(added, Err(BackendError::TimedOut { .. })),
        "{added:?}"
    );
    drop(lock);
    until("the lock is free", async || {
        queue.enqueue(envelope("other")).await.is_ok()
    })
    .await;
    for id in ["id", "other"] {
        let taken = take(&queue, NEVER).await;
        assert_eq!((&*taken.id, taken.number), (id, 1));
    }
}

/// The first versions of the schema, unchanged.
const VERSIONS: [&str; 2] = [
    include_str!("database/version_1.sql"),
    include_str!("database/version_2.sql"),
];

/// Creates a database of an older version, with a value, and with an envelope if the version has queues.
async fn old_database(place: &Place, version: usize) {
    let mut connection = connect(&place.path).await;
    for tables in &VERSIONS[..version] {
        raw_sql(*tables).execute(&mut connection).await.unwrap();
    }
    let marks = format!("PRAGMA application_id = 0x746f7072; PRAGMA user_version = {version};");
    let marks = raw_sql(AssertSqlSafe(marks));
    marks.execute(&mut connection).await.unwrap();
    let value = "INSERT INTO store_entries (key, revision, value) VALUES ('key', 1, x'6b657074')";
    raw_sql(value).execute(&mut connection).await.unwrap();
    if version > 1 {
        let envelope = "INSERT INTO queue_envelopes (queue, id, priority, due, payload)
            VALUES ('queue', 'old', 1, round(unixepoch('subsec') * 1000), x'78')";
        raw_sql(envelope).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn databases_of_older_versions_are_migrated() {
    for version in 1..=VERSIONS.len() {
        let place = place();
        old_database(&place, version).await;
        let backend = SqliteDatabase::open(&place.path).await.unwrap().backend();
        let (store, queue) = (backend.store(), backend.queue());
        let entry = store.get("key").await.unwrap().unwrap();
        assert_eq!(entry.value, "kept");
        // Covers all triggers: a change, a replacement and a deletion are seen.
        let mut changes = store.watch("").await.unwrap();
        let first = store.put("key", "new".into(), None).await.unwrap();
        assert!(first > entry.revision);
        store.put("other", "x".into(), None).await.unwrap();
        assert!(store.delete("key").await.unwrap());
        for is_put in [true, true, false] {
            let change = soon(changes.next()).await.unwrap().unwrap();
            assert_eq!(matches!(change, Change::Put { .. }), is_put, "{change:?}");
        }
        queue.enqueue(envelope("id")).await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..version {
            let taken = soon(queue.take("queue", 1, NEVER)).await.unwrap();
            ids.push(taken[0].id.to_string());
            let settled = queue.settle(&taken[0].receipt, Outcome::Done).await;
            assert!(settled.unwrap());
        }
        assert_eq!(ids, ["old", "id"][2 - version..]);
        drop((changes, backend));
        // The database can be opened again.
        let backend = SqliteDatabase::open(&place.path).await.unwrap().backend();
        assert!(backend.store().get("other").await.unwrap().is_some());
    }
}
