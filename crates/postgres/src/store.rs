use super::announcements::Announcements;
use super::batches::{Batches, Call};
use super::database::Database;
use super::feed::{Feed, Heard, Table};
use super::statement::{self, Statement, array, bytes, microseconds, number, numbers, text};
use super::wakes::Topic;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{self, BoxFuture};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::clock;
use tower_promises_backend::kit::limits::{check_size, page_limit};
use tower_promises_backend::{
    BackendError, Change, CompareAndSet, Entry, Listed, Page, Revision, Store, WatchStream,
    check_name, check_prefix,
};

/// A [`Store`] between the processes that share a schema. [`PostgresDatabase`](super::PostgresDatabase) creates it.
///
/// Times to live use the [clock of the server](super#clocks). An expired value is absent at once, and a later write
/// deletes it from the table. Revisions number the changes of all keys. Lists are in the order of keys, and cost what
/// their entries cost: entries with other keys do not count.
#[derive(Clone)]
pub struct PostgresStore {
    database: Arc<Database>,
    changes: Arc<Feed<Changes>>,
    reads: Arc<Batches<Read>>,
    updates: Arc<Batches<Update>>,
}

impl PostgresStore {
    pub(super) fn new(
        database: Arc<Database>,
        changes: Arc<Feed<Changes>>,
        reads: Arc<Batches<Read>>,
        updates: Arc<Batches<Update>>,
    ) -> Self {
        Self {
            database,
            changes,
            reads,
            updates,
        }
    }

    /// Sets a value if the key has the expected revision, 0 for an absent value, or in any case. Returns the revision of
    /// the change.
    async fn set(
        &self,
        key: &str,
        value: Bytes,
        expected: Option<i64>,
        time_to_live: Option<Duration>,
    ) -> Result<Option<Revision>, BackendError> {
        check_name(key)?;
        check_size(value.len(), self.database.settings().max_value_bytes)?;
        let update = Update {
            key: key.to_owned(),
            value: Some(value),
            expected,
            time_to_live,
        };
        self.updates.call(update).await
    }

