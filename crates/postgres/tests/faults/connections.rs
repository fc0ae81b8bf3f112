//! Connections are killed while processes enqueue and handle envelopes.

use crate::load::{self, ENVELOPES, Load, builder};
use futures_util::StreamExt;
use std::time::Duration;
use test_support::eventually::soon;
use test_support::postgres::{Server, shared};
use tokio::time::sleep;
use tower_promises_backend::{Bus, CompareAndSet, Envelope, Outcome, Queue, Store};
use tower_promises_postgres::sqlx::postgres::{PgConnection, PgPoolOptions};
use tower_promises_postgres::sqlx::{Connection, query, query_scalar};

const KILL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_under_load_lose_nothing() {
    let url = shared().await.database().await;
    let load = Load::start(url.clone()).await;
    let mut killer = PgConnection::connect(&url).await.unwrap();
    let mut kills = 0;
    while !load.is_enqueued() || load::ended(&url).await < ENVELOPES / 2 {
        // Not all at the same point of a statement.
        sleep(Duration::from_millis(20 + kills % 7 * 9)).await;
        let killed: i64 = query_scalar(KILL).fetch_one(&mut killer).await.unwrap();
        kills += killed.unsigned_abs();
        // Between the kills, calls succeed.
        sleep(Duration::from_millis(150)).await;
    }
    assert!(kills > 0);
    println!("{kills} connections killed");
    load.ends().await;
}

/// Each kind of statement meets a connection that is killed while it waits for a lock. Nothing has changed then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_whose_connection_is_killed_has_no_effect() {
    let server = Server::start().await;
    let url = server.url();
    let database = builder().timeout(Duration::from_secs(60));
    let database = database.connect(&url).await.unwrap();
    let (store, bus, queue) = (database.store(), database.bus(), database.queue());
    store.put("key", "before".into(), None).await.unwrap();
    queue
        .enqueue(Envelope::new("queue", "id", "x".into()))
        .await
        .unwrap();
    let lease = Duration::from_secs(3600);
    let taken = queue.take("queue", 1, lease).await.unwrap().remove(0);
    let mut listener = bus.listen().await.unwrap();

    let mut other = PgConnection::connect(&url).await.unwrap();
    let kill = PgPoolOptions::new().connect(&url).await.unwrap();
    let mut locks = other.begin().await.unwrap();
    let lock =
        "LOCK TABLE tower_promises.entries, tower_promises.envelopes, tower_promises.messages";
    query(lock).execute(&mut *locks).await.unwrap();
    let revision = None;
    let calls = async {
        tokio::join!(
            store.put("key", "after".into(), None),
            store.compare_and_set("new", revision, "x".into(), None),
            store.delete("key"),
            queue.enqueue(Envelope::new("queue", "other", "x".into())),
            queue.settle(&taken.receipt, Outcome::Done),
            queue.renew(&taken.receipt, Duration::from_secs(1)),
            bus.publish("topic", "x".into()),
        )
    };
    let killing = async {
        let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND query LIKE '%tower_promises%' AND state = 'active'";
        let mut killed = 0;
        // Two statements of the store and one of each other kind are under way.
        while killed < 6 {
            let number: i64 = query_scalar(waiting).fetch_one(&kill).await.unwrap();
            killed += number;
            sleep(Duration::from_millis(50)).await;
        }
        locks.rollback().await.unwrap();
    };
    let (answers, ()) = soon(async { tokio::join!(calls, killing) }).await;
    let (put, set, delete, add, settle, renew, publish) = answers;
    let failures = [
        put.is_err(),
        set.is_err(),
        delete.is_err(),
        add.is_err(),
        settle.is_err(),
        renew.is_err(),
        publish.is_err(),
    ];
    assert!(
        failures.iter().filter(|is_err| **is_err).count() >= 5,
        "{failures:?}"
    );

    // The calls that have failed had no effect, and can be repeated.
    if add.is_err() {
        let again = queue
            .enqueue(Envelope::new("queue", "other", "x".into()))
            .await;
        assert_eq!(again.unwrap(), tower_promises_backend::Enqueued::Added);
    }
    if settle.is_err() {
        assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
    }
    if set.is_err() {
        let again = store
            .compare_and_set("new", None, "x".into(), None)
            .await
            .unwrap();
        assert!(matches!(again, CompareAndSet::Set(_)), "{again:?}");
    }
    bus.publish("topic", "again".into()).await.unwrap();
    assert!(soon(listener.next()).await.unwrap().is_ok());
}
