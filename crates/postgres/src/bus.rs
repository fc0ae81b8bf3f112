use super::announcements::Announcements;
use super::batches::{Batches, Call};
use super::database::Database;
use super::feed::{Feed, Heard, Table};
use super::statement::{self, Statement, array, bytes, text};
use super::wakes::Topic;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use tower_promises_backend::kit::limits::check_size;
use tower_promises_backend::{BackendError, Bus, BusEvent, BusStream, check_name};

/// A [`Bus`] between the processes that share a schema. [`PostgresDatabase`](super::PostgresDatabase) creates it.
///
/// A message is a row, which is written only while a process listens, and read once by each process that does. A
/// notification tells the processes that there is a message, so a message may be as large as the
/// [limit](super::PostgresBuilder::max_message_bytes) says.
#[derive(Clone)]
pub struct PostgresBus {
    database: Arc<Database>,
    messages: Arc<Feed<Messages>>,
    publications: Arc<Batches<Publication>>,
}

impl PostgresBus {
    pub(super) fn new(
        database: Arc<Database>,
        messages: Arc<Feed<Messages>>,
        publications: Arc<Batches<Publication>>,
    ) -> Self {
        Self {
            database,
            messages,
            publications,
        }
    }
}

impl fmt::Debug for PostgresBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBus")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// The table of messages.
pub(super) struct Messages;

impl Table for Messages {
    type Item = (Arc<str>, Bytes);

    const NAME: &'static str = "messages";

    fn topic() -> Topic {
        Topic::messages()
    }

    fn item(_: i64, name: &str, value: Option<&str>) -> sqlx::Result<Self::Item> {
        Ok((name.into(), statement::value(value.unwrap_or_default())?))
    }
}

/// A message to be published.
pub(super) struct Publication {
    topic: String,
    payload: Bytes,
}

impl Call for Publication {
    type Answer = ();
    type Key = Infallible;

    fn key(&self) -> Option<Infallible> {
        None
    }

    fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }

    /// Messages need not survive a crash, so the commit waits neither for the disk nor for a replica.
    fn statement(calls: &[Self], database: &Database, channel: Option<&str>) -> Statement {
        Statement::write(format!(
            "SELECT set_config('synchronous_commit', 'off', true), {}.publish({}, {}, {})",
            database.schema(),
            array("text", calls.iter().map(|call| text(&call.topic))),
            array("bytea", calls.iter().map(|call| bytes(&call.payload))),
            channel.map_or_else(|| "NULL".to_owned(), text)
        ))
    }

    fn answers(calls: &[Self], _: &[PgRow]) -> sqlx::Result<Vec<()>> {
        Ok(vec![(); calls.len()])
    }

    /// The function of the database notifies other processes, with the commit, which does not wait for the disk.
    fn announce(_: &[Self], _: &[PgRow], announcements: &Arc<Announcements>) {
        announcements.wakes().wake(&Topic::messages());
    }
}

impl Bus for PostgresBus {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            check_name(topic)?;
            check_size(payload.len(), self.database.settings().max_message_bytes)?;
            let topic = topic.to_owned();
            self.publications.call(Publication { topic, payload }).await
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        Box::pin(async {
            let messages = self.messages.subscribe().await?;
            let events = messages.map(|heard| {
                Ok(match heard? {
                    Heard::Item((topic, payload)) => BusEvent::Message { topic, payload },
                    Heard::Lagged(missed) => BusEvent::Lagged(missed),
                })
            });
            Ok(events.boxed())
        })
    }
}
