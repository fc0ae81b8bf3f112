//! A durable promise whose outcome the transaction of the application cannot remember.

use crate::database::{Place, SECOND, number, place, soon};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use std::error::Error;
use std::iter::successors;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use test_support::operation::{Answer, App};
use tokio::sync::Notify;
use tower_promises::operations::OperationLayer;
use tower_promises::operations::durable::{Settlement, Settling};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};
use tower_promises_sqlite::SqliteDatabase;

/// A file with the tables of the backend and those of an application.
struct Shop {
    place: Place,
    pool: SqlitePool,
}

impl Shop {
    async fn open() -> Self {
        let place = place();
        drop(SqliteDatabase::open(&place.path).await.unwrap());
        let options = SqliteConnectOptions::new().filename(&place.path);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        for create in [
            "CREATE TABLE orders (item TEXT NOT NULL)",
            "CREATE TABLE visits (day TEXT NOT NULL)",
        ] {
            sqlx::query(create).execute(&pool).await.unwrap();
        }
        Self { place, pool }
    }

    /// Starts a process that answers requests with a handler, and takes up their runs.
    async fn serve(
        &self,
        limit: impl FnOnce(OperationLayer) -> OperationLayer,
        handler: impl Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static,
    ) -> App {
        let database = SqliteDatabase::open(&self.place.path).await.unwrap();
        let layer = OperationLayer::new(database.backend())
            .durable(|request| request.method == http::Method::POST)
            .lease(10 * SECOND)
            .wait(Duration::ZERO);
        let layer = limit(layer);
        let (operations, running) = (layer.operations(), layer.operations());
        let answer = async move |promises: Promises| match handler(&promises) {
            Ok(text) => (http::StatusCode::OK, text),
            Err(error) => (error.status(), chain(&error)),
        };
        let inner = axum::Router::new()
            .fallback(answer)
            .layer(PromiseLayer::new());
        let router = inner.clone().layer(layer);
        tokio::spawn(async move {
            let worked = running.work::<_, axum::body::Body, _>(inner).await;
            worked.unwrap();
        });
        App { router, operations }
    }

    async fn orders(&self) -> i64 {
        number(&self.place.path, "SELECT count(*) FROM orders").await
    }
}

