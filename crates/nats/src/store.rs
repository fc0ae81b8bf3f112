use super::connection::{Connection, Stored};
use super::feed::{Event, Feed};
use super::revisions::Revisions;
use super::scan::{LOOKS, Scan, Scanned};
use super::streams::{incarnation, incarnation_of};
use super::{names, time};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tower_promises_backend::kit::limits::{check_size, page_limit};
use tower_promises_backend::{
    BackendError, Change, CompareAndSet, Entry, Listed, Page, Revision, Store, WatchStream,
    check_name, check_prefix,
};

/// The number of messages that are read for one page.
const MAX_SCANNED: usize = 10_000;

/// The header of a deletion, as in the key-value stores of NATS.
const OPERATION: &str = "KV-Operation";
const DELETED: &str = "DEL";

/// The header for a time to live in milliseconds.
const TIME_TO_LIVE: &str = "Tower-Promises-Time-To-Live";

/// A [`Store`] for the machines that are connected to one server or cluster. [`NatsBackend`](super::NatsBackend)
/// creates it.
///
/// Each key is a subject of a JetStream stream, which stores the last message of each subject. Revisions are the
/// sequences of the stream, so they number the changes of all keys. A time to live starts when the server has stored
/// the value, and ends by the [clock of the server](super#clocks). An expired value is absent at once. A
/// [sweep](super::NatsBuilder::sweep_interval) deletes it from the server.
///
/// Lists are in the order of the last changes, and pass all keys of the store: a page reads at most 10,000 of them. At its
/// end, a list asks the server for changes that have come meanwhile, at most 64 times: on a store that changes in each
/// round trip, a value that is replaced all the time may be missing.
///
/// The server publishes each change after storing it. A watcher detects missing changes by their sequences, and reports
/// them when the next change arrives. In a cluster, a change may be lost when a stream gets a new leader.
#[derive(Clone, Debug)]
pub struct NatsStore {
    connection: Arc<Connection>,
    revisions: Arc<Revisions>,
    changes: Arc<Feed<(Place, Change)>>,
}

/// The position of a change among all changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Distinguishes streams of the same name: a stream that was lost and created again is another one.
    incarnation: u64,
    sequence: u64,
}

