//! The queue withstands crashes, dropped calls and processes that stop.

use crate::place::{NEVER, Place, SECOND, builder, place, soon, until};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, stream};
use static_assertions::assert_impl_all;
use std::collections::BTreeSet;
use std::time::Duration;
use test_support::remote::Process;
use tokio::time::{Instant, timeout};
use tower_promises_backend::{
    BackendError, Enqueued, Envelope, Outcome, Priority, Queue, Receipt, Store, Taken,
};
use tower_promises_postgres::sqlx::postgres::PgConnection;
use tower_promises_postgres::sqlx::{Connection, query, query_scalar};
use tower_promises_postgres::{PostgresBus, PostgresDatabase, PostgresQueue, PostgresStore};

assert_impl_all!(PostgresQueue: Queue, Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(PostgresStore: Store, Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(PostgresBus: tower_promises_backend::Bus, Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(PostgresDatabase: Clone, Send, Sync, std::fmt::Debug);

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

async fn number(place: &Place, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(&place.url).await.unwrap();
    query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn envelopes_of_a_killed_process_come_back_when_their_leases_end() {
    const ENVELOPES: usize = 3;
    let place = place().await;
    let queue = place.open().await.queue();
    let process = Process::start(&place.url);
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
    let place = place().await;
    let queue = place.open().await.queue();
    let process = Process::start(&place.url);
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
    let place = place().await;
    let process = Process::start(&place.url);
    let queue = process.adapter();
    add(&queue, "first").await;
    add(&queue, "second").await;
    let urgent = envelope("urgent").priority(Priority::High);
    queue.enqueue(urgent).await.unwrap();
    let late = envelope("late").delay(SECOND);
    let asked = Instant::now();
    queue.enqueue(late).await.unwrap();
    process.kill();

    let process = Process::start(&place.url);
    let queue = process.adapter();
    for id in ["urgent", "first", "second", "late"] {
        let again = queue.enqueue(envelope(id)).await.unwrap();
        assert_eq!(again, Enqueued::Duplicate);
    }
    let mut ids = Vec::new();
    for _ in 0..4 {
        let taken = take(&queue, NEVER).await;
        assert_eq!(taken.payload, taken.id.as_bytes());
        assert!(done(&queue, &taken).await);
        ids.push(taken.id.to_string());
    }
    // A delayed envelope that has become due comes before others of its priority.
    ids.retain(|id| id != "late");
    assert_eq!(ids, ["urgent", "first", "second"]);
    assert!(asked.elapsed() >= SECOND);
    process.kill();
    let queue = place.open().await.queue();
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
    let place = place().await;
    let queue = place.open().await.queue();
    for number in 0..ENVELOPES {
        add(&queue, &number.to_string()).await;
    }
    let (mut ended, mut open) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..8 {
        let process = Process::start(&place.url);
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
    let left = async || {
        number(
            &place,
            "SELECT count(*) FROM tower_promises.envelopes WHERE ended IS NULL",
        )
        .await
    };
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
}

#[tokio::test]
async fn an_id_can_be_used_again_after_the_window() {
    let place = place().await;
    let database = builder().deduplication_window(Duration::ZERO);
    let queue = database.connect(&place.url).await.unwrap().queue();
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
    let place = place().await;
    let database = builder().deduplication_window(LEASE);
    let database = database.connect(&place.url).await.unwrap();
    let (queue, store) = (database.queue(), database.store());
    let large = Envelope::new("queue", "large", vec![1; 100_000].into());
    queue.enqueue(large).await.unwrap();
    add(&queue, "kept").await;
    let taken = take(&queue, NEVER).await;
    assert!(done(&queue, &taken).await);
    let bytes = "SELECT sum(length(payload)) FROM tower_promises.envelopes";
    assert_eq!(
        number(&place, bytes).await,
        4,
        "the payload is deleted at once"
    );
    until("the settled envelope is deleted", async || {
        store.put("key", "x".into(), None).await.unwrap();
        number(&place, "SELECT count(*) FROM tower_promises.envelopes").await == 1
    })
    .await;
    assert_eq!(&*take(&queue, NEVER).await.id, "kept");
}

/// A sweep looks at a bounded number of envelopes, also where the first ones never end.
#[tokio::test]
async fn sweeps_come_to_all_settled_envelopes() {
    let place = place().await;
    let store = place.open().await.store();
    let insert = "INSERT INTO tower_promises.envelopes (place, queue, id, ended, payload)
        SELECT place, 'queue', place::text, CASE WHEN place > 1500 THEN now() - interval '1 year' END, ''
        FROM generate_series(1, 4000) AS places (place)";
    // Tells that the places were assigned before the window. The clock was wrong at the time of the second.
    let mark = "INSERT INTO tower_promises.marks (written, place) VALUES
        (now() - interval '1 year', 4000), (now() + interval '1 year', 4000)";
    let mut connection = PgConnection::connect(&place.url).await.unwrap();
    for sql in [insert, mark] {
        query(sql).execute(&mut connection).await.unwrap();
    }
    until("the settled envelopes are deleted", async || {
        store.put("key", "x".into(), None).await.unwrap();
        number(&place, "SELECT count(*) FROM tower_promises.envelopes").await == 1500
    })
    .await;
    let kept = "SELECT count(*) FROM tower_promises.envelopes WHERE place <= 1500";
    assert_eq!(number(&place, kept).await, 1500);
}

#[tokio::test]
async fn numbers_and_sizes_are_limited() {
    let place = place().await;
    let database = builder().max_envelopes(2).max_envelope_bytes(3);
    let queue = database.connect(&place.url).await.unwrap().queue();
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
    let place = place().await;
    let queue = place.open().await.queue();
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

/// An envelope without a delay does not depend on the clock of the server, which cannot be set here. So its columns tell.
#[tokio::test]
async fn an_envelope_without_a_delay_has_no_time() {
    let place = place().await;
    let queue = place.open().await.queue();
    add(&queue, "now").await;
    queue.enqueue(envelope("late").delay(NEVER)).await.unwrap();
    let timed = "SELECT count(*) FROM tower_promises.waiting";
    assert_eq!(number(&place, timed).await, 1);
    let taken = take(&queue, NEVER).await;
    assert_eq!(number(&place, timed).await, 2);
    assert!(queue.settle(&taken.receipt, RETRY).await.unwrap());
    assert_eq!(number(&place, timed).await, 1);
}

/// A worker that is busy costs one transaction for what it has handled and what it handles next.
#[tokio::test]
async fn a_settlement_goes_along_with_the_next_take() {
    let place = place().await;
    let queue = place.open().await.queue();
    for id in ["first", "next"] {
        add(&queue, id).await;
    }
    let first = take(&queue, NEVER).await;
    let (settled, next) = soon(future::join(done(&queue, &first), take(&queue, NEVER))).await;
    assert!(settled);
    assert_eq!(&*next.id, "next");
    let together = "SELECT count(*) FROM tower_promises.envelopes AS settled
        JOIN tower_promises.waiting AS taken ON taken.xmin = settled.xmin WHERE settled.id = 'first'";
    assert_eq!(number(&place, together).await, 1);
    assert!(done(&queue, &next).await);
}

/// A take that fails takes a settlement along, which is then made again.
#[tokio::test]
async fn a_settlement_fails_with_the_take_that_it_goes_along_with() {
    let place = place().await;
    let database = builder().timeout(SECOND);
    let queue = database.connect(&place.url).await.unwrap().queue();
    for id in ["first", "next"] {
        add(&queue, id).await;
    }
    let first = take(&queue, NEVER).await;
    let mut other = PgConnection::connect(&place.url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    query("LOCK TABLE tower_promises.ready")
        .execute(&mut *lock)
        .await
        .unwrap();
    let settle = queue.settle(&first.receipt, Outcome::Done);
    let (settled, taken) = soon(future::join(settle, queue.take("queue", 1, NEVER))).await;
    assert!(settled.is_err(), "{settled:?}");
    assert!(taken.is_err(), "{taken:?}");
    lock.rollback().await.unwrap();
    assert!(done(&queue, &first).await);
    assert_eq!(&*take(&queue, NEVER).await.id, "next");
}

/// Envelopes that were repeated do not starve, and neither do new ones.
#[tokio::test]
async fn a_repeated_envelope_goes_to_the_end_of_the_queue() {
    let place = place().await;
    let queue = place.open().await.queue();
    for id in ["1", "2"] {
        add(&queue, id).await;
    }
    for expected in ["1", "2", "1", "2", "1"] {
        let taken = take(&queue, NEVER).await;
        assert_eq!(&*taken.id, expected);
        assert!(queue.settle(&taken.receipt, RETRY).await.unwrap());
    }
}

/// A receipt is a text of another process, which may be anything.
#[tokio::test]
async fn a_text_that_is_no_receipt_is_no_lease() {
    let queue = place().await.open().await.queue();
    for text in [
        "",
        "1",
        "1 2",
        "x 2 queue",
        "1 x queue",
        "9223372036854775808 1 queue",
        "1 1 queue",
    ] {
        let receipt = Receipt::new(text);
        assert!(
            !queue.settle(&receipt, Outcome::Done).await.unwrap(),
            "{text}"
        );
        assert!(!queue.renew(&receipt, NEVER).await.unwrap(), "{text}");
    }
}

/// A replica that is promoted may lack places that were assigned, and then assigns them again.
#[tokio::test]
async fn a_receipt_of_a_lost_delivery_fits_no_other() {
    let place = place().await;
    let queue = place.open().await.queue();
    add(&queue, "lost").await;
    let lost = take(&queue, NEVER).await;
    let mut connection = PgConnection::connect(&place.url).await.unwrap();
    for lose in [
        "TRUNCATE tower_promises.envelopes, tower_promises.waiting",
        "ALTER SEQUENCE tower_promises.places RESTART",
    ] {
        query(lose).execute(&mut connection).await.unwrap();
    }
    add(&queue, "other").await;
    let other = take(&queue, NEVER).await;
    assert!(!queue.renew(&lost.receipt, NEVER).await.unwrap());
    assert!(!done(&queue, &lost).await);
    assert!(done(&queue, &other).await);
}

/// Each statement locks its rows in the order of their places.
#[tokio::test]
async fn settlements_and_renewals_never_wait_for_each_other() {
    let place = place().await;
    drop(place.open().await);
    let connect = async || PgConnection::connect(&place.url).await.unwrap();
    let mut other = connect().await;
    let leases = "INSERT INTO tower_promises.waiting (place, queue, priority, number, token, due)
        SELECT place, 'queue', 1, 1, 0, now() + interval '1 hour' FROM generate_series(1, 3) AS places (place)";
    query(leases).execute(&mut other).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    let last = "SELECT FROM tower_promises.waiting WHERE place = 3 FOR UPDATE";
    query(last).execute(&mut *lock).await.unwrap();
    let changed = async |sql: &'static str| {
        let rows = query(sql).fetch_all(&mut connect().await).await;
        rows.unwrap().len()
    };
    let waiting = async |statements| {
        until("the statements wait", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity
                WHERE wait_event_type = 'Lock' AND datname = current_database()";
            number(&place, sql).await == statements
        })
        .await;
    };
    // The first is delivered again after a delay, and the others have ended.
    let settle = changed(
        "SELECT tower_promises.settle(60000, '{1,2,3}', '{0,0,0}', '{1000000,NULL,NULL}'::bigint[])",
    );
    let renew = changed("SELECT tower_promises.renew(60000, '{1,2}', '{0,0}', '{1,1}')");
    let renew = async {
        waiting(1).await;
        renew.await
    };
    let release = async {
        waiting(2).await;
        lock.rollback().await.unwrap();
    };
    let (settled, renewed, ()) = soon(future::join3(settle, renew, release)).await;
    assert_eq!((settled, renewed), (3, 0));
}

/// Another transaction that is under way hides its envelope, and keeps no worker from others.
#[tokio::test]
async fn workers_pass_by_what_others_have_locked() {
    let place = place().await;
    let queue = place.open().await.queue();
    for id in ["locked", "free"] {
        add(&queue, id).await;
    }
    let mut other = PgConnection::connect(&place.url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    let locking = "SELECT 1 FROM tower_promises.ready JOIN tower_promises.envelopes USING (place)
        WHERE id = 'locked' FOR UPDATE OF ready";
    query(locking).execute(&mut *lock).await.unwrap();
    assert_eq!(&*take(&queue, NEVER).await.id, "free");
    lock.rollback().await.unwrap();
    assert_eq!(&*take(&queue, NEVER).await.id, "locked");
}

/// The number of a transaction that was rolled back stays in the rows that it has locked.
#[tokio::test]
async fn workers_take_what_was_locked_before_while_an_older_transaction_is_open() {
    let place = place().await;
    let queue = place.open().await.queue();
    for id in ["locked", "free"] {
        add(&queue, id).await;
    }
    let connect = async || PgConnection::connect(&place.url).await.unwrap();
    let (mut other, mut older) = (connect().await, connect().await);
    let mut open = older.begin().await.unwrap();
    query("SELECT pg_current_xact_id()")
        .execute(&mut *open)
        .await
        .unwrap();
    let mut lock = other.begin().await.unwrap();
    query("SELECT FROM tower_promises.ready ORDER BY position LIMIT 1 FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    lock.rollback().await.unwrap();
    assert_eq!(&*take(&queue, NEVER).await.id, "locked");
    assert_eq!(&*take(&queue, NEVER).await.id, "free");
    open.rollback().await.unwrap();
}

/// The rows then have the number of a group of transactions.
#[tokio::test]
async fn workers_take_what_several_transactions_have_locked() {
    let place = place().await;
    let queue = place.open().await.queue();
    add(&queue, "locked").await;
    let connect = async || PgConnection::connect(&place.url).await.unwrap();
    let (mut one, mut other) = (connect().await, connect().await);
    let mut locks = [one.begin().await.unwrap(), other.begin().await.unwrap()];
    for lock in &mut locks {
        let shared = "SELECT FROM tower_promises.ready FOR SHARE";
        query(shared).execute(&mut **lock).await.unwrap();
    }
    let [one, other] = locks;
    one.rollback().await.unwrap();
    other.rollback().await.unwrap();
    assert_eq!(&*take(&queue, NEVER).await.id, "locked");
}

/// Autovacuum looks once a minute.
#[tokio::test]
async fn a_busy_process_removes_dead_rows() {
    let place = place().await;
    let queue = place.open().await.queue();
    let calls = stream::iter(0..9000).for_each_concurrent(64, async |number| {
        add(&queue, &number.to_string()).await;
    });
    timeout(60 * SECOND, calls).await.unwrap();
    until("the tables are vacuumed", async || {
        // A sweep follows a write.
        let _ = queue.enqueue(envelope("known")).await.unwrap();
        let sql = "SELECT count(*) FROM pg_stat_user_tables
            WHERE relname IN ('ready', 'waiting') AND vacuum_count > 0";
        number(&place, sql).await == 2
    })
    .await;
}
