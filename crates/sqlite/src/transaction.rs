//! Writes in a transaction of the application, over a connection of the application.

use super::builder::Settings;
use super::database::is_busy;
use super::savepoint::SetSavepoint;
use super::writer::{Statement, Written, execute};
use super::{SqliteDatabase, bus, queue, store};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{Connection, Row, Transaction, query};
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;
use tower_promises_backend::{
    ApplicationConnection, BackendError, CompareAndSet, Enqueued, Entry, Envelope,
    JoinedTransaction, Revision, Transactional,
};

/// A transaction of the application, with a savepoint.
struct Joined<'c> {
    database: &'c SqliteDatabase,
    savepoint: Transaction<'c, Sqlite>,
}

impl SqliteDatabase {
    async fn join_transaction<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> Result<Joined<'c>, BackendError> {
        let database = self.connections.database();
        let connection = downcast(connection)?;
        if !connection.is_in_transaction() {
            return Err(BackendError::refused(
                "the connection has no transaction that was begun with `begin` or `begin_with` of sqlx",
            ));
        }
        database.check_file()?;
        self.check_same_file(connection).await?;
        let mut savepoint = SetSavepoint::new(connection).await.map_err(failed)?;
        if database.clock().is_due() {
            // Not taken over, because the transaction may be rolled back. The next write of this process repeats it.
            let kept = database.clock().keep(&mut savepoint);
            kept.await.map(drop).map_err(failed)?;
        }
        Ok(Joined {
            database: self,
            savepoint,
        })
    }

    /// Checks that the tables of this crate are among those that a connection finds without the name of a schema.
    async fn check_same_file(&self, connection: &mut SqliteConnection) -> Result<(), BackendError> {
        let database = self.connections.database();
        let attached = query("PRAGMA database_list").fetch_all(connection);
        let attached = attached.await.map_err(failed)?;
        let mut is_attached = false;
        for row in &attached {
            let (name, path): (&str, &str) = row
                .try_get(1)
                .and_then(|name| Ok((name, row.try_get(2)?)))
                .map_err(BackendError::unavailable)?;
            if !database.is_at(Path::new(path)) {
                continue;
            }
            if name == "main" {
                return Ok(());
            }
            is_attached = true;
        }
        let path = database.path().display();
        // SQLite commits each file by itself, because the files have write-ahead logs.
        let reason = if is_attached {
            format!(
                "{path} is attached to the connection, and a crash between the commits of two files could separate \
                 them: keep the tables of the application in {path}, with `SqliteBuilder::share_file`"
            )
        } else {
            format!(
                "the connection is to another file than {path}: keep the tables of the application in the same file, \
                 with `SqliteBuilder::share_file`"
            )
        };
        Err(BackendError::refused(reason))
    }
}

fn downcast(connection: ApplicationConnection<'_>) -> Result<&mut SqliteConnection, BackendError> {
    let type_name = connection.type_name();
    let found = if connection.is::<Transaction<'static, Sqlite>>() {
        let transaction = connection.downcast::<Transaction<'static, Sqlite>>();
        transaction.map(|transaction| &mut **transaction)
    } else {
        connection.downcast::<SqliteConnection>()
    };
    found.ok_or_else(|| {
        BackendError::refused(format!(
            "`{type_name}` is not a connection to an SQLite database: give `&mut *transaction`, a \
             `SqliteConnection` of sqlx 0.9"
        ))
    })
}

impl Joined<'_> {
    fn settings(&self) -> &Settings {
        self.database.connections.database().settings()
    }

    async fn execute(&mut self, statement: Statement) -> Result<Written, BackendError> {
        let written = execute(&mut self.savepoint, statement).await;
        written.map_err(failed)
    }
}

impl JoinedTransaction for Joined<'_> {
    fn get<'a>(&'a mut self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async move {
            let read = self.execute(store::get(key)?).await?;
            store::entry(&read.rows).map_err(BackendError::unavailable)
        })
    }

    fn compare_and_set<'a>(
        &'a mut self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(async move {
            let settings = self.settings();
            let set = store::compare_and_set(settings, key, expected, value, time_to_live)?;
            let written = self.execute(set).await?;
            let revision = store::new_revision(expected, &written);
            let revision = revision.map_err(BackendError::unavailable)?;
            Ok(revision.map_or(CompareAndSet::Conflict, CompareAndSet::Set))
        })
    }

    fn enqueue(&mut self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move {
            let known = queue::is_known(self.settings(), &envelope);
            let insert = queue::enqueue(self.settings(), envelope)?;
            if !self.execute(insert).await?.rows.is_empty() {
                return Ok(Enqueued::Added);
            }
            if self.execute(known).await?.rows.is_empty() {
                return Err(BackendError::Full);
            }
            Ok(Enqueued::Duplicate)
        })
    }

    fn publish<'a>(
        &'a mut self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let insert = bus::publish(self.settings(), topic, payload)?;
            self.execute(insert).await.map(drop)
        })
    }

    fn finish<'a>(self: Box<Self>) -> BoxFuture<'a, Result<(), BackendError>>
    where
        Self: 'a,
    {
        Box::pin(async move {
            let Self {
                database,
                savepoint,
            } = *self;
            savepoint.commit().await.map_err(failed)?;
            // The commit most likely follows soon, so the process polls more often for a while.
            database.connections.database().mark_active();
            database.messages.wake();
            database.changes.wake();
            database.due.send_replace(());
            Ok(())
        })
    }
}

impl Transactional for SqliteDatabase {
    fn join<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> BoxFuture<'c, Result<Box<dyn JoinedTransaction + 'c>, BackendError>> {
        Box::pin(async move {
            let joined = self.join_transaction(connection).await?;
            let joined: Box<dyn JoinedTransaction + 'c> = Box::new(joined);
            Ok(joined)
        })
    }
}

/// Another connection has the lock that a transaction needs.
#[derive(Debug)]
struct Busy(sqlx::Error);

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "another connection writes, or has written since the transaction began to read: begin it with `BEGIN \
             IMMEDIATE`",
        )
    }
}

impl Error for Busy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Converts an error on the connection of the application.
fn failed(error: sqlx::Error) -> BackendError {
    if is_busy(&error) {
        return BackendError::conflict(Busy(error));
    }
    BackendError::unavailable(error)
}
