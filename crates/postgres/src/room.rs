//! The number of envelopes in all queues, which is limited.

use super::database::Database;
use super::statement::Statement;
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// How long a number is used, if it is far from the limit and if it is near. To count on every call would cost more than
/// the call.
const FAR: Duration = Duration::from_secs(10);
const NEAR: Duration = Duration::from_secs(1);

pub(super) struct Room {
    database: Arc<Database>,
    known: Mutex<Option<Known>>,
    counting: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy)]
struct Known {
    counted: Instant,
    /// The number at that time, and what this process has added since.
    envelopes: u64,
}

impl Room {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            known: Mutex::default(),
            counting: tokio::sync::Mutex::default(),
        }
    }

    /// Whether there is room for another envelope.
    pub(super) async fn has_room(&self) -> Result<bool, BackendError> {
        let asked = Instant::now();
        if let Some(has_room) = self.is_known(asked) {
            return Ok(has_room);
        }
        let _turn = self.counting.lock().await;
        // Another call may have counted since this one began.
        if let Some(has_room) = self.is_known(asked) {
            return Ok(has_room);
        }
        let rows = self.database.run(self.statement()).await?;
        let counted = self.note_counted(asked, &rows);
        counted.map_err(|error| self.database.error(error))
    }

    /// A statement that counts the envelopes, up to the limit.
    pub(super) fn statement(&self) -> Statement {
        let schema = self.database.schema();
        let most = self.database.settings().max_envelopes;
        Statement::read(format!(
            "SELECT (SELECT count(*) FROM (SELECT FROM {schema}.ready LIMIT {most}) AS ready)
                + (SELECT count(*) FROM (SELECT FROM {schema}.waiting LIMIT {most}) AS waiting)"
        ))
    }

    /// Takes over a number that was counted after this time. Returns whether there is room.
    pub(super) fn note_counted(&self, after: Instant, rows: &[PgRow]) -> sqlx::Result<bool> {
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let envelopes = row.try_get::<i64, _>(0)?.unsigned_abs();
        *lock(&self.known) = Some(Known {
            counted: after,
            envelopes,
        });
        Ok(envelopes < u64::from(self.database.settings().max_envelopes))
    }

    pub(super) fn note_added(&self) {
        if let Some(known) = &mut *lock(&self.known) {
            known.envelopes += 1;
        }
    }

    /// The answer that follows from the known number, if that is new enough. A call is refused only by a count that began
    /// after the call.
    pub(super) fn is_known(&self, asked: Instant) -> Option<bool> {
        let known = (*lock(&self.known))?;
        let limit = u64::from(self.database.settings().max_envelopes);
        if known.envelopes >= limit {
            return (known.counted >= asked).then_some(false);
        }
        let is_near = known.envelopes >= limit / 10 * 9;
        let valid = if is_near { NEAR } else { FAR };
        (known.counted.elapsed() < valid).then_some(true)
    }
}
