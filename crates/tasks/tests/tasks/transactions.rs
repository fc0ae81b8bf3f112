//! A task with a transaction: committed on success, rolled back on an error, repeated after a conflict.

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{Sqlite, Transaction};
use std::sync::Arc;
use test_support::soon;
use tokio::sync::Semaphore;
use tower_promises_backend::Backend;
use tower_promises_tasks::{Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions, Tasks};

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    fails: Fails,
}

#[derive(PartialEq, Serialize, Deserialize)]
enum Fails {
    Never,
    Always,
    WithAConflictAtFirst,
    ByPanic,
    ByCancel,
}

/// Notified when an order has been written.
#[derive(Clone)]
struct Written(Arc<Semaphore>);

impl Task for Order {
    const NAME: &'static str = "order";
    type Output = i64;

    async fn run(self, context: TaskContext) -> Result<i64, TaskFailure> {
        let pool: &SqlitePool = context.state()?;
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        // An error, a cancel or a panic drops the transaction, which rolls it back.
        let output = self.write(&context, &mut transaction).await?;
        transaction.commit().await?;
        Ok(output)
    }
}

impl Order {
    async fn write(
        &self,
        context: &TaskContext,
        transaction: &mut Transaction<'static, Sqlite>,
    ) -> Result<i64, TaskFailure> {
        let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(&self.item);
        insert.execute(&mut **transaction).await?;
        context.state::<Written>()?.0.add_permits(1);
        match self.fails {
            Fails::Always => Err("out of stock")?,
            Fails::ByPanic => panic!("out of order"),
            Fails::ByCancel => std::future::pending().await,
            Fails::WithAConflictAtFirst if context.attempt() < 3 => {
                Err(TaskFailure::conflict("another writer was faster"))
            }
            _ => {
                let count = sqlx::query_scalar("SELECT count(*) FROM orders");
                Ok(count.fetch_one(&mut **transaction).await?)
            }
        }
    }
}

async fn shop() -> (Tasks, SqlitePool, Written, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("shop.db"))
        .create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(2);
    let pool = pool.connect_with(options).await.unwrap();
    let create = sqlx::query("CREATE TABLE orders (item TEXT NOT NULL)");
    create.execute(&pool).await.unwrap();
    let written = Written(Arc::new(Semaphore::new(0)));
    let tasks = Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new("shop").task::<Order>())
        .state(pool.clone())
        .state(written.clone())
        .build();
    (tasks, pool, written, directory)
}

fn order(item: &str, fails: Fails) -> Order {
    Order {
        item: item.into(),
        fails,
    }
}

async fn items(pool: &SqlitePool) -> Vec<String> {
    let items = sqlx::query_scalar("SELECT item FROM orders ORDER BY item");
    items.fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn a_transaction_is_committed_on_success_and_rolled_back_on_an_error() {
    let (tasks, pool, _, _directory) = shop().await;
    let _worker = tasks.work().unwrap();
    let shop = tasks.queue("shop");
    assert_eq!(
        soon(shop.call(order("tea", Fails::Never))).await.unwrap(),
        1
    );
    for fails in [Fails::Always, Fails::ByPanic] {
        let error = soon(shop.call(order("cake", fails))).await.unwrap_err();
        assert!(matches!(error, TaskError::Failed { .. }), "{error:?}");
    }
    assert_eq!(items(&pool).await, ["tea"]);
}

#[tokio::test]
async fn a_transaction_is_repeated_after_a_conflict_and_committed_once() {
    let (tasks, pool, written, _directory) = shop().await;
    let _worker = tasks.work().unwrap();
    let order = order("tea", Fails::WithAConflictAtFirst);
    assert_eq!(soon(tasks.queue("shop").call(order)).await.unwrap(), 1);
    assert_eq!(written.0.available_permits(), 3);
    assert_eq!(items(&pool).await, ["tea"]);
}

#[tokio::test]
async fn a_transaction_is_rolled_back_by_a_cancel() {
    let (tasks, pool, written, _directory) = shop().await;
    let _worker = tasks.work().unwrap();
    let submit = tasks.queue("shop").submit(order("tea", Fails::ByCancel));
    let id = submit.await.unwrap();
    soon(written.0.acquire()).await.unwrap().forget();
    assert!(tasks.cancel(&id).await.unwrap());
    let error = soon(tasks.output::<Order>(&id)).await.unwrap_err();
    assert!(matches!(error, TaskError::Cancelled { .. }));
    assert_eq!(items(&pool).await, Vec::<String>::new());
}
