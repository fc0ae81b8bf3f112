use super::builder::Settings;
use super::connections::Connections;
use super::feed::{Feed, Heard, Table};
use super::writer::{Statement, Written};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{self, BoxFuture};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, query};
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::limits::{check_size, page_limit};
use tower_promises_backend::{
    BackendError, Change, CompareAndSet, Entry, Listed, Page, Revision, Store, WatchStream,
    check_name, check_prefix,
};

/// A [`Store`] between the processes that open one file. [`SqliteDatabase`](super::SqliteDatabase) creates it.
///
/// Times to live use the [clock of the database](super#clocks), with a resolution of a millisecond. An expired value is
/// absent at once, and a later write deletes it from the file. Watchers receive changes of their own process at once,
/// and changes of other processes with the next [poll](super::SqliteBuilder::poll_interval). A change is logged for
/// watchers only while a process watches. Lists are in the order of keys, and cost what their entries cost: entries with
/// other keys do not count.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    connections: Arc<Connections>,
    changes: Arc<Feed<Changes>>,
}

// Statements use the clock of the database rather than a time from the caller, because a statement may wait for a lock
// before it runs.
const GET: &str = "SELECT revision, value FROM promises_store_entries
    WHERE key = ?1 AND (expires IS NULL OR expires > (SELECT milliseconds FROM promises_now))";

const PUT: &str = "INSERT INTO promises_store_entries (key, value, revision, expires, due)
    SELECT ?1, ?2, removed + 1, milliseconds + ?3, milliseconds + ?3 FROM promises_store_state, promises_now WHERE true
    ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, revision = promises_store_entries.revision + 1, expires = excluded.expires
    RETURNING revision";

const SET_ABSENT: &str = "INSERT INTO promises_store_entries (key, value, revision, expires, due)
    SELECT ?1, ?2, removed + 1, milliseconds + ?3, milliseconds + ?3 FROM promises_store_state, promises_now WHERE true
    ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, revision = promises_store_entries.revision + 1, expires = excluded.expires
    WHERE promises_store_entries.expires <= (SELECT milliseconds FROM promises_now)
    RETURNING revision";

// The next revision is known, so the statement returns no row. A row would take a switch of threads of its own.
const SET_PRESENT: &str = "UPDATE promises_store_entries
    SET value = ?2, revision = ?4 + 1, expires = (SELECT milliseconds FROM promises_now) + ?3
    WHERE key = ?1 AND revision = ?4
        AND (expires IS NULL OR expires > (SELECT milliseconds FROM promises_now))";

const DELETE: &str = "DELETE FROM promises_store_entries
    WHERE key = ?1 AND (expires IS NULL OR expires > (SELECT milliseconds FROM promises_now))";

// The order of keys is that of their bytes, so all keys with a prefix follow it. There is one lower bound, because SQLite
// would use one of two only, and pass all keys between them.
const LIST: &str = "SELECT revision, value, key FROM promises_store_entries
    WHERE key >= max(?1, ?2) AND key <> ?2
        AND (expires IS NULL OR expires > (SELECT milliseconds FROM promises_now))
    ORDER BY key LIMIT ?3";

impl SqliteStore {
    pub(super) fn new(connections: Arc<Connections>, changes: Arc<Feed<Changes>>) -> Self {
        Self {
            connections,
            changes,
        }
    }

    fn settings(&self) -> &Settings {
        self.connections.database().settings()
    }

    /// Reads a page, in the order of keys.
    async fn page(&self, prefix: &str, after: &str, limit: usize) -> Result<Page, BackendError> {
        let list = query(LIST)
            .bind(prefix.to_owned())
            .bind(after.to_owned())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.connections.read(list).await?;
        let listed = rows.iter().map(|row| {
            let value: Vec<u8> = row.try_get(1)?;
            let entry = Entry::new(value.into(), revision(row, 0)?);
            let key = Arc::<str>::from(row.try_get::<&str, _>(2)?);
            Ok(Listed::new(key.clone(), entry, key))
        });
        let listed: sqlx::Result<Vec<_>> = listed.collect();
        let mut listed = listed.map_err(|error| self.error(error))?;
        let is_full = listed.len() == limit;
        let before = listed.len();
        listed.retain(|listed| listed.key.starts_with(prefix));
        let is_last = !is_full || listed.len() < before;
        let next = listed.last().map(|listed| listed.position.clone());
        Ok(Page::new(listed, next.filter(|_| !is_last)))
    }

