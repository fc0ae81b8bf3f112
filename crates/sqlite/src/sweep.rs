//! Deletes expired entries after other writes.

use super::builder::Settings;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, query};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tower_promises_backend::kit::sync::lock;

/// A sweep follows after this number of writes, or with the first write after [`SWEEP_INTERVAL`].
const WRITES_PER_SWEEP: usize = 64;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The largest number of rows of a table that a sweep looks at and deletes, so that no write waits for long.
const SWEEP_ENTRIES: i64 = 1000;

/// Decides when to sweep.
pub(super) struct Sweep {
    /// The time of the last sweep, and the number of writes since then.
    last: Mutex<(Instant, usize)>,
}

impl Sweep {
    pub(super) fn new() -> Self {
        Self {
            last: Mutex::new((Instant::now(), 0)),
        }
    }

    /// Adds a number of writes. Returns whether a sweep is due, and then starts to count again.
    pub(super) fn is_due(&self, writes: usize) -> bool {
        let mut last = lock(&self.last);
        last.1 += writes;
        let is_due = last.1 >= WRITES_PER_SWEEP || last.0.elapsed() >= SWEEP_INTERVAL;
        if is_due {
            *last = (Instant::now(), 0);
        }
        is_due
    }
}

/// Of the entries that a sweep looks at, those whose time to live is not over, and the others. The inner query bounds what
/// is read, not only what is changed.
const MOVE_ON: &str = "UPDATE promises_store_entries SET due = expires WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, expires FROM promises_store_entries
        WHERE due <= (SELECT milliseconds FROM promises_now) ORDER BY due LIMIT ?1
    ) WHERE expires IS NULL OR expires > (SELECT milliseconds FROM promises_now)
)";
const EXPIRE: &str = "DELETE FROM promises_store_entries WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, expires FROM promises_store_entries
        WHERE due <= (SELECT milliseconds FROM promises_now) ORDER BY due LIMIT ?1
    ) WHERE expires <= (SELECT milliseconds FROM promises_now)
)";

/// Deletes expired entries. The newest change and the newest message stay, because their numbers show what a reader has
/// missed.
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    settings: &Settings,
) -> sqlx::Result<()> {
    for statement in [MOVE_ON, EXPIRE] {
        query(statement)
            .bind(SWEEP_ENTRIES)
            .execute(&mut *connection)
            .await?;
    }
    query(
        "DELETE FROM promises_queue_envelopes WHERE place IN (
            SELECT place FROM promises_queue_envelopes
            WHERE ended <= (SELECT milliseconds FROM promises_now) - ?2 LIMIT ?1
        )",
    )
    .bind(SWEEP_ENTRIES)
    .bind(settings.window_milliseconds())
    .execute(&mut *connection)
    .await?;
    let (changes, messages) = (
        Log {
            table: "promises_store_log",
            number: "number",
            written: "changed",
            retained: settings.retained_changes,
        },
        Log {
            table: "promises_bus_messages",
            number: "id",
            written: "published",
            retained: settings.retained_messages,
        },
    );
    for log in [changes, messages] {
        query(log.delete())
            .bind(SWEEP_ENTRIES)
            .bind(settings.retention_milliseconds())
            .bind(i64::from(log.retained))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// A table of changes or messages.
struct Log {
    table: &'static str,
    number: &'static str,
    written: &'static str,
    /// The number of the newest rows that are retained.
    retained: u32,
}

impl Log {
    /// Deletes the oldest rows, up to the first one that is retained. Looks at the rows that it may delete only.
    fn delete(&self) -> AssertSqlSafe<String> {
        let Self {
            table,
            number,
            written,
            ..
        } = self;
        // The statement is built from constants only.
        AssertSqlSafe(format!(
            "WITH oldest (end) AS (SELECT min({number}) + ?1 FROM {table})
            DELETE FROM {table} WHERE {number} < (
                SELECT min(
                    end,
                    max(
                        seq - ?3 + 1,
                        coalesce((
                            SELECT {number} FROM {table}
                            WHERE {written} > (SELECT milliseconds FROM promises_now) - ?2 AND {number} < end
                            ORDER BY {number} LIMIT 1
                        ), seq)
                    )
                ) FROM sqlite_sequence, oldest WHERE name = '{table}'
            )"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{SWEEP_ENTRIES, sweep};
    use crate::builder::SqliteBuilder;
    use crate::schema::migrate;
    use sqlx::sqlite::SqliteConnection;
    use sqlx::{AssertSqlSafe, Connection, query_scalar, raw_sql};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    /// The number of instructions of SQLite between two counts.
    const STEP: i32 = 10;

    /// A table with a backlog: its name, and what a statement inserts for each number `n`.
    const BACKLOGS: [(&str, &str); 5] = [
        (
            "promises_store_entries",
            "(key, revision, expires, due, value) SELECT n, 1, 1, 1, x'00'",
        ),
        (
            // The times to live were changed, so the sweep deletes nothing.
            "promises_store_entries",
            "(key, revision, expires, due, value) SELECT n, 1, 9e15, n, x'00'",
        ),
        (
            "promises_queue_envelopes",
            "(queue, id, priority, due, ended, payload) SELECT 'queue', n, 1, 1, 1, x'00'",
        ),
        (
            "promises_store_log",
            "(changed, revision, key, value) SELECT 1, n, n, x'00'",
        ),
        (
            "promises_bus_messages",
            "(published, topic, payload) SELECT 1, n, x'00'",
        ),
    ];

    async fn count(connection: &mut SqliteConnection, table: &str) -> i64 {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        query_scalar(count).fetch_one(connection).await.unwrap()
    }

    /// Returns the instructions of SQLite that a sweep takes, about.
    async fn cost(connection: &mut SqliteConnection) -> i64 {
        let cost = Arc::new(AtomicI64::new(0));
        let counted = cost.clone();
        let mut handle = connection.lock_handle().await.unwrap();
        handle.set_progress_handler(STEP, move || {
            counted.fetch_add(i64::from(STEP), Ordering::SeqCst);
            true
        });
        drop(handle);
        let builder = SqliteBuilder::new("unused".into());
        sweep(connection, builder.settings()).await.unwrap();
        let mut handle = connection.lock_handle().await.unwrap();
        handle.remove_progress_handler();
        cost.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_sweep_reads_and_deletes_a_part_of_a_backlog() {
        for (table, row) in BACKLOGS {
            let mut costs = Vec::new();
            for parts in [2, 20] {
                let rows = parts * SWEEP_ENTRIES;
                let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
                migrate(&mut connection, false).await.unwrap();
                let insert = format!(
                    "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})
                    INSERT INTO {table} {row} FROM numbers"
                );
                raw_sql(AssertSqlSafe(insert))
                    .execute(&mut connection)
                    .await
                    .unwrap();
                costs.push(cost(&mut connection).await);
                let left = count(&mut connection, table).await;
                assert!(left >= rows - SWEEP_ENTRIES, "{row}: {left} of {rows}");
            }
            assert!(costs[1] <= costs[0] * 11 / 10, "{row}: {costs:?}");
        }
    }
}
