//! Writes in a transaction of the application, over a connection of the application.
//!
//! The calls reserve keys and ids, and all writes are one statement at the end. So a call that is dropped leaves nothing
//! to undo but locks that end with the transaction. A savepoint would have to be undone, and a future of sqlx 0.9 that
//! sets one and is dropped rolls back the transaction around it.

use super::database::{code, fetch};
use super::statement::{Statement, array, bytes, microseconds, number, numbers, text};
use super::{PostgresDatabase, queue, store};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::{Connection, Row, Transaction};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tower_promises_backend::kit::clock;
use tower_promises_backend::kit::limits::check_size;
use tower_promises_backend::{
    ApplicationConnection, BackendError, CompareAndSet, Enqueued, Entry, Envelope,
    JoinedTransaction, Queue, Revision, Transactional, check_name,
};

/// A transaction of the application, and what is to be written in it.
struct Joined<'c> {
    database: &'c PostgresDatabase,
    connection: &'c mut PgConnection,
    values: BTreeMap<String, Value>,
    envelopes: Vec<Envelope>,
    messages: Vec<(String, Bytes)>,
}

struct Value {
    entry: Entry,
    time_to_live: Option<Duration>,
}

impl PostgresDatabase {
    async fn join_transaction<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> Result<Joined<'c>, BackendError> {
        let connection = downcast(connection)?;
        if !connection.is_in_transaction() {
            return Err(BackendError::refused(
                "the connection has no transaction that was begun with `begin` or `begin_with` of sqlx",
            ));
        }
        let mut joined = Joined {
            database: self,
            connection,
            values: BTreeMap::new(),
            envelopes: Vec::new(),
            messages: Vec::new(),
        };
        joined.check_same_database().await?;
        Ok(joined)
    }
}

fn downcast(connection: ApplicationConnection<'_>) -> Result<&mut PgConnection, BackendError> {
    let type_name = connection.type_name();
    let found = if connection.is::<Transaction<'static, Postgres>>() {
        let transaction = connection.downcast::<Transaction<'static, Postgres>>();
        transaction.map(|transaction| &mut **transaction)
    } else {
        connection.downcast::<PgConnection>()
    };
    found.ok_or_else(|| {
        BackendError::refused(format!(
            "`{type_name}` is not a connection to a PostgreSQL database: give `&mut *transaction`, a `PgConnection` of \
             sqlx 0.9"
        ))
    })
}

impl Joined<'_> {
    async fn execute(&mut self, statement: Statement) -> Result<Vec<PgRow>, BackendError> {
        let rows = fetch(self.connection, &statement).await;
        rows.map_err(|error| self.failed(error))
    }

    /// Converts an error on the connection of the application.
    fn failed(&self, error: sqlx::Error) -> BackendError {
        // Failures of serialisation, deadlocks, and locks that were waited for too long.
        if matches!(code(&error).as_deref(), Some("40001" | "40P01" | "55P03")) {
            return BackendError::conflict(error);
        }
        self.database.database.error(error)
    }

    fn read<T>(
        &self,
        rows: &[PgRow],
        read: impl Fn(&PgRow) -> sqlx::Result<T>,
    ) -> Result<T, BackendError> {
        let row = rows.first().ok_or(sqlx::Error::RowNotFound);
        row.and_then(read).map_err(|error| self.failed(error))
    }

    /// The statement does not fail if the schema is missing, because a failure would end the transaction.
    async fn check_same_database(&mut self) -> Result<(), BackendError> {
        let schema = self.database.database.schema();
        let table = text(&format!("{schema}.{}", self.database.identity));
        let exists = Statement::read(format!("SELECT to_regclass({table}) IS NOT NULL"));
        let rows = self.execute(exists).await?;
        if self.read(&rows, |row| row.try_get(0))? {
            return Ok(());
        }
        Err(BackendError::refused(format!(
            "the connection is to another database than that of the schema {schema}: keep the tables of the application in \
             the same database"
        )))
    }

    /// Whether there is room for another envelope. Counts on the connection of the application: a pool may have no other
    /// one.
    async fn has_room(&mut self) -> Result<bool, BackendError> {
        let (room, asked) = (&self.database.queue.room, Instant::now());
        if let Some(has_room) = room.is_known(asked) {
            return Ok(has_room);
        }
        let rows = self.execute(room.statement()).await?;
        let counted = room.note_counted(asked, &rows);
        counted.map_err(|error| self.failed(error))
    }

    fn finish_statement(&self) -> Statement {
        let database = &self.database.database;
        let values = || self.values.values();
        let envelopes = || self.envelopes.iter();
        let time_to_live = |value: &Value| {
            let time = value.time_to_live.filter(|time| *time < clock::LONGEST);
            number(time.map(microseconds))
        };
        let revision = |value: &Value| number(i64::try_from(value.entry.revision.get()).ok());
        let channel = self.database.queue.notices.channel();
        let arguments = [
            array("text", self.values.keys().map(|key| text(key))),
            array("bytea", values().map(|value| bytes(&value.entry.value))),
            numbers("bigint", values().map(revision)),
            numbers("bigint", values().map(time_to_live)),
            array("text", envelopes().map(|it| text(&it.queue))),
            array("text", envelopes().map(|it| text(&it.id))),
            array("bytea", envelopes().map(|it| bytes(&it.payload))),
            numbers(
                "smallint",
                envelopes().map(|it| queue::level(it.priority).to_string()),
            ),
            numbers(
                "bigint",
                envelopes().map(|it| microseconds(it.delay).to_string()),
            ),
            microseconds(database.settings().deduplication_window).to_string(),
            array("text", self.messages.iter().map(|(topic, _)| text(topic))),
            array(
                "bytea",
                self.messages.iter().map(|(_, payload)| bytes(payload)),
            ),
            channel.map_or_else(|| "NULL".to_owned(), text),
        ];
        Statement::write(format!(
            "SELECT {}.finish({})",
            database.schema(),
            arguments.join(", ")
        ))
    }
}

