//! The database of orders and tasks: a temporary file of SQLite, or a database of PostgreSQL that is kept.
//!
//! An application has one kind of database, so its handlers use a transaction of sqlx directly, and submit a task with
//! `submit.within(&mut *transaction)`.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Sqlite, SqlitePool};
use tempfile::TempDir;
use tower_promises::BoxError;
use tower_promises::backend::Backend;
use tower_promises::tasks::{Submit, TaskError, TaskId};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_sqlite::SqliteDatabase;

/// The tables, with columns that both databases have.
const TABLES: [&str; 3] = [
    "orders (number BIGINT NOT NULL, item TEXT NOT NULL, pass BIGINT NOT NULL)",
    "audit (number BIGINT NOT NULL, item TEXT NOT NULL, pass BIGINT NOT NULL)",
    "mails (number BIGINT NOT NULL, item TEXT NOT NULL, task TEXT NOT NULL UNIQUE)",
];

/// The number of the next row. Rows that are written at once may have the same one.
const NEXT: &str = "(SELECT coalesce(max(number), 0) + 1 FROM";

#[derive(Clone)]
pub(crate) enum Database {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A transaction of the application.
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// Opens the database that the environment variable `BACKEND` names: `postgres:url`, or by default a file in a temporary
/// folder. Returns the backend of the tasks, which is in the same database.
pub(crate) async fn open(directory: &TempDir) -> Result<(Database, Backend), BoxError> {
    let name = std::env::var("BACKEND").unwrap_or_else(|_| "sqlite".into());
    let (database, backend) = match name.split_once(':') {
        None if name == "sqlite" => {
            let path = directory.path().join("shop.db");
            let options = SqliteConnectOptions::new().filename(&path);
            let pool = SqlitePool::connect_with(options.create_if_missing(true)).await?;
            // Orders and tasks are in one file, because a transaction is in one file.
            let tasks = SqliteDatabase::builder(&path).share_file(true);
            (Database::Sqlite(pool), tasks.open().await?.backend())
        }
        Some(("postgres", url)) => {
            let pool = PgPool::connect(url).await?;
            // In a schema of its own, over the connections of the application.
            let tasks = PostgresDatabase::open(pool.clone()).await?;
            (Database::Postgres(pool), tasks.backend())
        }
        _ => {
            return Err(
                format!("unknown backend `{name}`: it is `sqlite` or `postgres:url`").into(),
            );
        }
    };
    for table in TABLES {
        let create = AssertSqlSafe(format!("CREATE TABLE IF NOT EXISTS {table}"));
        match &database {
            Database::Sqlite(pool) => {
                sqlx::query(create).execute(pool).await?;
            }
            Database::Postgres(pool) => {
                sqlx::query(create).execute(pool).await?;
            }
        }
    }
    Ok((database, backend))
}

impl Database {
    /// Begins a transaction that will write. On SQLite, one that reads first could not write any more after another
    /// writer.
    pub(crate) async fn begin(&self) -> sqlx::Result<Transaction> {
        Ok(match self {
            Self::Sqlite(pool) => Transaction::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Transaction::Postgres(pool.begin().await?),
        })
    }

    /// Writes the mail of a task, once.
    pub(crate) async fn write_mail(&self, task: &str, item: &str) -> sqlx::Result<()> {
        let insert = AssertSqlSafe(format!(
            "INSERT INTO mails (number, item, task) VALUES ({NEXT} mails), $1, $2)
            ON CONFLICT (task) DO NOTHING"
        ));
        match self {
            Self::Sqlite(pool) => {
                sqlx::query(insert)
                    .bind(item)
                    .bind(task)
                    .execute(pool)
                    .await?;
            }
            Self::Postgres(pool) => {
                sqlx::query(insert)
                    .bind(item)
                    .bind(task)
                    .execute(pool)
                    .await?;
            }
        }
        Ok(())
    }

    /// Returns the items of a table with the passes that have written them.
    pub(crate) async fn items(&self, table: &'static str) -> sqlx::Result<Vec<(String, i64)>> {
        let select = AssertSqlSafe(format!("SELECT item, pass FROM {table} ORDER BY number"));
        match self {
            Self::Sqlite(pool) => sqlx::query_as(select).fetch_all(pool).await,
            Self::Postgres(pool) => sqlx::query_as(select).fetch_all(pool).await,
        }
    }

    /// Returns the items that mails have confirmed.
    pub(crate) async fn mails(&self) -> sqlx::Result<Vec<String>> {
        let select = "SELECT item FROM mails ORDER BY number";
        match self {
            Self::Sqlite(pool) => sqlx::query_scalar(select).fetch_all(pool).await,
            Self::Postgres(pool) => sqlx::query_scalar(select).fetch_all(pool).await,
        }
    }
}

impl Transaction {
    /// Writes an item and the pass that writes it.
    pub(crate) async fn insert(
        &mut self,
        table: &'static str,
        item: &str,
        pass: usize,
    ) -> sqlx::Result<()> {
        let insert = AssertSqlSafe(format!(
            "INSERT INTO {table} (number, item, pass) VALUES ({NEXT} {table}), $1, $2)"
        ));
        let pass = i64::try_from(pass).unwrap_or(i64::MAX);
        match self {
            Self::Sqlite(transaction) => {
                let insert = sqlx::query(insert).bind(item).bind(pass);
                insert.execute(&mut **transaction).await?;
            }
            Self::Postgres(transaction) => {
                let insert = sqlx::query(insert).bind(item).bind(pass);
                insert.execute(&mut **transaction).await?;
            }
        }
        Ok(())
    }

    /// Submits a task that exists if and only if this transaction commits.
    pub(crate) async fn submit(&mut self, submit: Submit) -> Result<TaskId, TaskError> {
        match self {
            Self::Sqlite(transaction) => submit.within(&mut **transaction).await,
            Self::Postgres(transaction) => submit.within(&mut **transaction).await,
        }
    }

    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }

    pub(crate) async fn rollback(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(transaction) => transaction.rollback().await,
            Self::Postgres(transaction) => transaction.rollback().await,
        }
    }
}
