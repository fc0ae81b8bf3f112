//! New rows of a table, for all listeners of a process. One task polls while there are listeners.

use super::connections::Connections;
use futures_util::{Stream, stream};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, query, query_scalar};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The number of rows that are read at once.
const BATCH: i64 = 64;

/// How long rows are written for a process that shows no sign of life, in milliseconds, and how often a process with
/// listeners shows one. After a process was stopped for longer, the table has a row that tells its listeners.
const KEPT: i64 = 60_000;
const KEEP_INTERVAL: Duration = Duration::from_secs(20);

/// A table whose rows have consecutive numbers, in the order of their commits. SQLite has one writer at a time, so no
/// row appears with a lower number than a row that has been read.
pub(super) trait Table: Send + Sync + 'static {
    /// The contents of a row.
    type Item: Clone + Send + Sync + 'static;

    /// A statement for the number of the last row so far.
    const LAST: &'static str;

    /// A statement for up to `?2` rows after number `?1`. Their first column is the number.
    const AFTER: &'static str;

    /// A statement that has rows written for the next `?1` milliseconds. `None` if they are always written.
    const KEEP: Option<&'static str> = None;

    /// Reads a row.
    fn item(row: &SqliteRow) -> sqlx::Result<Self::Item>;
}

/// An event for a listener.
pub(super) enum Heard<T> {
    Item(T),
    /// The number of missing rows.
    Lagged(u64),
}

pub(super) struct Feed<T: Table> {
    connections: Arc<Connections>,
    /// The number of rows that are buffered for a listener that falls behind.
    capacity: usize,
    /// The sender of the task, while it runs.
    running: Mutex<Option<Sender<T>>>,
    /// Notifies the task of new rows of this process, so that it need not wait for the next poll.
    written: watch::Sender<()>,
}

/// A row with its number, or the error that ends the feed.
type Event<T> = Result<(i64, <T as Table>::Item), BackendError>;

type Sender<T> = broadcast::Sender<Event<T>>;

