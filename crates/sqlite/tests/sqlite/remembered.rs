//! A durable promise that is remembered in the transaction that does its work.

use crate::database::{SECOND, number, place, soon, until};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use test_support::operation::App;
use tokio::task::JoinHandle;
use tower_promises::operations::OperationLayer;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};
use tower_promises_sqlite::SqliteDatabase;

/// Where the process of the promise hangs until it is lost.
#[derive(Clone, Copy, PartialEq)]
enum Hangs {
    Never,
    BeforeTheCommit,
    AfterTheCommit,
}

/// Writes an order in a transaction that remembers its number.
fn order(
    promises: &Promises,
    pool: &SqlitePool,
    hangs: Hangs,
    reached: &Arc<AtomicUsize>,
) -> Result<i64, PromiseError> {
    let (pool, reached) = (pool.clone(), reached.clone());
    promises.durable_within("order", move |remember| {
        let (pool, reached) = (pool.clone(), reached.clone());
        async move {
            let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
            let insert = "INSERT INTO orders (item) VALUES ('tea') RETURNING rowid";
            let insert = sqlx::query_scalar(insert);
            let id: i64 = insert.fetch_one(&mut *transaction).await?;
            remember.within(&mut *transaction, &id).await?;
            if hangs == Hangs::BeforeTheCommit {
                reached.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            transaction.commit().await?;
            reached.fetch_add(1, Ordering::SeqCst);
            if hangs == Hangs::AfterTheCommit {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(id)
        }
    })
}

/// Starts a process. Returns the number of times that the promise was reached.
async fn process(
    path: &Path,
    pool: &SqlitePool,
    hangs: Hangs,
) -> (App, JoinHandle<()>, Arc<AtomicUsize>) {
    let database = SqliteDatabase::open(path).await.unwrap();
    let layer = OperationLayer::new(database.backend())
        .durable(|_| true)
        .lease(SECOND)
        .wait(Duration::ZERO);
    let operations = layer.operations();
    let running = layer.operations();
    let reached = Arc::<AtomicUsize>::default();
    let (pool, counted) = (pool.clone(), reached.clone());
    let answer = async move |promises: Promises| match order(&promises, &pool, hangs, &counted) {
        Ok(id) => (http::StatusCode::OK, format!("order {id}")),
        Err(error) => (error.status(), error.to_string()),
    };
    let inner = axum::Router::new()
        .fallback(answer)
        .layer(PromiseLayer::new());
    let router = inner.clone().layer(layer);
    let worker = tokio::spawn(async move {
        let worked = running.work::<_, axum::body::Body, _>(inner).await;
        worked.unwrap();
    });
    (App { router, operations }, worker, reached)
}

async fn happens_once(hangs: Hangs, expected: usize) {
    let place = place();
    let _own = SqliteDatabase::open(&place.path).await.unwrap();
    let options = SqliteConnectOptions::new().filename(&place.path);
    let pool = SqlitePool::connect_with(options.clone()).await.unwrap();
    let create = sqlx::query("CREATE TABLE orders (item TEXT NOT NULL)");
    create.execute(&pool).await.unwrap();

    let (app, worker, reached) = process(&place.path, &pool, hangs).await;
    let path = app.start("POST /order", &[]).await;
    until("the promise is reached", async || {
        reached.load(Ordering::SeqCst) == 1
    })
    .await;
    worker.abort();
    let _ = worker.await;

    let other = SqlitePool::connect_with(options).await.unwrap();
    let (app, worker, again) = process(&place.path, &other, Hangs::Never).await;
    until("the operation ends", async || {
        app.document(&path).await["status"] == "Succeeded"
    })
    .await;
    let result = soon(app.get(&format!("{path}/result"))).await;
    assert_eq!(result.body, "order 1");
    assert_eq!(again.load(Ordering::SeqCst), expected);
    let orders = number(&place.path, "SELECT count(*) FROM orders").await;
    assert_eq!(orders, 1);
    worker.abort();
}

#[tokio::test]
async fn a_transaction_that_was_not_committed_is_repeated() {
    happens_once(Hangs::BeforeTheCommit, 1).await;
}

#[tokio::test]
async fn a_transaction_that_was_committed_is_not_repeated() {
    happens_once(Hangs::AfterTheCommit, 0).await;
}
