//! Pools: of the application, small, used up, of other isolation levels; dropped calls and locks of others.

use crate::place::{SECOND, builder, chain, place, soon, until};
use futures_util::FutureExt;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use tower_promises_backend::{
    BackendError, Bus, CompareAndSet, Envelope, Outcome, Queue, Store, conformance,
};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_postgres::sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use tower_promises_postgres::sqlx::{Connection, query, query_scalar};

/// A pool with one connection, and with the settings that sqlx has by default.
async fn small_pool(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .connect(url)
        .await
        .unwrap()
}

/// No call needs two connections at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_ports_conform_on_a_pool_of_one_connection() {
    let place = place().await;
    let pool = small_pool(&place.url).await;
    let database = builder().open(pool).await.unwrap();
    conformance::store(async || database.store()).await;
    conformance::journal(async || database.store()).await;
    conformance::bus(async || database.bus()).await;
    conformance::queue(async || database.queue()).await;
}

/// The failures of serialisation that concurrent calls have are repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_ports_conform_with_serializable_transactions() {
    let place = place().await;
    let url = format!(
        "{}?options=-cdefault_transaction_isolation%3Dserializable",
        place.url
    );
    let open = async || builder().connect(&url).await.unwrap();
    conformance::store(async || open().await.store()).await;
    conformance::journal(async || open().await.store()).await;
    conformance::bus(async || open().await.bus()).await;
    conformance::queue(async || open().await.queue()).await;
}

