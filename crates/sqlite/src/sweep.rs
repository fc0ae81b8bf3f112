//! Deletes expired entries after other writes.

use super::builder::Settings;
use sqlx::query;
use sqlx::sqlite::SqliteConnection;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tower_promises_backend::kit::sync::lock;

/// A sweep follows after this number of writes, or with the first write after [`SWEEP_INTERVAL`].
const WRITES_PER_SWEEP: usize = 64;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The largest number of expired entries, and of ended envelopes, that a sweep deletes, so that no write waits for
/// long.
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
    let changes = "DELETE FROM promises_store_log WHERE number < (
        SELECT max(
            seq - ?1 + 1,
            coalesce((
                SELECT number FROM promises_store_log
                WHERE changed > (SELECT milliseconds FROM promises_now) - ?2
                ORDER BY number LIMIT 1
            ), seq)
        ) FROM sqlite_sequence WHERE name = 'promises_store_log'
    )";
    let messages = "DELETE FROM promises_bus_messages WHERE id < (
        SELECT max(
            seq - ?1 + 1,
            coalesce((
                SELECT id FROM promises_bus_messages
                WHERE published > (SELECT milliseconds FROM promises_now) - ?2
                ORDER BY id LIMIT 1
            ), seq)
        ) FROM sqlite_sequence WHERE name = 'promises_bus_messages'
    )";
    for (delete, rows) in [
        (changes, settings.retained_changes),
        (messages, settings.retained_messages),
    ] {
        query(delete)
            .bind(i64::from(rows))
            .bind(settings.retention_milliseconds())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