    /// Runs a statement that changes at most one key.
    async fn change(&self, statement: Statement) -> Result<Written, BackendError> {
        let written = self.connections.write(statement).await?;
        self.changes.wake();
        Ok(written)
    }

    fn error(&self, error: sqlx::Error) -> BackendError {
        self.connections.database().error(error)
    }
}

/// Builds a statement that reads a value.
pub(super) fn get(key: &str) -> Result<Statement, BackendError> {
    check_name(key)?;
    Ok(query(GET).bind(key.to_owned()))
}

/// Builds a statement that sets a value if the key has the expected revision.
pub(super) fn compare_and_set(
    settings: &Settings,
    key: &str,
    expected: Option<Revision>,
    value: Bytes,
    time_to_live: Option<Duration>,
) -> Result<Statement, BackendError> {
    let Some(revision) = expected else {
        return set(settings, SET_ABSENT, key, value, time_to_live);
    };
    let set = set(settings, SET_PRESENT, key, value, time_to_live)?;
    // A revision beyond SQLite's integers matches no value, and neither does a negative one.
    Ok(set.bind(i64::try_from(revision.get()).unwrap_or(-1)))
}

/// Builds a statement that sets a value, with the arguments that all of them share.
fn set(
    settings: &Settings,
    sql: &'static str,
    key: &str,
    value: Bytes,
    time_to_live: Option<Duration>,
) -> Result<Statement, BackendError> {
    check_name(key)?;
    check_size(value.len(), settings.max_value_bytes)?;
    Ok(query(sql)
        .bind(key.to_owned())
        .bind(Vec::from(value))
        .bind(time_to_live.and_then(milliseconds)))
}

/// Reads the value that a statement has read.
pub(super) fn entry(rows: &[SqliteRow]) -> sqlx::Result<Option<Entry>> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let value: Vec<u8> = row.try_get(1)?;
    Ok(Some(Entry::new(value.into(), revision(row, 0)?)))
}

/// Returns the revision that [`compare_and_set`] has set, `None` if the key did not have the expected one.
pub(super) fn new_revision(
    expected: Option<Revision>,
    written: &Written,
) -> sqlx::Result<Option<Revision>> {
    match expected {
        Some(expected) if written.changed > 0 => Ok(Some(Revision::new(expected.get() + 1))),
        Some(_) => Ok(None),
        None => returned_revision(written),
    }
}

/// Reads the revision that a statement returns.
fn returned_revision(written: &Written) -> sqlx::Result<Option<Revision>> {
    let row = written.rows.first();
    row.map(|row| revision(row, 0)).transpose()
}

/// The milliseconds that SQLite adds to the present time, or `None` if the time to live ends after the lifetime of any
/// machine.
pub(super) fn milliseconds(time_to_live: Duration) -> Option<i64> {
    if time_to_live.is_zero() {
        return Some(0);
    }
    // The present time is rounded too. With one more millisecond, the time to live is never too short.
    let milliseconds = time_to_live.as_micros().div_ceil(1000) + 1;
    let milliseconds = i64::try_from(milliseconds).ok();
    milliseconds.filter(|milliseconds| *milliseconds < i64::MAX / 2)
}

fn revision(row: &SqliteRow, column: usize) -> sqlx::Result<Revision> {
    let number: i64 = row.try_get(column)?;
    // Revisions start at one.
    Ok(Revision::new(number.unsigned_abs()))
}

/// The table of changes.
pub(super) struct Changes;

impl Table for Changes {
    type Item = Change;

    const LAST: &'static str =
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'promises_store_log'), 0)";

    const AFTER: &'static str = "SELECT number, revision, key, value FROM promises_store_log
        WHERE number > ?1 ORDER BY number LIMIT ?2";

    const KEEP: Option<&'static str> = Some(
        "UPDATE promises_store_state SET watched = max(watched, milliseconds + ?1) FROM promises_now",
    );

    fn item(row: &SqliteRow) -> sqlx::Result<Self::Item> {
        let revision = revision(row, 1)?;
        let key: &str = row.try_get(2)?;
        if key.is_empty() {
            // An unknown number of changes was not logged.
            return Ok(Change::Lagged(1));
        }
        let key = Arc::from(key);
        let value: Option<Vec<u8>> = row.try_get(3)?;
        Ok(match value {
            Some(value) => Change::Put {
                key,
                entry: Entry::new(value.into(), revision),
            },
            None => Change::Deleted { key, revision },
        })
    }
}

