//! Messages and changes: late commits, lost notifications and connections, large payloads, listeners that fall behind.

use crate::place::{SECOND, builder, hear, message, place, see, soon, until};
use bytes::Bytes;
use std::time::Duration;
use test_support::remote::Process;
use tower_promises_backend::{BackendError, Bus, BusEvent, Change, Store};
use tower_promises_postgres::sqlx::postgres::{PgConnection, PgPoolOptions};
use tower_promises_postgres::sqlx::{Connection, query, query_scalar};

/// A change of a key, as another process makes it.
const CHANGE: &str =
    "SELECT tower_promises.change(10000, ARRAY[$1], ARRAY['late']::bytea[], ARRAY[NULL]::bigint[],
    ARRAY[NULL]::bigint[])";

fn key(change: &Change) -> &str {
    match change {
        Change::Put { key, .. } | Change::Deleted { key, .. } => key,
        change => panic!("the watch keeps up, but got {change:?}"),
    }
}

/// A transaction has a lower number than another, and is committed after a reader has seen the other.
#[tokio::test]
async fn a_change_that_is_committed_late_is_not_missed() {
    let place = place().await;
    let store = place.open().await.store();
    let mut watch = store.watch("").await.unwrap();
    let mut other = PgConnection::connect(&place.url).await.unwrap();
    for round in 0..3 {
        let mut late = other.begin().await.unwrap();
        query(CHANGE)
            .bind("late")
            .execute(&mut *late)
            .await
            .unwrap();
        let early = format!("early {round}");
        store.put(&early, "x".into(), None).await.unwrap();
        assert_eq!(key(&see(&mut watch).await), early);
        late.commit().await.unwrap();
        assert_eq!(key(&see(&mut watch).await), "late");
    }
    // A change that is rolled back is none, and its number is missing.
    let mut never = other.begin().await.unwrap();
    query(CHANGE)
        .bind("never")
        .execute(&mut *never)
        .await
        .unwrap();
    never.rollback().await.unwrap();
    store.put("last", "x".into(), None).await.unwrap();
    assert_eq!(key(&see(&mut watch).await), "last");
}

/// The statement does not notify, as if the notification were lost.
#[tokio::test]
async fn a_lost_notification_costs_time_only() {
    let place = place().await;
    let store = place.open().await.store();
    let mut watch = store.watch("").await.unwrap();
    let mut other = PgConnection::connect(&place.url).await.unwrap();
    query(CHANGE)
        .bind("quiet")
        .execute(&mut other)
        .await
        .unwrap();
    assert_eq!(key(&see(&mut watch).await), "quiet");
}

#[tokio::test]
async fn without_notifications_processes_poll() {
    let place = place().await;
    let open = async || builder().notify(false).connect(&place.url).await.unwrap();
    let (here, there) = (open().await.bus(), open().await.bus());
    let mut listener = there.listen().await.unwrap();
    here.publish("topic", "polled".into()).await.unwrap();
    assert_eq!(hear(&mut listener).await, message("topic", "polled"));
    let listening = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let number: i64 = query_scalar(listening).fetch_one(&pool).await.unwrap();
    assert_eq!(number, 0);
}

/// A notification has 8000 bytes at most.
#[tokio::test]
async fn large_messages_and_values_arrive() {
    const SIZE: usize = 5 * 1024 * 1024;
    let place = place().await;
    let open = async || {
        let builder = builder().max_message_bytes(SIZE).max_value_bytes(SIZE);
        builder.connect(&place.url).await.unwrap()
    };
    let (here, there) = (open().await, open().await);
    let mut listener = there.bus().listen().await.unwrap();
    let mut watch = there.store().watch("").await.unwrap();
    let large: Bytes = (0..=u8::MAX).cycle().take(SIZE).collect();
    for size in [7_999, 8_000, 8_001, 100_000, SIZE] {
        let payload = large.slice(..size);
        here.bus().publish("topic", payload.clone()).await.unwrap();
        let expected = BusEvent::Message {
            topic: "topic".into(),
            payload: payload.clone(),
        };
        assert_eq!(hear(&mut listener).await, expected, "{size}");
        here.store()
            .put("key", payload.clone(), None)
            .await
            .unwrap();
        let Change::Put { entry, .. } = see(&mut watch).await else {
            panic!("the value was put");
        };
        assert_eq!(entry.value, payload, "{size}");
    }
    let too_large = Bytes::from(vec![0; SIZE + 1]);
    let error = here.bus().publish("topic", too_large).await.unwrap_err();
    assert!(matches!(error, BackendError::TooLarge { .. }), "{error:?}");
}

