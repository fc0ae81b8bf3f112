//! New rows of a table, for all listeners of a process. One task reads them while there are listeners.
//!
//! Rows are numbered by a sequence, but a transaction with a lower number may be committed later than one with a higher
//! number. So the task does not read the rows after a number. It reads the rows of all transactions that its previous
//! snapshot of the database did not see and the present one sees: each row once, however long its transaction took.

use super::database::Database;
use super::notices::Notices;
use super::snapshot::Snapshot;
use super::statement::{Statement, number, text};
use super::wakes::{Topic, Wakes};
use futures_util::{Stream, stream};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The number of rows that are read at once.
const BATCH: usize = 64;

/// A table of messages or changes.
pub(super) trait Table: Send + Sync + 'static {
    /// The contents of a row.
    type Item: Clone + Send + Sync + 'static;

    /// The name of the table, and of its feed.
    const NAME: &'static str;

    fn topic() -> Topic;

    /// Reads a row. The value is in hexadecimal digits.
    fn item(number: i64, name: &str, value: Option<&str>) -> sqlx::Result<Self::Item>;
}

/// An event for a listener.
pub(super) enum Heard<T> {
    Item(T),
    /// The smallest number of missing rows.
    Lagged(u64),
}

pub(super) struct Feed<T: Table> {
    database: Arc<Database>,
    notices: Arc<Notices>,
    /// The number of rows that are buffered for a listener that falls behind.
    capacity: usize,
    /// The sender of the task, while it runs.
    running: Mutex<Option<Sender<T>>>,
}

/// A row with its transaction, a gap, or the error that ends the feed.
type Event<T> = Result<Option<(u64, <T as Table>::Item)>, BackendError>;

type Sender<T> = broadcast::Sender<Event<T>>;

impl<T: Table> Feed<T> {
    pub(super) fn new(
        database: Arc<Database>,
        notices: Arc<Notices>,
        capacity: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            database,
            notices,
            capacity,
            running: Mutex::new(None),
        })
    }

    fn wakes(&self) -> &Arc<Wakes> {
        self.notices.wakes()
    }

    /// Returns a stream of all rows that are committed after the future has resolved.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
    ) -> Result<
        impl Stream<Item = Result<Heard<T::Item>, BackendError>> + Send + use<T>,
        BackendError,
    > {
        self.notices.start();
        let running = lock(&self.running).as_ref().map(Sender::<T>::subscribe);
        let events = match running {
            Some(receiver) => self.events(receiver),
            None => {
                let reader = self.register().await?;
                self.join(reader)?
            }
        };
        // Taken while this listener is subscribed and registered, so that later rows are written, and not older ones are
        // passed on.
        let seen = self.snapshot().await?;
        let listener = Listener::<T> { events, seen };
        Ok(stream::unfold(Some(listener), async |listener| {
            let mut listener = listener?;
            let heard = listener.hear().await?;
            let goes_on = heard.is_ok();
            Some((heard, goes_on.then_some(listener)))
        }))
    }

    /// Tells all processes that there is a listener. From then on, they write rows.
    async fn register(&self) -> Result<Reader<T>, BackendError> {
        let schema = self.database.schema();
        let insert = Statement::write(format!(
            "INSERT INTO {schema}.listeners (id, feed, seen)
            VALUES (gen_random_uuid(), {}, clock_timestamp()) RETURNING id::text",
            text(T::NAME)
        ));
        let rows = self.database.run(insert).await?;
        let id = self.read(rows.first(), |row| row.try_get(0))?;
        Ok(Reader {
            id,
            after: self.snapshot().await?,
            until: None,
            last: i64::MIN,
            table: PhantomData,
        })
    }

    async fn snapshot(&self) -> Result<Snapshot, BackendError> {
        let present = Statement::read("SELECT pg_current_snapshot()::text");
        let rows = self.database.run(present).await?;
        self.read(rows.first(), |row| snapshot(row, 0))
    }

    fn read<V>(
        &self,
        row: Option<&PgRow>,
        read: impl Fn(&PgRow) -> sqlx::Result<V>,
    ) -> Result<V, BackendError> {
        let value = row.ok_or(sqlx::Error::RowNotFound).and_then(read);
        value.map_err(|error| self.database.error(error))
    }

    /// Starts the task, unless another caller has just started it.
    fn join(self: &Arc<Self>, reader: Reader<T>) -> Result<Events<T>, BackendError> {
        let runtime = Handle::try_current().map_err(BackendError::unavailable)?;
        let mut running = lock(&self.running);
        if let Some(sender) = &*running {
            return Ok(self.events(sender.subscribe()));
        }
        let (sender, receiver) = broadcast::channel(self.capacity);
        *running = Some(sender.clone());
        // A runtime that is shutting down drops the task at once, which takes the lock.
        drop(running);
        let turn = Turn {
            feed: self.clone(),
            sender,
        };
        runtime.spawn(run(turn, reader));
        Ok(self.events(receiver))
    }

    fn events(&self, receiver: broadcast::Receiver<Event<T>>) -> Events<T> {
        Events {
            receiver,
            _wake: WakeOnDrop(self.wakes().clone(), T::topic()),
        }
    }

    /// Whether there are no listeners. If so, the next listener starts a new task.
    fn is_over(&self, sender: &Sender<T>) -> bool {
        let mut running = lock(&self.running);
        let is_over = sender.receiver_count() == 0;
        if is_over {
            *running = None;
        }
        is_over
    }

    /// Sends all rows, until there are no listeners.
    async fn follow(&self, sender: &Sender<T>, reader: &mut Reader<T>) -> Result<(), BackendError> {
        let mut waiting = self.wakes().subscribe(T::topic());
        while !self.is_over(sender) {
            // Marked before the rows are read, so that a commit in between causes another round.
            waiting.mark_unchanged();
            loop {
                let rows = self.database.run(reader.statement(&self.database)).await?;
                let page = reader.page(&rows);
                let page = page.map_err(|error| self.database.error(error))?;
                if !page.is_registered {
                    return Err(BackendError::unavailable(
                        "the server has lost what listeners have not received",
                    ));
                }
                if !page.events.is_empty() {
                    self.wakes().mark_active();
                }
                for event in page.events {
                    // Sending fails if there are no listeners, which the next round detects.
                    let _ = sender.send(Ok(event));
                }
                if page.is_last {
                    break;
                }
            }
            // Resolves after the pause or after a write.
            let _ = timeout(self.wakes().pause(), waiting.changed()).await;
        }
        Ok(())
    }
}

