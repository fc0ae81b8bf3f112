use super::builder::Settings;
use super::connections::Connections;
use super::store::milliseconds;
use super::writer::Statement;
use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, query};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tower_promises_backend::kit::claim::claim;
use tower_promises_backend::kit::clock;
use tower_promises_backend::{
    BackendError, Capabilities, Enqueued, Envelope, Outcome, Priority, Queue, Receipt, Taken,
    check_name,
};

/// A [`Queue`] between the processes that open one file. [`SqliteDatabase`](super::SqliteDatabase) creates it.
///
/// Envelopes outlive the processes. Workers poll at the [poll interval](super::SqliteBuilder::poll_interval), and at
/// once when their own process enqueues. Times use the [clock of the database](super#clocks), with a resolution of a
/// millisecond. The id of an envelope that has ended is known for a
/// [window](super::SqliteBuilder::deduplication_window) from then on. Its payload is deleted at once.
#[derive(Clone, Debug)]
pub struct SqliteQueue {
    connections: Arc<Connections>,
    /// Notifies workers when this process has made an envelope due.
    due: Arc<watch::Sender<()>>,
}

/// A duration that ends after the lifetime of any machine.
const FOREVER: i64 = i64::MAX / 4;

// Statements use the clock of the database rather than a time from the caller, because a statement may wait for a lock
// before it runs.
const ENQUEUE: &str =
    "INSERT OR REPLACE INTO promises_queue_envelopes (queue, id, payload, priority, due, is_delayed)
    SELECT ?1, ?2, ?3, ?4, (SELECT milliseconds FROM promises_now) + ?5, ?5 > 0
    WHERE (SELECT envelopes FROM promises_queue_size) < ?6 AND NOT EXISTS (
        SELECT 1 FROM promises_queue_envelopes WHERE queue = ?1 AND id = ?2
            AND (ended IS NULL OR ended > (SELECT milliseconds FROM promises_now) - ?7)
    )
    RETURNING place";

const IS_KNOWN: &str = "SELECT 1 FROM promises_queue_envelopes WHERE queue = ?1 AND id = ?2
    AND (ended IS NULL OR ended > (SELECT milliseconds FROM promises_now) - ?3)";

/// The milliseconds until the next envelope is due, with one index look-up for each priority.
const NEXT: &str =
    "SELECT CAST(min(due) - (SELECT milliseconds FROM promises_now) AS INTEGER) FROM (
        SELECT min(due) AS due FROM promises_queue_envelopes
            WHERE queue = ?1 AND priority = 0 AND ended IS NULL
        UNION ALL SELECT min(due) FROM promises_queue_envelopes
            WHERE queue = ?1 AND priority = 1 AND ended IS NULL
        UNION ALL SELECT min(due) FROM promises_queue_envelopes
            WHERE queue = ?1 AND priority = 2 AND ended IS NULL
    )";

const TAKE: &str = "UPDATE promises_queue_envelopes
    SET leased = 1, number = number + 1, due = (SELECT milliseconds FROM promises_now) + ?3
    WHERE place IN (
        SELECT place FROM (
            SELECT * FROM (
                SELECT place, due, priority FROM promises_queue_envelopes
                WHERE queue = ?1 AND priority = 0 AND ended IS NULL
                    AND due <= (SELECT milliseconds FROM promises_now)
                ORDER BY due, place LIMIT ?2
            )
            UNION ALL SELECT * FROM (
                SELECT place, due, priority FROM promises_queue_envelopes
                WHERE queue = ?1 AND priority = 1 AND ended IS NULL
                    AND due <= (SELECT milliseconds FROM promises_now)
                ORDER BY due, place LIMIT ?2
            )
            UNION ALL SELECT * FROM (
                SELECT place, due, priority FROM promises_queue_envelopes
                WHERE queue = ?1 AND priority = 2 AND ended IS NULL
                    AND due <= (SELECT milliseconds FROM promises_now)
                ORDER BY due, place LIMIT ?2
            )
        )
        ORDER BY priority DESC, due, place LIMIT ?2
    )
    RETURNING place, number, priority, id, payload";

// The number of a delivery rises with each delivery and serves as a fencing token: the numbers of lost leases no longer
// match.
const RENEW: &str = "UPDATE promises_queue_envelopes
    SET due = (SELECT milliseconds FROM promises_now) + ?3
    WHERE place = ?1 AND number = ?2 AND leased AND due > (SELECT milliseconds FROM promises_now)
    RETURNING place";

const RETRY: &str = "UPDATE promises_queue_envelopes
    SET leased = 0, due = (SELECT milliseconds FROM promises_now) + ?3, is_delayed = ?3 > 0
    WHERE place = ?1 AND number = ?2 AND leased AND due > (SELECT milliseconds FROM promises_now)
    RETURNING place";

const END: &str = "UPDATE promises_queue_envelopes
    SET leased = 0, ended = (SELECT milliseconds FROM promises_now), payload = x''
    WHERE place = ?1 AND number = ?2 AND leased AND due > (SELECT milliseconds FROM promises_now)
    RETURNING place";

impl SqliteQueue {
    pub(super) fn new(connections: Arc<Connections>, due: Arc<watch::Sender<()>>) -> Self {
        Self { connections, due }
    }

    fn settings(&self) -> &Settings {
        self.connections.database().settings()
    }

