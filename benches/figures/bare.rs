//! The times of the bare clients of SQLite, PostgreSQL and NATS for the minimal work of `Queue::enqueue`: one committed
//! insertion, one acknowledged message.

use super::{Percentiles, times};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, query};
use std::path::Path;
use std::sync::Arc;
use test_support::nats::Server;
use test_support::postgres;
use tokio::sync::Mutex;
use tower_promises_nats::async_nats::jetstream::{self, stream::Config};

/// A separate table of a SQLite file, in the mode of the backend.
#[derive(Debug)]
pub struct BareTable {
    connection: SqliteConnection,
    rows: usize,
}

impl BareTable {
    /// Creates the file and the table.
    ///
    /// # Panics
    ///
    /// Panics if SQLite fails.
    pub async fn create(file: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .disable_statement_logging();
        let mut connection = options.connect().await.unwrap();
        query("CREATE TABLE bare (queue TEXT, id TEXT, payload BLOB, PRIMARY KEY (queue, id))")
            .execute(&mut connection)
            .await
            .unwrap();
        Self {
            connection,
            rows: 0,
        }
    }

    /// Inserts a row.
    ///
    /// # Panics
    ///
    /// Panics if SQLite fails.
    pub async fn insert(&mut self, payload: &[u8]) {
        self.rows += 1;
        query("INSERT INTO bare VALUES (?, ?, ?)")
            .bind("idle")
            .bind(self.rows.to_string())
            .bind(payload.to_vec())
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}

/// Inserts into a separate table.
///
/// # Panics
///
/// Panics if SQLite fails.
pub async fn sqlite(file: &Path, rounds: usize, payload: &[u8]) -> Percentiles {
    let table = Arc::new(Mutex::new(BareTable::create(file).await));
    let payload = payload.to_vec();
    let insert = |_| {
        let (table, payload) = (table.clone(), payload.clone());
        async move { table.lock().await.insert(&payload).await }
    };
    times(rounds, insert).await
}

/// Inserts into a separate table, by a prepared statement on one connection.
///
/// # Panics
///
/// Panics if the server fails.
pub async fn postgres(server: &postgres::Server, rounds: usize, payload: &[u8]) -> Percentiles {
    server
        .execute("CREATE TABLE bare (queue text, id text, payload bytea, PRIMARY KEY (queue, id))")
        .await;
    let connection = Arc::new(Mutex::new(server.connection().await));
    let payload = payload.to_vec();
    let insert = |round: usize| {
        let (connection, payload) = (connection.clone(), payload.clone());
        async move {
            query("INSERT INTO bare VALUES ($1, $2, $3)")
                .bind("idle")
                .bind(round.to_string())
                .bind(payload)
                .execute(&mut *connection.lock().await)
                .await
                .unwrap();
        }
    };
    times(rounds, insert).await
}

/// Publishes into a separate stream.
///
/// # Panics
///
/// Panics if the server fails.
pub async fn nats(server: &Server, rounds: usize, payload: &[u8]) -> Percentiles {
    let context = jetstream::new(server.client().await);
    let stream = Config {
        name: "bare".to_owned(),
        subjects: vec!["bare.>".to_owned()],
        ..Config::default()
    };
    context.create_stream(stream).await.unwrap();
    let payload = payload.to_vec();
    let publish = |round: usize| {
        let (context, payload) = (context.clone(), payload.clone());
        async move {
            let sent = context
                .publish(format!("bare.{round}"), payload.into())
                .await;
            sent.unwrap().await.unwrap();
        }
    };
    times(rounds, publish).await
}