impl JoinedTransaction for Joined<'_> {
    fn get<'a>(&'a mut self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async move {
            check_name(key)?;
            if let Some(value) = self.values.get(key) {
                return Ok(Some(value.entry.clone()));
            }
            let rows = self
                .execute(store::get(&self.database.database, key))
                .await?;
            let entry = rows.first().map(store::entry).transpose();
            entry.map_err(|error| self.failed(error))
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
            check_name(key)?;
            let database = &self.database.database;
            check_size(value.len(), database.settings().max_value_bytes)?;
            let schema = database.schema();
            let present = self.values.get(key).map(|value| value.entry.revision);
            let reserve = match present {
                // The key is reserved already.
                Some(present) if expected == Some(present) => {
                    format!("SELECT nextval('{schema}.revisions')")
                }
                Some(_) => return Ok(CompareAndSet::Conflict),
                None => {
                    let expected = store::expected(expected);
                    format!("SELECT {schema}.reserve({}, {expected})", text(key))
                }
            };
            let rows = self.execute(Statement::write(reserve)).await?;
            let Some(revision) = self.read(&rows, |row| row.try_get(0))? else {
                return Ok(CompareAndSet::Conflict);
            };
            let revision = store::revision(revision);
            let entry = Entry::new(value, revision);
            self.values.insert(
                key.to_owned(),
                Value {
                    entry,
                    time_to_live,
                },
            );
            Ok(CompareAndSet::Set(revision))
        })
    }

    fn enqueue(&mut self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move {
            self.database.queue().capabilities().check(&envelope)?;
            let is_same =
                |other: &Envelope| other.queue == envelope.queue && other.id == envelope.id;
            if self.envelopes.iter().any(is_same) {
                return Ok(Enqueued::Duplicate);
            }
            let database = &self.database.database;
            let reserve = Statement::write(format!(
                "SELECT {}.reserve_id({}, {}, {})",
                database.schema(),
                text(&envelope.queue),
                text(&envelope.id),
                microseconds(database.settings().deduplication_window)
            ));
            let rows = self.execute(reserve).await?;
            if !self.read(&rows, |row| row.try_get(0))? {
                return Ok(Enqueued::Duplicate);
            }
            if !self.has_room().await? {
                return Err(BackendError::Full);
            }
            self.envelopes.push(envelope);
            Ok(Enqueued::Added)
        })
    }

    fn publish<'a>(
        &'a mut self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            check_name(topic)?;
            let settings = self.database.database.settings();
            check_size(payload.len(), settings.max_message_bytes)?;
            self.messages.push((topic.to_owned(), payload));
            Ok(())
        })
    }

    fn finish<'a>(mut self: Box<Self>) -> BoxFuture<'a, Result<(), BackendError>>
    where
        Self: 'a,
    {
        Box::pin(async move {
            let is_empty = self.values.is_empty() && self.envelopes.is_empty();
            if is_empty && self.messages.is_empty() {
                return Ok(());
            }
            self.execute(self.finish_statement()).await?;
            // The commit most likely follows soon. Without notifications, the process polls more often for a while.
            self.database.queue.notices.wakes().mark_active();
            for _ in &self.envelopes {
                self.database.queue.room.note_added();
            }
            Ok(())
        })
    }
}

impl Transactional for PostgresDatabase {
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