    async fn add(&self, envelope: Envelope) -> Result<Enqueued, BackendError> {
        let known = is_known(self.settings(), &envelope);
        let insert = enqueue(self.settings(), envelope)?;
        if !self.connections.write(insert).await?.rows.is_empty() {
            self.due.send_replace(());
            return Ok(Enqueued::Added);
        }
        if self.connections.read(known).await?.is_empty() {
            return Err(BackendError::Full);
        }
        Ok(Enqueued::Duplicate)
    }

    /// Waits until an envelope seems to be due.
    async fn wait(&self, queue: &str) -> Result<(), BackendError> {
        let mut changes = self.due.subscribe();
        loop {
            changes.mark_unchanged();
            let rows = self
                .connections
                .read(query(NEXT).bind(queue.to_owned()))
                .await?;
            let next = rows.first().map(|row| row.try_get::<Option<i64>, _>(0));
            let next = next
                .transpose()
                .map_err(|error| self.connections.database().error(error))?;
            let mut wait = self.pause();
            if let Some(next) = next.flatten() {
                let Some(next) = u64::try_from(next).ok().filter(|next| *next > 0) else {
                    return Ok(());
                };
                wait = wait.min(Duration::from_millis(next));
            }
            // Resolves after the pause or when this process makes an envelope due.
            let _ = timeout(wait, changes.changed()).await;
        }
    }

    /// The pause before the next poll. All waiting workers of this process together poll no more often than a single
    /// worker may, or each at the poll interval: the activity of the process most likely concerns other queues.
    fn pause(&self) -> Duration {
        let waiting = u32::try_from(self.due.receiver_count()).unwrap_or(u32::MAX);
        let pause = self.connections.database().pause().saturating_mul(waiting);
        pause.min(self.settings().poll_interval)
    }

    /// Takes due envelopes.
    async fn claim(
        &self,
        queue: &str,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Taken>, BackendError> {
        let asked = Instant::now();
        let take = query(TAKE)
            .bind(queue.to_owned())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(duration(lease));
        let connections = self.connections.clone();
        let taking = async move {
            let written = connections.write(take).await?;
            let taken = read(&written.rows, asked, lease);
            taken.map_err(|error| connections.database().error(error))
        };
        claim(self, taking).await
    }

    /// Changes an envelope if its lease is active. Returns whether it was active.
    async fn change(
        &self,
        sql: &'static str,
        receipt: &Receipt,
        time: Option<Duration>,
    ) -> Result<bool, BackendError> {
        let Some((place, number)) = parse(receipt) else {
            return Ok(false);
        };
        let mut change = query(sql).bind(place).bind(number);
        if let Some(time) = time {
            change = change.bind(duration(time));
        }
        Ok(!self.connections.write(change).await?.rows.is_empty())
    }
}

fn capabilities(settings: &Settings) -> Capabilities {
    Capabilities::new(settings.max_envelope_bytes, settings.deduplication_window)
}

/// Builds a statement that adds an envelope. It returns no row if the id is known or the queues are full.
pub(super) fn enqueue(settings: &Settings, envelope: Envelope) -> Result<Statement, BackendError> {
    capabilities(settings).check(&envelope)?;
    Ok(query(ENQUEUE)
        .bind(envelope.queue.to_string())
        .bind(envelope.id.to_string())
        .bind(Vec::from(envelope.payload))
        .bind(number_of(envelope.priority))
        .bind(duration(envelope.delay))
        .bind(i64::from(settings.max_envelopes))
        .bind(settings.window_milliseconds()))
}

/// Builds a statement that returns a row if the id of an envelope is known.
pub(super) fn is_known(settings: &Settings, envelope: &Envelope) -> Statement {
    query(IS_KNOWN)
        .bind(envelope.queue.to_string())
        .bind(envelope.id.to_string())
        .bind(settings.window_milliseconds())
}

/// Reads the envelopes in the order in which they are to be handled. SQLite returns changed rows in any order.
fn read(rows: &[SqliteRow], asked: Instant, lease: Duration) -> sqlx::Result<Vec<Taken>> {
    let mut taken = Vec::with_capacity(rows.len());
    for row in rows {
        let (place, number): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (priority, id): (i64, &str) = (row.try_get(2)?, row.try_get(3)?);
        let payload: Vec<u8> = row.try_get(4)?;
        let envelope = Taken::new(
            id,
            payload.into(),
            u32::try_from(number).unwrap_or(u32::MAX),
            asked + lease.min(clock::LONGEST),
            Receipt::new(format!("{place} {number}")),
        );
        taken.push(((Reverse(priority), place), envelope));
    }
    taken.sort_by_key(|(order, _)| *order);
    Ok(taken.into_iter().map(|(_, envelope)| envelope).collect())
}

/// Parses the place and the number of a delivery.
fn parse(receipt: &Receipt) -> Option<(i64, i64)> {
    let (place, number) = receipt.as_str().split_once(' ')?;
    Some((place.parse().ok()?, number.parse().ok()?))
}

fn number_of(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

fn duration(time: Duration) -> i64 {
    milliseconds(time).map_or(FOREVER, |time| time.min(FOREVER))
}

impl Queue for SqliteQueue {
    fn capabilities(&self) -> Capabilities {
        capabilities(self.settings())
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(self.add(envelope))
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        Box::pin(async move {
            check_name(queue)?;
            loop {
                self.wait(queue).await?;
                // May take nothing, because another worker was faster.
                let taken = self.claim(queue, limit.max(1), lease).await?;
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.change(RENEW, receipt, Some(lease)))
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let Outcome::Retry { after } = outcome else {
                return self.change(END, receipt, None).await;
            };
            let settled = self.change(RETRY, receipt, Some(after)).await?;
            self.due.send_replace(());
            Ok(settled)
        })
    }
}