impl Store for SqliteStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async move {
            let rows = self.connections.read(get(key)?).await?;
            entry(&rows).map_err(|error| self.error(error))
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(async move {
            let put = set(self.settings(), PUT, key, value, time_to_live)?;
            let written = self.change(put).await?;
            let revision = returned_revision(&written).map_err(|error| self.error(error))?;
            // The statement always sets the value, unless the tables are not the ones of the schema.
            revision.ok_or_else(|| BackendError::unavailable("the database has not set the value"))
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(async move {
            let set = compare_and_set(self.settings(), key, expected, value, time_to_live)?;
            let written = self.change(set).await?;
            let revision = new_revision(expected, &written).map_err(|error| self.error(error))?;
            Ok(revision.map_or(CompareAndSet::Conflict, CompareAndSet::Set))
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            check_name(key)?;
            let deleted = self.change(query(DELETE).bind(key.to_owned())).await?;
            Ok(deleted.changed > 0)
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        Box::pin(async move {
            check_prefix(prefix)?;
            let after = after.unwrap_or_default();
            self.page(prefix, after, page_limit(limit)).await
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        Box::pin(async move {
            check_prefix(prefix)?;
            let changes = self.changes.subscribe().await?;
            let prefix = Arc::<str>::from(prefix);
            let changes = changes.filter_map(move |heard| {
                future::ready(match heard {
                    Ok(Heard::Item(change)) => concerns(&change, &prefix).then_some(Ok(change)),
                    Ok(Heard::Lagged(missed)) => Some(Ok(Change::Lagged(missed))),
                    Err(error) => Some(Err(error)),
                })
            });
            Ok(changes.boxed())
        })
    }
}

fn concerns(change: &Change, prefix: &str) -> bool {
    match change {
        Change::Put { key, .. } | Change::Deleted { key, .. } => key.starts_with(prefix),
        // A gap, or a change without a key.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::schema;
    use sqlx::sqlite::SqliteConnection;
    use sqlx::{Connection, raw_sql};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Reads a page, and returns its keys with the number of steps of SQLite.
    async fn page(connection: &mut SqliteConnection, after: &str) -> (Vec<String>, usize) {
        let steps = Arc::new(AtomicUsize::new(0));
        let counted = steps.clone();
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            true
        };
        let mut handle = connection.lock_handle().await.unwrap();
        handle.set_progress_handler(1, count);
        drop(handle);
        let rows = query(LIST).bind("key/").bind(after).bind(10);
        let rows = rows.fetch_all(&mut *connection).await.unwrap();
        let mut handle = connection.lock_handle().await.unwrap();
        handle.remove_progress_handler();
        let keys = rows.iter().map(|row| row.get(2)).collect();
        (keys, steps.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn the_last_page_of_a_list_costs_as_much_as_the_first() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        schema::migrate(&mut connection, false).await.unwrap();
        let insert = "WITH RECURSIVE numbers (number) AS
                (SELECT 1000 UNION ALL SELECT number + 1 FROM numbers WHERE number < 2999)
            INSERT INTO promises_store_entries (key, revision, value)
            SELECT 'key/' || number, number, x'' FROM numbers UNION ALL SELECT 'key/', 1, x''";
        raw_sql(insert).execute(&mut connection).await.unwrap();
        let (first, early) = page(&mut connection, "").await;
        assert_eq!(first[0], "key/", "a key can be its own prefix");
        let (next, _) = page(&mut connection, &first[9]).await;
        assert_eq!(next[0], "key/1009");
        let (last, late) = page(&mut connection, "key/2989").await;
        assert_eq!(last[0], "key/2990");
        assert_eq!(last.len(), 10);
        assert!(late < 2 * early, "{early} steps, later {late}");
    }
}