impl<T: Table> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// The place of the task in the table.
struct Reader<T> {
    /// Identifies the registration of this process.
    id: String,
    /// The snapshot whose rows have been read.
    after: Snapshot,
    /// The snapshot whose rows are being read, and the number of the last one that was read.
    until: Option<Snapshot>,
    last: i64,
    table: PhantomData<fn() -> T>,
}

/// Some of the rows of a snapshot.
struct Page<T: Table> {
    is_registered: bool,
    events: Vec<Option<(u64, T::Item)>>,
    is_last: bool,
}

impl<T: Table> Reader<T> {
    /// Reads the next rows, renews the registration if that is due, and asks whether rows were deleted too early.
    fn statement(&self, database: &Database) -> Statement {
        let (schema, table, id) = (database.schema(), T::NAME, text(&self.id));
        let after = text(&self.after.to_string());
        let until = self.until.as_ref();
        let until = until.map_or_else(|| "NULL".to_owned(), |until| text(&until.to_string()));
        let last = number(Some(self.last));
        // The registration is renewed again and again, so the statement may be executed twice.
        Statement::read(format!(
            "WITH renewed AS (
                UPDATE {schema}.listeners SET seen = clock_timestamp()
                WHERE id = {id} AND seen < clock_timestamp() - interval '15 seconds'
            ), state AS MATERIALIZED (
                SELECT coalesce({until}::pg_snapshot, pg_current_snapshot()) AS snapshot,
                    (SELECT seen FROM {schema}.listeners WHERE id = {id}) AS seen,
                    EXISTS (
                        SELECT FROM {schema}.horizons
                        WHERE feed = '{table}' AND transaction >= pg_snapshot_xmin({after}::pg_snapshot)
                    ) AS was_swept
            )
            SELECT state.snapshot::text, state.seen IS NOT NULL,
                state.was_swept OR coalesce(state.seen < clock_timestamp() - interval '1 minute', false),
                rows.number, rows.transaction::text::bigint, rows.name, encode(rows.value, 'hex')
            FROM state LEFT JOIN LATERAL (
                SELECT * FROM {schema}.{table}
                WHERE transaction >= pg_snapshot_xmin({after}::pg_snapshot)
                    AND NOT pg_visible_in_snapshot(transaction, {after}::pg_snapshot)
                    AND pg_visible_in_snapshot(transaction, state.snapshot)
                    AND number > {last}
                ORDER BY number LIMIT {BATCH}
            ) AS rows ON true
            ORDER BY rows.number"
        ))
    }

    fn page(&mut self, rows: &[PgRow]) -> sqlx::Result<Page<T>> {
        let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let (until, is_registered) = (snapshot(first, 0)?, first.try_get(1)?);
        let mut events = Vec::new();
        // Rows of the same snapshot are missing only once.
        if self.until.is_none() && first.try_get(2)? {
            events.push(None);
        }
        let mut found = 0;
        for row in rows {
            let Some(number) = row.try_get::<Option<i64>, _>(3)? else {
                break;
            };
            let transaction = row.try_get::<i64, _>(4)?.unsigned_abs();
            let item = T::item(number, row.try_get(5)?, row.try_get(6)?)?;
            events.push(Some((transaction, item)));
            self.last = number;
            found += 1;
        }
        let is_last = found < BATCH;
        if is_last {
            self.after = until;
            (self.until, self.last) = (None, i64::MIN);
        } else {
            self.until = Some(until);
        }
        Ok(Page {
            is_registered,
            events,
            is_last,
        })
    }
}