/// Returns the texts of an error and its sources.
fn chain(error: &(dyn Error + 'static)) -> String {
    let errors = successors(Some(error), |error| (*error).source());
    let texts: Vec<_> = errors.map(ToString::to_string).collect();
    texts.join(": ")
}

async fn insert(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    let insert = sqlx::query_scalar("INSERT INTO orders (item) VALUES ('tea') RETURNING rowid");
    insert.fetch_one(connection).await
}

async fn result(app: &App, path: &str) -> Answer {
    soon(app.ended(path)).await;
    soon(app.get(&format!("{path}/result"))).await
}

/// Writes an order in a transaction that remembers a value.
fn order_with(
    promises: &Promises,
    pool: &SqlitePool,
    value: &'static str,
) -> Result<String, PromiseError> {
    let pool = pool.clone();
    promises.durable_within("order", move |remember| {
        let pool = pool.clone();
        async move {
            let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
            insert(&mut transaction).await?;
            remember
                .within(&mut *transaction, &value.to_owned())
                .await?;
            transaction.commit().await?;
            Ok::<_, BoxError>(value.to_owned())
        }
    })
}

#[tokio::test]
async fn a_promise_that_the_application_has_settled_rolls_its_transaction_back() {
    let shop = Shop::open().await;
    let (reached, settled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let attempts = Arc::<AtomicUsize>::default();
    let (pool, begun, end, counted) = (
        shop.pool.clone(),
        reached.clone(),
        settled.clone(),
        attempts.clone(),
    );
    let app = shop
        .serve(
            |layer| layer,
            move |promises| {
                let (pool, begun, end) = (pool.clone(), begun.clone(), end.clone());
                let counted = counted.clone();
                let id: i64 = promises.durable_within("order", move |remember| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let (pool, begun, end) = (pool.clone(), begun.clone(), end.clone());
                    async move {
                        begun.notify_one();
                        end.notified().await;
                        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
                        let id = insert(&mut transaction).await?;
                        remember.within(&mut *transaction, &id).await?;
                        transaction.commit().await?;
                        Ok::<_, BoxError>(id)
                    }
                })?;
                Ok(format!("order {id}"))
            },
        )
        .await;
    let path = app.start("POST /order", &[]).await;
    soon(reached.notified()).await;
    let id = path.rsplit('/').next().unwrap();
    let seven = Settlement::value(&7).unwrap();
    let answer = app.operations.settle(id, "order", &seven).await;
    assert_eq!(answer.unwrap(), Settling::Settled);
    settled.notify_one();
    assert_eq!(result(&app, &path).await.body, "order 7");
    assert_eq!(shop.orders().await, 0);
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_value_that_is_too_large_rolls_its_transaction_back() {
    let shop = Shop::open().await;
    let pool = shop.pool.clone();
    let long: &'static str = "x".repeat(2000).leak();
    let app = shop
        .serve(
            |layer| layer.max_remembered_bytes(1000),
            move |promises| order_with(promises, &pool, long),
        )
        .await;
    let path = app.start("POST /order", &[]).await;
    let answer = result(&app, &path).await;
    assert_eq!(answer.status, 500);
    for part in [
        "the outcome could not be stored in the transaction",
        "bytes, and may remember 1000",
    ] {
        assert!(answer.body.contains(part), "{}", answer.body);
    }
    assert_eq!(shop.orders().await, 0);
}

#[tokio::test]
async fn a_name_too_many_rolls_its_transaction_back() {
    let shop = Shop::open().await;
    let pool = shop.pool.clone();
    let app = shop
        .serve(
            |layer| layer.max_remembered(1),
            move |promises| {
                promises.durable("stock", async || 1)?;
                order_with(promises, &pool, "tea")
            },
        )
        .await;
    let path = app.start("POST /order", &[]).await;
    let answer = result(&app, &path).await;
    assert_eq!(answer.status, 500);
    let limit = "the operation has 1 remembered entries, and may not have more";
    assert!(answer.body.contains(limit), "{}", answer.body);
    assert_eq!(shop.orders().await, 0);
}

/// A transaction that reads, and then writes after another one has, must be repeated.
#[tokio::test]
async fn a_transaction_with_a_conflict_is_repeated() {
    let shop = Shop::open().await;
    let attempts = Arc::<AtomicUsize>::default();
    let (pool, counted) = (shop.pool.clone(), attempts.clone());
    let app = shop
        .serve(
            |layer| layer,
            move |promises| {
                let (pool, counted) = (pool.clone(), counted.clone());
                let id: i64 = promises.durable_within("order", move |remember| {
                    let (pool, attempt) = (pool.clone(), counted.fetch_add(1, Ordering::SeqCst));
                    async move {
                        let mut transaction = pool.begin().await?;
                        let count = sqlx::query_scalar("SELECT count(*) FROM orders");
                        let count: i64 = count.fetch_one(&mut *transaction).await?;
                        if attempt == 0 {
                            let visit = sqlx::query("INSERT INTO visits VALUES ('monday')");
                            visit.execute(&pool).await?;
                        }
                        remember.within(&mut *transaction, &(count + 1)).await?;
                        let id = insert(&mut transaction).await?;
                        transaction.commit().await?;
                        Ok::<_, BoxError>(id)
                    }
                })?;
                Ok(format!("order {id}"))
            },
        )
        .await;
    let path = app.start("POST /order", &[]).await;
    assert_eq!(result(&app, &path).await.body, "order 1");
    assert_eq!(shop.orders().await, 1);
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
}

/// The error is remembered, and the value of the transaction is not.
#[tokio::test]
async fn a_transaction_that_is_rolled_back_remembers_no_value() {
    let shop = Shop::open().await;
    let attempts = Arc::<AtomicUsize>::default();
    let (pool, counted) = (shop.pool.clone(), attempts.clone());
    let app = shop
        .serve(
            |layer| layer,
            move |promises| {
                let (pool, counted) = (pool.clone(), counted.clone());
                let order: Result<i64, _> = promises.durable_within("order", move |remember| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let pool = pool.clone();
                    async move {
                        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
                        let id = insert(&mut transaction).await?;
                        remember.within(&mut *transaction, &id).await?;
                        transaction.rollback().await?;
                        Err(BoxError::from("the card is refused"))
                    }
                });
                // A later run reads what is remembered.
                promises.sleep("pause", SECOND + SECOND / 2)?;
                order.map(|id| format!("order {id}"))
            },
        )
        .await;
    let path = app.start("POST /order", &[]).await;
    let answer = result(&app, &path).await;
    assert_eq!(answer.status, 500);
    let refused = "the card is refused";
    assert!(answer.body.contains(refused), "{}", answer.body);
    assert_eq!(shop.orders().await, 0);
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}
