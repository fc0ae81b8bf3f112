use super::announcements::Announcements;
use super::batches::{Batches, Call};
use super::database::Database;
use super::notices::Notices;
use super::receipts::{Held, Renewal, Settlement};
use super::room::Room;
use super::statement::{self, Statement, array, bytes, microseconds, numbers, text};
use super::wakes::Topic;
use futures_util::future::BoxFuture;
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower_promises_backend::kit::claim::claim;
use tower_promises_backend::kit::clock;
use tower_promises_backend::{
    BackendError, Capabilities, Enqueued, Envelope, Outcome, Priority, Queue, Receipt, Taken,
    check_name,
};

/// The shortest pause between two looks for an envelope that is due, but that another call is just changing.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// A [`Queue`] between the processes that share a schema. [`PostgresDatabase`](super::PostgresDatabase) creates it.
///
/// Envelopes outlive the processes and the server. A notification wakes the workers that wait, and they look once a second
/// in case that it was lost; without notifications they look at the [poll
/// interval](super::PostgresBuilder::poll_interval). Delays and leases use the [clock of the server](super#clocks). The id
/// of an envelope that has ended is known for a [window](super::PostgresBuilder::deduplication_window) from then on, also
/// over restarts. Its payload is deleted at once.
#[derive(Clone)]
pub struct PostgresQueue {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) database: Arc<Database>,
    pub(super) notices: Arc<Notices>,
    pub(super) room: Room,
    pub(super) additions: Arc<Batches<Addition>>,
    pub(super) renewals: Arc<Batches<Renewal>>,
    pub(super) settlements: Arc<Batches<Settlement>>,
}

impl PostgresQueue {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn add(&self, envelope: Envelope) -> Result<Enqueued, BackendError> {
        self.capabilities().check(&envelope)?;
        if !self.shared.room.has_room().await? {
            return self.refuse(&envelope).await;
        }
        let enqueued = self.shared.additions.call(Addition(envelope)).await?;
        if enqueued == Enqueued::Added {
            self.shared.room.note_added();
        }
        Ok(enqueued)
    }

    /// The answer for an envelope for which there is no room.
    async fn refuse(&self, envelope: &Envelope) -> Result<Enqueued, BackendError> {
        let database = &self.shared.database;
        let is_known = Statement::read(format!(
            "SELECT 1 FROM {}.envelopes WHERE queue = {} AND id = {}
                AND (ended IS NULL OR ended > clock_timestamp() - {} * interval '1 microsecond')",
            database.schema(),
            text(&envelope.queue),
            text(&envelope.id),
            microseconds(database.settings().deduplication_window)
        ));
        if database.run(is_known).await?.is_empty() {
            return Err(BackendError::Full);
        }
        Ok(Enqueued::Duplicate)
    }

    /// Takes due envelopes. Without one, sets the time until the next is due, in microseconds.
    async fn claim(
        &self,
        queue: &str,
        limit: usize,
        lease: Duration,
        next: &Arc<AtomicU64>,
    ) -> Result<Vec<Taken>, BackendError> {
        let asked = Instant::now();
        let database = self.shared.database.clone();
        // Settlements that wait go along, so that both share a round trip and a commit.
        let settlements = self.shared.settlements.join();
        let lock_timeout = match &settlements {
            Some(_) => "NULL".to_owned(),
            None => database.lock_timeout().to_string(),
        };
        let take = format!(
            "SELECT * FROM {}.take({lock_timeout}, {}, {}, {})",
            database.schema(),
            text(queue),
            i32::try_from(limit).unwrap_or(i32::MAX),
            microseconds(lease)
        );
        let (queue, next, wakes) = (
            queue.to_owned(),
            next.clone(),
            self.shared.notices.wakes().clone(),
        );
        let taking = async move {
            let statement = match &settlements {
                Some(settlements) => settlements.statement().then(&take),
                None => Statement::write(take),
            };
            let rows = database.run(statement).await;
            // The rows of settlements have one column.
            let settled = rows
                .as_ref()
                .map_or(0, |rows| rows.partition_point(|row| row.len() == 1));
            if let Some(settlements) = settlements {
                settlements.answer(
                    rows.as_ref()
                        .map(|rows| &rows[..settled])
                        .map_err(Clone::clone),
                );
            }
            let rows = rows?;
            let answer = read(&rows[settled..], &queue, asked, lease);
            let (taken, wait) = answer.map_err(|error| database.error(error))?;
            next.store(wait, Ordering::SeqCst);
            if !taken.is_empty() {
                wakes.mark_active();
            }
            Ok(taken)
        };
        claim(self, taking).await
    }
}