fn snapshot(row: &PgRow, column: usize) -> sqlx::Result<Snapshot> {
    let text: &str = row.try_get(column)?;
    Snapshot::parse(text).ok_or_else(|| sqlx::Error::Decode("it is no snapshot".into()))
}

async fn run<T: Table>(turn: Turn<T>, mut reader: Reader<T>) {
    let (feed, sender) = (turn.feed.clone(), turn.sender.clone());
    let end = feed.follow(&sender, &mut reader).await;
    // Cleared before the error is sent, so that a listener that subscribes again starts a new task.
    drop(turn);
    if let Err(error) = end {
        let _ = sender.send(Err(error));
    }
    let schema = feed.database.schema();
    let id = text(&reader.id);
    let delete = format!("DELETE FROM {schema}.listeners WHERE id = {id}");
    // A sweep deletes what stays.
    let _ = feed.database.run(Statement::write(delete)).await;
}

/// Clears the state of the feed when the task ends, also when its runtime shuts down.
struct Turn<T: Table> {
    feed: Arc<Feed<T>>,
    sender: Sender<T>,
}

impl<T: Table> Drop for Turn<T> {
    fn drop(&mut self) {
        let mut running = lock(&self.feed.running);
        if running
            .as_ref()
            .is_some_and(|it| it.same_channel(&self.sender))
        {
            *running = None;
        }
    }
}

/// The events of a listener. On drop, the listener unsubscribes and then wakes the task, which ends if there are no
/// other listeners.
struct Events<T: Table> {
    receiver: broadcast::Receiver<Event<T>>,
    _wake: WakeOnDrop,
}

struct WakeOnDrop(Arc<Wakes>, Topic);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake(&self.1);
    }
}

struct Listener<T: Table> {
    events: Events<T>,
    /// The snapshot of the subscription.
    seen: Snapshot,
}

impl<T: Table> Listener<T> {
    async fn hear(&mut self) -> Option<Result<Heard<T::Item>, BackendError>> {
        loop {
            return Some(Ok(match self.events.receiver.recv().await {
                // The row is older than the subscription.
                Ok(Ok(Some((transaction, _)))) if self.seen.sees(transaction) => continue,
                Ok(Ok(Some((_, item)))) => Heard::Item(item),
                Ok(Ok(None)) => Heard::Lagged(1),
                Ok(Err(error)) => return Some(Err(error)),
                Err(RecvError::Lagged(missed)) => Heard::Lagged(missed),
                Err(RecvError::Closed) => return None,
            }));
        }
    }
}