impl NatsStore {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let subject = format!("{}.changes.>", connection.settings().prefix);
        let capacity = connection.settings().watch_capacity;
        Self {
            changes: Feed::new(connection.clone(), subject, capacity, read_change),
            connection,
            revisions: Arc::default(),
        }
    }

    fn subject(&self, key: &str) -> Result<String, BackendError> {
        check_name(key)?;
        let prefix = &self.connection.settings().prefix;
        Ok(format!("{prefix}.store.{}", names::token(key)))
    }

    /// The last sequence of a key, zero if it has none, and its value.
    async fn read(&self, subject: &str) -> Result<(u64, Option<Entry>), BackendError> {
        let stream = &self.connection.streams().values;
        let Some(stored) = self.connection.last(stream, subject).await? else {
            return Ok((0, None));
        };
        let sequence = stored.sequence;
        if is_over(&stored, Duration::ZERO, &self.connection).await? {
            return Ok((sequence, None));
        }
        let revision = Revision::new(sequence);
        let time_to_live = time::header(&stored.headers, TIME_TO_LIVE);
        self.revisions.remember(revision, stored.time, time_to_live);
        let value = stored.payload;
        Ok((sequence, Some(Entry::new(value, revision))))
    }

    /// Reads a page, in the order of the last changes. All keys are in one stream, so those without the prefix are
    /// passed, too.
    async fn page(
        &self,
        prefix: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page, BackendError> {
        let stream = &self.connection.streams().values;
        let mut scan = Scan::begin(&self.connection, stream, after, false, LOOKS).await?;
        let (mut entries, mut last) = (Vec::new(), 0);
        for _ in 0..MAX_SCANNED {
            let Some(Scanned { subject, stored }) = scan.next().await? else {
                return Ok(Page::new(entries, None));
            };
            last = stored.sequence;
            let key = names::last_name(&subject).filter(|key| key.starts_with(prefix));
            let Some(key) = key else {
                continue;
            };
            if is_over(&stored, Duration::ZERO, &self.connection).await? {
                continue;
            }
            let entry = Entry::new(stored.payload, Revision::new(last));
            entries.push(Listed::new(key.into(), entry, last.to_string().into()));
            if entries.len() == limit {
                break;
            }
        }
        Ok(Page::new(entries, Some(last.to_string().into())))
    }

    /// Builds a message that sets a value.
    fn value(
        &self,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> Result<PublishMessage, BackendError> {
        let limit = self
            .connection
            .limit(self.connection.settings().max_value_bytes);
        check_size(value.len(), limit)?;
        let message = PublishMessage::build().payload(value);
        Ok(match time_to_live {
            Some(time) => message.header(TIME_TO_LIVE, time::milliseconds(time).to_string()),
            None => message,
        })
    }

    async fn compare(
        &self,
        subject: &str,
        expected: Option<Revision>,
        message: &PublishMessage,
    ) -> Result<CompareAndSet, BackendError> {
        // Usually no read is needed first: a key that is expected to be absent has never existed, and an expected
        // revision was just read.
        let mut guess = match expected {
            None => Some(0),
            Some(revision) => self
                .revisions
                .is_alive(revision, self.connection.clock())
                .then(|| revision.get()),
        };
        loop {
            let last = match guess.take() {
                Some(last) => last,
                None => {
                    let (last, entry) = self.read(subject).await?;
                    if entry.map(|entry| entry.revision) != expected {
                        return Ok(CompareAndSet::Conflict);
                    }
                    last
                }
            };
            let message = message.clone().expected_last_subject_sequence(last);
            if let Some(stored) = self.connection.publish(subject, message).await? {
                return Ok(CompareAndSet::Set(Revision::new(stored.sequence)));
            }
            // Another change came first. If a sweep made it, the key is still absent.
        }
    }

    async fn remove(&self, subject: &str) -> Result<bool, BackendError> {
        loop {
            let (last, entry) = self.read(subject).await?;
            if entry.is_none() {
                return Ok(false);
            }
            let message = PublishMessage::build()
                .header(OPERATION, DELETED)
                .expected_last_subject_sequence(last);
            if self.connection.publish(subject, message).await?.is_some() {
                return Ok(true);
            }
        }
    }

    /// The place of the last change.
    async fn last_place(&self) -> Result<Place, BackendError> {
        let info = self.connection.streams().values.get_info().await;
        let info = info.map_err(BackendError::unavailable)?;
        Ok(Place {
            incarnation: incarnation_of(&info),
            sequence: info.state.last_sequence,
        })
    }
}

/// Whether a message means that its key is absent, and has been for at least `since`.
pub(super) async fn is_over(
    stored: &Stored,
    since: Duration,
    connection: &Connection,
) -> Result<bool, BackendError> {
    let time = if is_deletion(&stored.headers) {
        if since.is_zero() {
            // A deletion is absent at any time.
            return Ok(true);
        }
        Some(Duration::ZERO)
    } else {
        time::header(&stored.headers, TIME_TO_LIVE)
    };
    let Some(time) = time else {
        return Ok(false);
    };
    let left = connection.left(stored.time, time.saturating_add(since));
    Ok(left.await?.is_zero())
}

fn is_deletion(headers: &HeaderMap) -> bool {
    headers
        .get(OPERATION)
        .is_some_and(|operation| operation.as_str() == DELETED)
}

/// Reads a change that the server has stored and published, and its place.
fn read_change(message: Message) -> Option<(Place, Change)> {
    let key = names::last_name(&message.subject)?.into();
    let incarnation = incarnation(&message.subject);
    let headers = message.headers?;
    let sequence = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
    let revision = Revision::new(sequence);
    let change = if is_deletion(&headers) {
        Change::Deleted { key, revision }
    } else {
        let entry = Entry::new(message.payload, revision);
        Change::Put { key, entry }
    };
    let place = Place {
        incarnation,
        sequence,
    };
    Some((place, change))
}

impl Store for NatsStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async move {
            let subject = self.subject(key)?;
            let (_, entry) = self.connection.in_time(|| self.read(&subject)).await?;
            Ok(entry)
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(async move {
            let (subject, message) = (self.subject(key)?, self.value(value, time_to_live)?);
            let put = || self.connection.publish(&subject, message.clone());
            match self.connection.in_time(put).await? {
                Some(stored) => Ok(Revision::new(stored.sequence)),
                None => Err(BackendError::unavailable(
                    "the server has not set the value",
                )),
            }
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
            let (subject, message) = (self.subject(key)?, self.value(value, time_to_live)?);
            let compare = || self.compare(&subject, expected, &message);
            self.connection.in_time(compare).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let subject = self.subject(key)?;
            self.connection.in_time(|| self.remove(&subject)).await
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
            let after = after.map(str::parse).transpose().map_err(|_| {
                BackendError::invalid_name("it is not a position in a list of this store")
            })?;
            self.page(prefix, after, page_limit(limit)).await
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        Box::pin(async move {
            check_prefix(prefix)?;
            let join = || async {
                let changes = self.changes.join().await?;
                // The answer also is the round trip after which the subscription is active.
                let last = self.last_place().await?;
                Ok((changes, last))
            };
            let (changes, last) = self.connection.in_time(join).await?;
            let watcher = Watcher {
                changes,
                last,
                next: None,
                prefix: prefix.into(),
            };
            let changes = stream::unfold(Some(watcher), async |watcher| {
                let mut watcher = watcher?;
                let seen = watcher.see().await?;
                let goes_on = seen.is_ok();
                Some((seen, goes_on.then_some(watcher)))
            });
            Ok(changes.boxed())
        })
    }
}

/// Receives the changes of all keys, because only the complete sequence shows whether changes are missing.
struct Watcher {
    changes: Receiver<Event<(Place, Change)>>,
    /// The place of the last received change.
    last: Place,
    /// A change to return after [`Change::Lagged`].
    next: Option<Change>,
    prefix: Arc<str>,
}

impl Watcher {
    async fn see(&mut self) -> Option<Event<Change>> {
        if let Some(change) = self.next.take() {
            return Some(Ok(change));
        }
        loop {
            let (place, change) = match self.changes.recv().await {
                Ok(Ok(change)) => change,
                Ok(Err(error)) => return Some(Err(error)),
                // The sequence of the next change tells how many are missing, in this channel or on the network.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return None,
            };
            let missing = if place.incarnation != self.last.incarnation {
                // The values are lost with the stream. The number of changes meanwhile is unknown.
                1
            } else if place.sequence <= self.last.sequence {
                // The change is older than the watch.
                continue;
            } else {
                place.sequence - self.last.sequence - 1
            };
            self.last = place;
            let concerns = match &change {
                Change::Put { key, .. } | Change::Deleted { key, .. } => {
                    key.starts_with(&*self.prefix)
                }
                // A gap, or a change without a key.
                _ => true,
            };
            if missing > 0 {
                self.next = concerns.then_some(change);
                return Some(Ok(Change::Lagged(missing)));
            }
            if concerns {
                return Some(Ok(change));
            }
        }
    }
}