    /// Reads a page, in the order of keys.
    async fn page(&self, prefix: &str, after: &str, limit: usize) -> Result<Page, BackendError> {
        // The order of keys is that of their bytes, so all keys with a prefix follow it.
        let list = Statement::read(format!(
            "SELECT revision, encode(value, 'hex'), key FROM {}.entries
            WHERE key >= {} AND key > {} AND (expires IS NULL OR expires > clock_timestamp())
            ORDER BY key LIMIT {limit}",
            self.database.schema(),
            text(prefix),
            text(after)
        ));
        let rows = self.database.run(list).await?;
        let listed = rows.iter().map(|row| {
            let key = Arc::<str>::from(row.try_get::<&str, _>(2)?);
            Ok(Listed::new(key.clone(), entry(row)?, key))
        });
        let listed: sqlx::Result<Vec<_>> = listed.collect();
        let mut listed = listed.map_err(|error| self.database.error(error))?;
        let is_full = listed.len() == limit;
        let before = listed.len();
        listed.retain(|listed| listed.key.starts_with(prefix));
        let is_last = !is_full || listed.len() < before;
        let next = listed.last().map(|listed| listed.position.clone());
        Ok(Page::new(listed, next.filter(|_| !is_last)))
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// A statement for the revision and the value of a key.
pub(super) fn get(database: &Database, key: &str) -> Statement {
    Statement::read(format!(
        "SELECT revision, encode(value, 'hex') FROM {}.entries
        WHERE key = {} AND (expires IS NULL OR expires > clock_timestamp())",
        database.schema(),
        text(key)
    ))
}

/// Reads a revision and a value.
pub(super) fn entry(row: &PgRow) -> sqlx::Result<Entry> {
    Ok(Entry::new(
        statement::value(row.try_get(1)?)?,
        revision(row.try_get(0)?),
    ))
}

pub(super) fn revision(number: i64) -> Revision {
    // Revisions start at one.
    Revision::new(number.unsigned_abs())
}

/// The number of an expected revision, or 0 for an absent value. A revision beyond the integers of the server matches no
/// value, and neither does a negative one. Nor does the revision 0, which would match an absent value.
pub(super) fn expected(revision: Option<Revision>) -> i64 {
    match revision.map(Revision::get) {
        None => 0,
        Some(0) => -1,
        Some(number) => i64::try_from(number).unwrap_or(-1),
    }
}

/// A key to be read, and the largest size of its value.
pub(super) struct Read(String, usize);

impl Call for Read {
    type Answer = Option<Entry>;
    type Key = Infallible;

    /// Values may be much larger than keys.
    const MOST: usize = 32;

    const IS_READ: bool = true;

    fn key(&self) -> Option<Infallible> {
        None
    }

    /// Limits the values of a batch, which have two characters for each byte, to 16 MiB in the worst case. Most values are
    /// much smaller than the largest one.
    fn size(&self) -> usize {
        self.0.len() + self.1 / 2
    }

    fn statement(calls: &[Self], database: &Database, _: Option<&str>) -> Statement {
        Statement::read(format!(
            "SELECT revision, encode(value, 'hex'), key FROM {}.entries
            WHERE key = ANY ({}) AND (expires IS NULL OR expires > clock_timestamp())",
            database.schema(),
            array("text", calls.iter().map(|call| text(&call.0)))
        ))
    }

    fn answers(calls: &[Self], rows: &[PgRow]) -> sqlx::Result<Vec<Option<Entry>>> {
        let found = rows.iter().map(|row| Ok((row.try_get(2)?, entry(row)?)));
        let found: HashMap<&str, Entry> = found.collect::<sqlx::Result<_>>()?;
        let entries = calls.iter().map(|call| found.get(&*call.0).cloned());
        Ok(entries.collect())
    }

    fn announce(_: &[Self], _: &[PgRow], _: &Arc<Announcements>) {}
}

/// A change of a key.
pub(super) struct Update {
    key: String,
    /// `None` deletes.
    value: Option<Bytes>,
    /// `None` matches every state, 0 an absent value.
    expected: Option<i64>,
    time_to_live: Option<Duration>,
}

impl Call for Update {
    type Answer = Option<Revision>;
    type Key = String;

    /// Changes of a key could be in one statement, but their revisions and changes are then harder to follow.
    fn key(&self) -> Option<String> {
        Some(self.key.clone())
    }

    fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    fn statement(calls: &[Self], database: &Database, _: Option<&str>) -> Statement {
        let value = |call: &Self| {
            let value = call.value.as_ref();
            value.map_or_else(|| "NULL".to_owned(), |value| bytes(value))
        };
        // A time to live that ends after the lifetime of any machine is none.
        let time_to_live = |call: &Self| {
            let time = call.time_to_live.filter(|time| *time < clock::LONGEST);
            number(time.map(microseconds))
        };
        Statement::write(format!(
            "SELECT changed.is_watched, revisions.revision
            FROM {}.change({}, {}, {}, {}, {}) AS changed
            CROSS JOIN LATERAL unnest(changed.new_revisions)
                WITH ORDINALITY AS revisions (revision, place)
            ORDER BY revisions.place",
            database.schema(),
            database.lock_timeout(),
            array("text", calls.iter().map(|call| text(&call.key))),
            array("bytea", calls.iter().map(value)),
            numbers("bigint", calls.iter().map(|call| number(call.expected))),
            numbers("bigint", calls.iter().map(time_to_live))
        ))
    }

    fn answers(_: &[Self], rows: &[PgRow]) -> sqlx::Result<Vec<Option<Revision>>> {
        let revisions = rows.iter().map(|row| {
            let number: Option<i64> = row.try_get(1)?;
            Ok(number.map(revision))
        });
        revisions.collect()
    }

    fn announce(_: &[Self], rows: &[PgRow], announcements: &Arc<Announcements>) {
        let is_watched = rows.first().map(|row| row.try_get(0));
        if let Some(Ok(true)) = is_watched {
            announcements.announce([Topic::changes()]);
        }
    }
}

/// The table of changes.
pub(super) struct Changes;

impl Table for Changes {
    type Item = Change;

    const NAME: &'static str = "changes";

    fn topic() -> Topic {
        Topic::changes()
    }

    fn item(number: i64, name: &str, value: Option<&str>) -> sqlx::Result<Self::Item> {
        let (key, revision) = (Arc::from(name), revision(number));
        Ok(match value {
            Some(value) => Change::Put {
                key,
                entry: Entry::new(statement::value(value)?, revision),
            },
            None => Change::Deleted { key, revision },
        })
    }
}

impl Store for PostgresStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async move {
            check_name(key)?;
            let largest = self.database.settings().max_value_bytes;
            self.reads.call(Read(key.to_owned(), largest)).await
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(async move {
            let revision = self.set(key, value, None, time_to_live).await?;
            // The statement always sets the value, unless the functions are not the ones of the schema.
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
            let expected = self::expected(expected);
            let revision = self.set(key, value, Some(expected), time_to_live).await?;
            Ok(revision.map_or(CompareAndSet::Conflict, CompareAndSet::Set))
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            check_name(key)?;
            let delete = Update {
                key: key.to_owned(),
                value: None,
                expected: None,
                time_to_live: None,
            };
            Ok(self.updates.call(delete).await?.is_some())
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
            // The characters of a position are those of a key: the server refuses some others.
            check_prefix(after)?;
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
