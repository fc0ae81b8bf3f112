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

#[tokio::test]
async fn a_transaction_that_was_not_committed_is_repeated() {
    within::a_transaction_that_was_not_committed_is_repeated(Shop::open().await).await;
}

#[tokio::test]
async fn a_transaction_that_was_committed_is_not_repeated() {
    within::a_transaction_that_was_committed_is_not_repeated(Shop::open().await).await;
}

#[tokio::test]
async fn a_promise_that_the_application_has_settled_rolls_its_transaction_back() {
    within::a_promise_that_the_application_has_settled_rolls_its_transaction_back(
        Shop::open().await,
    )
    .await;
}

#[tokio::test]
async fn a_promise_that_is_settled_while_its_transaction_is_joined_rolls_it_back() {
    within::a_promise_that_is_settled_while_its_transaction_is_joined_rolls_it_back(
        Shop::open().await,
    )
    .await;
}

#[tokio::test]
async fn a_value_that_is_too_large_rolls_its_transaction_back() {
    within::a_value_that_is_too_large_rolls_its_transaction_back(Shop::open().await).await;
}

#[tokio::test]
async fn a_name_too_many_rolls_its_transaction_back() {
    within::a_name_too_many_rolls_its_transaction_back(Shop::open().await).await;
}

#[tokio::test]
async fn a_transaction_with_a_conflict_is_repeated() {
    within::a_transaction_with_a_conflict_is_repeated(Shop::open().await).await;
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_remembers_no_value() {
    within::a_transaction_that_is_rolled_back_remembers_no_value(Shop::open().await).await;
}