/// Streams continue on other connections.
#[tokio::test]
async fn connections_that_are_killed_lose_no_messages_and_changes() {
    let place = place().await;
    let (here, there) = (place.open().await, place.open().await);
    let mut listener = there.bus().listen().await.unwrap();
    let mut watch = there.store().watch("").await.unwrap();
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for number in 0..5 {
        query(end).execute(&pool).await.unwrap();
        let text = number.to_string();
        // The call may meet a connection that was killed, and may or may not have taken effect.
        until("the message is accepted", async || {
            here.bus().publish(&text, "x".into()).await.is_ok()
        })
        .await;
        loop {
            let BusEvent::Message { topic, .. } = hear(&mut listener).await else {
                panic!("the listener keeps up");
            };
            if *topic == *text {
                break;
            }
        }
        until("the value is set", async || {
            here.store().put(&text, "x".into(), None).await.is_ok()
        })
        .await;
        while key(&see(&mut watch).await) != text {}
    }
}

#[tokio::test]
async fn nothing_is_written_without_listeners() {
    let place = place().await;
    let database = place.open().await;
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let rows = async || {
        let count = "SELECT (SELECT count(*) FROM tower_promises.messages)
            + (SELECT count(*) FROM tower_promises.changes)";
        let rows: i64 = query_scalar(count).fetch_one(&pool).await.unwrap();
        rows
    };
    database.bus().publish("topic", "x".into()).await.unwrap();
    database.store().put("key", "x".into(), None).await.unwrap();
    assert_eq!(rows().await, 0);
    let listener = database.bus().listen().await.unwrap();
    let watch = database.store().watch("").await.unwrap();
    database.bus().publish("topic", "x".into()).await.unwrap();
    database.store().put("key", "x".into(), None).await.unwrap();
    assert_eq!(rows().await, 2);
    drop((listener, watch));
    until("the process is no longer registered", async || {
        let count = "SELECT count(*) FROM tower_promises.listeners";
        let registered: i64 = query_scalar(count).fetch_one(&pool).await.unwrap();
        registered == 0
    })
    .await;
    database.bus().publish("topic", "x".into()).await.unwrap();
    assert_eq!(rows().await, 2);
}

/// A process that does not run for longer than the retention is told that it has missed something.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_sleeps_is_told_what_it_has_missed() {
    let place = place().await;
    let here = builder().retention(Duration::ZERO);
    let here = here.connect(&place.url).await.unwrap();
    let process = Process::start(&place.url);
    let mut listener = process.adapter().listen().await.unwrap();
    // By a process that keeps messages, so that a busy machine reads this one before it is deleted.
    let other = place.open().await;
    other.bus().publish("topic", "heard".into()).await.unwrap();
    assert_eq!(hear(&mut listener).await, message("topic", "heard"));
    process.stop();
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    here.bus().publish("topic", "missed".into()).await.unwrap();
    // Sweeps follow writes.
    until("the message is deleted", async || {
        here.store().put("key", "x".into(), None).await.unwrap();
        let count = "SELECT count(*) FROM tower_promises.messages";
        let left: i64 = query_scalar(count).fetch_one(&pool).await.unwrap();
        left == 0
    })
    .await;
    process.go_on();
    let heard = hear(&mut listener).await;
    assert!(matches!(heard, BusEvent::Lagged(1)), "{heard:?}");
    let later = async {
        loop {
            here.bus().publish("topic", "later".into()).await.unwrap();
            if let Ok(heard) = tokio::time::timeout(SECOND, hear(&mut listener)).await {
                break heard;
            }
        }
    };
    // With this retention, a message may be deleted before it is read.
    assert!(matches!(
        soon(later).await,
        BusEvent::Message { .. } | BusEvent::Lagged(_)
    ));
}

/// The number of rows is limited, also if none is old.
#[tokio::test]
async fn old_messages_are_deleted_if_there_are_too_many() {
    let place = place().await;
    let database = builder()
        .retained_messages(10)
        .connect(&place.url)
        .await
        .unwrap();
    let bus = database.bus();
    let _listener = bus.listen().await.unwrap();
    for number in 0..100 {
        bus.publish(&number.to_string(), "x".into()).await.unwrap();
    }
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    until("messages are deleted", async || {
        bus.publish("topic", "x".into()).await.unwrap();
        let count = "SELECT count(*) FROM tower_promises.messages";
        let left: i64 = query_scalar(count).fetch_one(&pool).await.unwrap();
        left < 100
    })
    .await;
}
