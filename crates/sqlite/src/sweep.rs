//! What is no longer needed is deleted as other things are written.

use super::builder::Settings;
use tower_promises_backend::kit::sync::lock;
use sqlx::query;
use sqlx::sqlite::SqliteConnection;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// After so many writes what is no longer needed is deleted, or after [`SWEEP_INTERVAL`] with the next one.
const WRITES_PER_SWEEP: usize = 64;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How many expired entries, and how many envelopes that have ended, a sweep deletes at most, so that no writer waits
/// for long.
const SWEEP_ENTRIES: i64 = 1000;

/// When to delete what is no longer needed.
pub(super) struct Sweep {
    /// When it was last done, and how much was written since.
    last: Mutex<(Instant, usize)>,
}

impl Sweep {
    pub(super) fn new() -> Self {
        Self {
            last: Mutex::new((Instant::now(), 0)),
        }
    }

    /// Whether it is time, after some writes. The next time is counted from there on.
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

/// Deletes what is no longer needed. The newest change and message stay: they show what has been missed.
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    settings: &Settings,
) -> sqlx::Result<()> {
    query(
        "DELETE FROM store_entries WHERE rowid IN (
            SELECT rowid FROM store_entries
            WHERE expires <= (SELECT milliseconds FROM now) LIMIT ?1
        )",
    )
    .bind(SWEEP_ENTRIES)
    .execute(&mut *connection)
    .await?;
    query(
        "DELETE FROM queue_envelopes WHERE place IN (
            SELECT place FROM queue_envelopes
            WHERE ended <= (SELECT milliseconds FROM now) - ?2 LIMIT ?1
        )",
    )
    .bind(SWEEP_ENTRIES)
    .bind(settings.window_milliseconds())
    .execute(&mut *connection)
    .await?;
    let changes = "DELETE FROM store_changes WHERE revision < (
        SELECT max(
            last - ?1 + 1,
            coalesce((
                SELECT revision FROM store_changes
                WHERE changed > (SELECT milliseconds FROM now) - ?2
                ORDER BY revision LIMIT 1
            ), last)
        ) FROM store_revision
    )";
    let messages = "DELETE FROM bus_messages WHERE id < (
        SELECT max(
            seq - ?1 + 1,
            coalesce((
                SELECT id FROM bus_messages
                WHERE published > (SELECT milliseconds FROM now) - ?2
                ORDER BY id LIMIT 1
            ), seq)
        ) FROM sqlite_sequence WHERE name = 'bus_messages'
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