impl fmt::Debug for PostgresQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresQueue")
            .field("database", &self.shared.database)
            .finish_non_exhaustive()
    }
}

/// Reads the envelopes in the order in which they are to be handled, and the microseconds until the next is due.
fn read(
    rows: &[PgRow],
    queue: &str,
    asked: Instant,
    lease: Duration,
) -> sqlx::Result<(Vec<Taken>, u64)> {
    let mut taken = Vec::with_capacity(rows.len());
    let mut wait = u64::MAX;
    for row in rows {
        let Some(place) = row.try_get(0)? else {
            let next: Option<i64> = row.try_get(5)?;
            wait = next.map_or(u64::MAX, |next| u64::try_from(next).unwrap_or(0));
            continue;
        };
        let token = row.try_get(1)?;
        taken.push(Taken::new(
            row.try_get::<&str, _>(3)?,
            statement::value(row.try_get(4)?)?,
            row.try_get::<i32, _>(2)?.unsigned_abs(),
            asked + lease.min(clock::LONGEST),
            Held { place, token }.receipt(queue),
        ));
    }
    Ok((taken, wait))
}

/// An envelope to be added.
pub(super) struct Addition(Envelope);

impl Call for Addition {
    type Answer = Enqueued;
    type Key = (Arc<str>, Arc<str>);

    /// The server refuses to add and to change a row in one statement.
    fn key(&self) -> Option<Self::Key> {
        Some((self.0.queue.clone(), self.0.id.clone()))
    }

    fn size(&self) -> usize {
        self.0.queue.len() + self.0.id.len() + self.0.payload.len()
    }

    fn statement(calls: &[Self], database: &Database, _: Option<&str>) -> Statement {
        let envelopes = || calls.iter().map(|call| &call.0);
        Statement::write(format!(
            "SELECT {}.enqueue({}, {}, {}, {}, {}, {}, {})",
            database.schema(),
            database.lock_timeout(),
            array("text", envelopes().map(|it| text(&it.queue))),
            array("text", envelopes().map(|it| text(&it.id))),
            array("bytea", envelopes().map(|it| bytes(&it.payload))),
            numbers(
                "smallint",
                envelopes().map(|it| level(it.priority).to_string())
            ),
            numbers(
                "bigint",
                envelopes().map(|it| microseconds(it.delay).to_string())
            ),
            microseconds(database.settings().deduplication_window)
        ))
    }

    fn answers(calls: &[Self], rows: &[PgRow]) -> sqlx::Result<Vec<Enqueued>> {
        let mut answers = vec![Enqueued::Duplicate; calls.len()];
        for row in rows {
            // The numbers start at one.
            let number = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
            if let Some(answer) = answers.get_mut(number.wrapping_sub(1)) {
                *answer = Enqueued::Added;
            }
        }
        Ok(answers)
    }

    fn announce(calls: &[Self], rows: &[PgRow], announcements: &Arc<Announcements>) {
        if rows.is_empty() {
            return;
        }
        let queues: HashSet<&str> = calls.iter().map(|call| &*call.0.queue).collect();
        announcements.announce(queues.into_iter().map(Topic::queue));
    }
}

pub(super) fn level(priority: Priority) -> u8 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

impl Queue for PostgresQueue {
    fn capabilities(&self) -> Capabilities {
        let settings = self.shared.database.settings();
        Capabilities::new(settings.max_envelope_bytes, settings.deduplication_window)
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
            self.shared.notices.start();
            let wakes = self.shared.notices.wakes();
            let mut waiting = wakes.subscribe(Topic::queue(queue));
            let next = Arc::new(AtomicU64::new(u64::MAX));
            loop {
                // Marked before the look, so that an envelope that is enqueued meanwhile causes another one.
                waiting.mark_unchanged();
                let taken = self.claim(queue, limit.max(1), lease, &next).await?;
                if !taken.is_empty() {
                    return Ok(taken);
                }
                let next = Duration::from_micros(next.load(Ordering::SeqCst));
                let wait = next.max(SHORTEST_PAUSE).min(wakes.pause());
                // Resolves after the pause or when a process makes an envelope due.
                let _ = timeout(wait, waiting.changed()).await;
            }
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let Some((held, _)) = Held::parse(receipt) else {
                return Ok(false);
            };
            self.shared.renewals.call(Renewal { held, lease }).await
        })
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let Some((held, queue)) = Held::parse(receipt) else {
                return Ok(false);
            };
            let after = match outcome {
                Outcome::Retry { after } => Some(after),
                Outcome::Done | Outcome::GiveUp => None,
            };
            let queue = queue.to_owned();
            self.shared
                .settlements
                .call(Settlement { held, queue, after })
                .await
        })
    }
}