#[tokio::test]
async fn a_pool_that_is_used_up_is_an_error_that_says_so() {
    let place = place().await;
    let pool = small_pool(&place.url).await;
    let open = PostgresDatabase::builder().timeout(SECOND / 2);
    let database = open.clone().open(pool.clone()).await.unwrap();
    let held = soon(pool.acquire()).await.unwrap();
    let store = database.store();
    let errors = [
        soon(store.put("key", "x".into(), None)).await.unwrap_err(),
        soon(store.get("key")).await.unwrap_err(),
        soon(database.queue().take("queue", 1, SECOND))
            .await
            .unwrap_err(),
        soon(open.open(pool.clone())).await.unwrap_err(),
    ];
    for error in errors {
        let text = chain(&error);
        assert!(
            text.contains("all 1 connections of the pool were in use"),
            "{text}"
        );
        assert!(text.contains("raise `max_connections`"), "{text}");
    }
    drop(held);
    until("the pool has a connection", async || {
        store.put("key", "x".into(), None).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_an_error_that_says_so() {
    // Reserved, so that no other program listens.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let url = format!("postgres://test@127.0.0.1:{port}/postgres");
    let opened = PostgresDatabase::builder()
        .timeout(SECOND / 2)
        .connect(&url);
    let text = chain(&soon(opened).await.unwrap_err());
    assert!(
        text.contains("check its address, and that it runs"),
        "{text}"
    );
    let opened = PostgresDatabase::connect("no address");
    let text = chain(&soon(opened).await.unwrap_err());
    assert!(text.contains("cannot open the schema"), "{text}");
}

/// A call is dropped at each of its points, and leaves neither a transaction nor a wrong answer for the next call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_leave_nothing_behind() {
    let place = place().await;
    let database = builder()
        .max_connections(2)
        .connect(&place.url)
        .await
        .unwrap();
    let (store, queue) = (database.store(), database.queue());
    for round in 0..400 {
        let polls = round % 8;
        let key = format!("{}", round % 20);
        let envelope = Envelope::new("queue", round.to_string(), "x".into());
        let mut calls = [
            store
                .put(&key, round.to_string().into(), None)
                .map(drop)
                .boxed(),
            store.get(&key).map(drop).boxed(),
            store.list("", None, 10).map(drop).boxed(),
            store.watch("").map(drop).boxed(),
            queue.enqueue(envelope).map(drop).boxed(),
            queue.take("queue", 3, SECOND * 600).map(drop).boxed(),
        ]
        .map(FutureExt::fuse);
        for _ in 0..polls {
            for call in &mut calls {
                let _ = call.now_or_never();
            }
            tokio::task::yield_now().await;
        }
    }
    for number in 0..20 {
        let (key, value) = (format!("own {number}"), number.to_string());
        let put = store.put(&key, value.clone().into(), None);
        let revision = soon(put).await.unwrap();
        let entry = soon(store.get(&key)).await.unwrap().unwrap();
        assert_eq!((entry.value, entry.revision), (value.into(), revision));
    }
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    until("all statements have ended", async || {
        let busy = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in%'";
        let busy: i64 = query_scalar(busy).fetch_one(&pool).await.unwrap();
        busy == 0
    })
    .await;
}

/// Another program locks a row. The wait is bounded, and has no effect after its end.
#[tokio::test]
async fn a_lock_of_another_program_is_waited_for_and_then_an_error() {
    let place = place().await;
    let open = PostgresDatabase::builder().timeout(SECOND);
    let store = open.connect(&place.url).await.unwrap().store();
    store.put("key", "before".into(), None).await.unwrap();
    let mut other = PgConnection::connect(&place.url).await.unwrap();
    let mut locked = other.begin().await.unwrap();
    let lock = "SELECT 1 FROM tower_promises.entries FOR UPDATE";
    query(lock).execute(&mut *locked).await.unwrap();
    let puts = join_all((0..20).map(|_| store.put("key", "locked".into(), None)));
    for put in soon(puts).await {
        let error = put.unwrap_err();
        assert!(matches!(error, BackendError::TimedOut { .. }), "{error:?}");
    }
    let entry = soon(store.get("key")).await.unwrap().unwrap();
    assert_eq!(entry.value, "before", "readers do not wait");
    locked.rollback().await.unwrap();
    until("the row is not locked", async || {
        store.put("key", "after".into(), None).await.is_ok()
    })
    .await;
    let entry = store.get("key").await.unwrap().unwrap();
    assert_eq!(entry.value, "after");
}

/// All calls of one kind of a process share statements, and each gets its own answer.
#[tokio::test]
async fn concurrent_calls_share_statements() {
    const CALLS: usize = 500;
    let place = place().await;
    let database = place.open().await;
    let (store, queue) = (database.store(), database.queue());
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let commits = async || {
        let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
        query("SELECT pg_stat_force_next_flush()")
            .execute(&pool)
            .await
            .unwrap();
        let commits: i64 = query_scalar(count).fetch_one(&pool).await.unwrap();
        commits
    };
    let before = commits().await;
    let keys: Vec<_> = (0..CALLS).map(|number| number.to_string()).collect();
    let puts = keys
        .iter()
        .map(|key| store.put(key, key.clone().into(), None));
    for put in soon(join_all(puts)).await {
        put.unwrap();
    }
    let adds = keys
        .iter()
        .map(|key| queue.enqueue(Envelope::new("queue", &**key, key.clone().into())));
    for added in soon(join_all(adds)).await {
        added.unwrap();
    }
    let mut taken = Vec::new();
    while taken.len() < CALLS {
        taken.extend(
            soon(queue.take("queue", CALLS, SECOND * 600))
                .await
                .unwrap(),
        );
    }
    for taken in &taken {
        assert_eq!(
            taken.payload,
            taken.id.as_bytes(),
            "no answer is that of another call"
        );
    }
    let ids: BTreeSet<_> = taken.iter().map(|taken| &*taken.id).collect();
    assert_eq!(ids, keys.iter().map(|key| &**key).collect());
    let settled = taken
        .iter()
        .map(|taken| queue.settle(&taken.receipt, Outcome::Done));
    for settled in soon(join_all(settled)).await {
        assert!(settled.unwrap());
    }
    let number = commits().await - before;
    assert!(number < 300, "{number} commits for {} calls", 3 * CALLS + 1);
    for key in &keys {
        let entry = soon(store.get(key)).await.unwrap().unwrap();
        assert_eq!(entry.value, key.as_bytes());
        let set = store.compare_and_set(key, Some(entry.revision), "x".into(), None);
        assert!(matches!(set.await.unwrap(), CompareAndSet::Set(_)));
    }
}

/// Waiting workers and listeners cost a few statements a second.
#[tokio::test]
async fn idle_processes_cost_nearly_nothing() {
    let place = place().await;
    let database = place.open().await;
    let _listener = database.bus().listen().await.unwrap();
    let _watch = database.store().watch("").await.unwrap();
    let queue = Arc::new(database.queue());
    let worker = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take("idle", 1, SECOND).await }
    });
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let number = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let commits = async || -> i64 { query_scalar(number).fetch_one(&pool).await.unwrap() };
    // Until notifications are known to arrive, the process polls, and statistics are written late.
    until("an idle process executes few statements", async || {
        let (before, began) = (commits().await, std::time::Instant::now());
        tokio::time::sleep(SECOND * 4).await;
        let (after, seconds) = (commits().await, began.elapsed().as_secs_f64());
        // A worker and two feeds.
        #[allow(clippy::cast_precision_loss)]
        let rate = (after - before) as f64 / seconds;
        rate < 6.0
    })
    .await;
    assert!(!worker.is_finished());
}