impl<T: Table> Feed<T> {
    pub(super) fn new(connections: Arc<Connections>, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            connections,
            capacity,
            running: Mutex::new(None),
            written: watch::Sender::new(()),
        })
    }

    /// Wakes the task after this process has written rows.
    pub(super) fn wake(&self) {
        self.written.send_replace(());
    }

    /// Has rows written for a while.
    async fn keep(&self) -> Result<(), BackendError> {
        if let Some(keep) = T::KEEP {
            self.connections.write(query(keep).bind(KEPT)).await?;
        }
        Ok(())
    }

    /// Returns a stream of all rows that are committed after the future has resolved.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
    ) -> Result<
        impl Stream<Item = Result<Heard<T::Item>, BackendError>> + Send + use<T>,
        BackendError,
    > {
        self.keep().await?;
        let start = self.connections.read_number(T::LAST).await?;
        let events = self.join(start)?;
        // The task may have been running before, so its next rows may be older than this call.
        let last = self.connections.read_number(T::LAST).await?;
        let listener = Listener::<T> {
            events,
            last,
            next: None,
        };
        Ok(stream::unfold(Some(listener), async |listener| {
            let mut listener = listener?;
            let heard = listener.hear().await?;
            let goes_on = heard.is_ok();
            Some((heard, goes_on.then_some(listener)))
        }))
    }

    /// Starts the task if it is not running, with the rows after `start`.
    fn join(self: &Arc<Self>, start: i64) -> Result<Events<T>, BackendError> {
        let runtime = Handle::try_current().map_err(BackendError::unavailable)?;
        let mut running = lock(&self.running);
        let receiver = if let Some(sender) = &*running {
            sender.subscribe()
        } else {
            let (sender, receiver) = broadcast::channel(self.capacity);
            *running = Some(sender.clone());
            // A runtime that is shutting down drops the task at once, which takes the lock.
            drop(running);
            let turn = Turn {
                feed: self.clone(),
                sender,
            };
            runtime.spawn(run(turn, start));
            receiver
        };
        Ok(Events {
            receiver,
            _wake: WakeOnDrop(self.clone()),
        })
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

    /// Sends all rows after `last`, until there are no listeners.
    async fn follow(&self, sender: &Sender<T>, mut last: i64) -> Result<(), BackendError> {
        let database = self.connections.database();
        let mut written = self.written.subscribe();
        let mut connection = database.connect_reader().await?;
        let mut version = None;
        let mut kept = Instant::now();
        while !self.is_over(sender) {
            database.check_file()?;
            if T::KEEP.is_some() && kept.elapsed() >= KEEP_INTERVAL {
                match self.keep().await {
                    Ok(()) => kept = Instant::now(),
                    // There is time for another attempt.
                    Err(BackendError::TimedOut { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            // Marked before the rows are read, so that a commit in between causes another round.
            written.mark_unchanged();
            let present = query_scalar("PRAGMA data_version");
            let present = present.fetch_one(&mut connection).await;
            let present: i64 = present.map_err(|error| database.error(error))?;
            if version != Some(present) {
                if version.is_some() {
                    database.mark_active();
                }
                version = Some(present);
                self.tell(sender, &mut connection, &mut last).await?;
            }
            // Resolves after the pause or after a write of this process.
            let _ = timeout(database.pause(), written.changed()).await;
        }
        Ok(())
    }

    async fn tell(
        &self,
        sender: &Sender<T>,
        connection: &mut SqliteConnection,
        last: &mut i64,
    ) -> Result<(), BackendError> {
        loop {
            let rows = query(T::AFTER).bind(*last).bind(BATCH);
            let rows = rows.fetch_all(&mut *connection).await;
            let rows = rows.map_err(|error| self.connections.database().error(error))?;
            let is_last_batch = rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX);
            for row in rows {
                let read = row
                    .try_get(0)
                    .and_then(|number: i64| Ok((number, T::item(&row)?)));
                let (number, item) =
                    read.map_err(|error| self.connections.database().error(error))?;
                *last = number;
                // Sending fails if there are no listeners, which the next round detects.
                let _ = sender.send(Ok((number, item)));
            }
            if is_last_batch {
                return Ok(());
            }
        }
    }
}

impl<T: Table> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

async fn run<T: Table>(turn: Turn<T>, start: i64) {
    let sender = turn.sender.clone();
    let end = turn.feed.follow(&sender, start).await;
    // Cleared before the error is sent, so that a listener that subscribes again starts a new task.
    drop(turn);
    if let Err(error) = end {
        let _ = sender.send(Err(error));
    }
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
    _wake: WakeOnDrop<T>,
}

struct WakeOnDrop<T: Table>(Arc<Feed<T>>);

impl<T: Table> Drop for WakeOnDrop<T> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

struct Listener<T: Table> {
    events: Events<T>,
    /// The number of the last received row.
    last: i64,
    /// A row to return after [`Heard::Lagged`].
    next: Option<T::Item>,
}

impl<T: Table> Listener<T> {
    async fn hear(&mut self) -> Option<Result<Heard<T::Item>, BackendError>> {
        if let Some(item) = self.next.take() {
            return Some(Ok(Heard::Item(item)));
        }
        loop {
            let (number, item) = match self.events.receiver.recv().await {
                Ok(Ok(row)) => row,
                Ok(Err(error)) => return Some(Err(error)),
                // The number of the next row tells how many are missing, in this channel or in the table.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return None,
            };
            let missing = number.saturating_sub(self.last).saturating_sub(1);
            let Ok(missing) = u64::try_from(missing) else {
                // The row is older than the subscription.
                continue;
            };
            self.last = number;
            if missing == 0 {
                return Some(Ok(Heard::Item(item)));
            }
            self.next = Some(item);
            return Some(Ok(Heard::Lagged(missing)));
        }
    }
}
