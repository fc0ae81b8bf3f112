//! A table of orders, in the database of the tasks.

use super::{Backend, Duration};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{Connection, PgPool, Postgres, Sqlite};
use std::sync::Arc;
use tempfile::TempDir;
use test_support::postgres::shared;
use tower_promises_postgres::PostgresDatabase;
use tower_promises_sqlite::SqliteDatabase;
use tower_promises_tasks::{Submit, SubmitWithin};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS orders (item TEXT NOT NULL)";
const INSERT: &str = "INSERT INTO orders (item) VALUES ($1)";
const ITEMS: &str = "SELECT item FROM orders ORDER BY item";

#[derive(Clone)]
pub(super) enum Orders {
    Sqlite {
        pool: SqlitePool,
        _directory: Arc<TempDir>,
    },
    Postgres(PgPool),
}

/// A transaction, or a savepoint in it.
pub(super) enum Transaction<'c> {
    Sqlite(sqlx::Transaction<'c, Sqlite>),
    Postgres(sqlx::Transaction<'c, Postgres>),
}

pub(super) async fn in_a_file_of_sqlite() -> (Orders, Backend) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .busy_timeout(Duration::from_secs(60))
        .create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(4);
    let pool = pool.connect_with(options).await.unwrap();
    sqlx::query(CREATE).execute(&pool).await.unwrap();
    let database = SqliteDatabase::builder(&path)
        .share_file(true)
        .busy_timeout(Duration::from_secs(60));
    let backend = database.open().await.unwrap().backend();
    let orders = Orders::Sqlite {
        pool,
        _directory: Arc::new(directory),
    };
    (orders, backend)
}

pub(super) async fn on_postgresql() -> (Orders, Backend) {
    at(&shared().await.database().await).await
}

/// Opens a database of PostgreSQL, also one that another process uses.
pub(super) async fn at(url: &str) -> (Orders, Backend) {
    let pool = PgPool::connect(url).await.unwrap();
    sqlx::query(CREATE).execute(&pool).await.unwrap();
    // The pool of the application.
    let database = PostgresDatabase::open(pool.clone()).await.unwrap();
    (Orders::Postgres(pool), database.backend())
}

impl Orders {
    /// Begins a transaction that writes. On SQLite, a transaction that reads first could end with a conflict.
    pub(super) async fn begin(&self) -> Transaction<'static> {
        match self {
            Self::Sqlite { pool, .. } => {
                Transaction::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await.unwrap())
            }
            Self::Postgres(pool) => Transaction::Postgres(pool.begin().await.unwrap()),
        }
    }

    pub(super) async fn items(&self) -> Vec<String> {
        let items = match self {
            Self::Sqlite { pool, .. } => sqlx::query_scalar(ITEMS).fetch_all(pool).await,
            Self::Postgres(pool) => sqlx::query_scalar(ITEMS).fetch_all(pool).await,
        };
        items.unwrap()
    }
}

impl Transaction<'_> {
    pub(super) async fn insert(&mut self, item: &str) {
        match self {
            Self::Sqlite(transaction) => {
                let insert = sqlx::query(INSERT).bind(item);
                insert.execute(&mut **transaction).await.unwrap();
            }
            Self::Postgres(transaction) => {
                let insert = sqlx::query(INSERT).bind(item);
                insert.execute(&mut **transaction).await.unwrap();
            }
        }
    }

    pub(super) fn submit(&mut self, submit: Submit) -> SubmitWithin<'_> {
        match self {
            Self::Sqlite(transaction) => submit.within(&mut **transaction),
            Self::Postgres(transaction) => submit.within(&mut **transaction),
        }
    }

    /// Returns the number of the server's process for the connection.
    pub(super) async fn process(&mut self) -> i32 {
        let Self::Postgres(transaction) = self else {
            panic!("SQLite has no server");
        };
        let process = sqlx::query_scalar("SELECT pg_backend_pid()");
        process.fetch_one(&mut **transaction).await.unwrap()
    }

    pub(super) async fn savepoint(&mut self) -> Transaction<'_> {
        match self {
            Self::Sqlite(transaction) => Transaction::Sqlite(transaction.begin().await.unwrap()),
            Self::Postgres(transaction) => {
                Transaction::Postgres(transaction.begin().await.unwrap())
            }
        }
    }

    pub(super) async fn commit(self) {
        self.try_commit().await.unwrap();
    }

    pub(super) async fn try_commit(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }

    pub(super) async fn rollback(self) {
        let ended = match self {
            Self::Sqlite(transaction) => transaction.rollback().await,
            Self::Postgres(transaction) => transaction.rollback().await,
        };
        ended.unwrap();
    }
}
