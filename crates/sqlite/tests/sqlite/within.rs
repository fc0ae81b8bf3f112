//! Durable promises whose outcome is remembered in a transaction of an application that shares the file.

use crate::database::{Place, place};
use sqlx::Transaction;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use std::sync::Arc;
use test_support::eventually::BOUND;
use test_support::within::{self, BoxError};
use tower_promises_backend::Backend;
use tower_promises_sqlite::SqliteDatabase;

#[derive(Clone)]
struct Shop {
    place: Arc<Place>,
    pool: SqlitePool,
}

impl Shop {
    async fn open() -> Self {
        let place = place();
        drop(SqliteDatabase::open(&place.path).await.unwrap());
        let options = SqliteConnectOptions::new()
            .filename(&place.path)
            .busy_timeout(BOUND);
        let pool = SqlitePoolOptions::new().connect_with(options);
        let pool = pool.await.unwrap();
        let create = sqlx::query("CREATE TABLE orders (item TEXT NOT NULL)");
        create.execute(&pool).await.unwrap();
        let place = Arc::new(place);
        Self { place, pool }
    }
}

impl within::Shop for Shop {
    type Transaction = Transaction<'static, Sqlite>;

    async fn backend(&self) -> Backend {
        let database = SqliteDatabase::open(&self.place.path).await;
        database.unwrap().backend()
    }

    async fn begin(&self) -> Result<Self::Transaction, BoxError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn begin_reading(&self) -> Result<Self::Transaction, BoxError> {
        Ok(self.pool.begin().await?)
    }

    async fn order(&self, transaction: &mut Self::Transaction) -> Result<(), BoxError> {
        let insert = sqlx::query("INSERT INTO orders VALUES ('tea')");
        insert.execute(&mut **transaction).await?;
        Ok(())
    }

    async fn orders(&self, transaction: &mut Self::Transaction) -> Result<i64, BoxError> {
        let count = sqlx::query_scalar("SELECT count(*) FROM orders");
        Ok(count.fetch_one(&mut **transaction).await?)
    }

    async fn commit(&self, transaction: Self::Transaction) -> Result<(), BoxError> {
        Ok(transaction.commit().await?)
    }

    async fn rollback(&self, transaction: Self::Transaction) -> Result<(), BoxError> {
        Ok(transaction.rollback().await?)
    }
}

test_support::tests_within!(Shop::open().await);
