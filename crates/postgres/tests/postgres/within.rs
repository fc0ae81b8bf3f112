//! Durable promises whose outcome is remembered in a transaction of an application that has the same database.

use crate::place::{builder, place};
use test_support::within::{self, BoxError};
use tower_promises_backend::Backend;
use tower_promises_postgres::sqlx::postgres::{PgPool, PgPoolOptions, Postgres};
use tower_promises_postgres::sqlx::{Transaction, query, query_scalar};

#[derive(Clone)]
struct Shop {
    url: String,
    pool: PgPool,
}

impl Shop {
    async fn open() -> Self {
        let url = place().await.url;
        let pool = PgPoolOptions::new().connect(&url).await.unwrap();
        let create = query("CREATE TABLE orders (item text NOT NULL)");
        create.execute(&pool).await.unwrap();
        Self { url, pool }
    }
}

impl within::Shop for Shop {
    type Transaction = Transaction<'static, Postgres>;

    async fn backend(&self) -> Backend {
        builder().connect(&self.url).await.unwrap().backend()
    }

    async fn begin(&self) -> Result<Self::Transaction, BoxError> {
        Ok(self.pool.begin().await?)
    }

    async fn begin_reading(&self) -> Result<Self::Transaction, BoxError> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
        Ok(self.pool.begin_with(begin).await?)
    }

    async fn order(&self, transaction: &mut Self::Transaction) -> Result<(), BoxError> {
        let insert = query("INSERT INTO orders VALUES ('tea')");
        insert.execute(&mut **transaction).await?;
        Ok(())
    }

    async fn orders(&self, transaction: &mut Self::Transaction) -> Result<i64, BoxError> {
        let count = query_scalar("SELECT count(*) FROM orders");
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
