use super::builder::Settings;
use super::connections::Connections;
use super::feed::{Feed, Heard, Table};
use super::writer::Statement;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, query};
use std::sync::Arc;
use tower_promises_backend::kit::limits::check_size;
use tower_promises_backend::{BackendError, Bus, BusEvent, BusStream, check_name};

/// A [`Bus`] between the processes that open one file. [`SqliteDatabase`](super::SqliteDatabase) creates it.
///
/// Messages of this process arrive at once, messages of other processes with the next
/// [poll](super::SqliteBuilder::poll_interval). All listeners receive all messages in the same order. Each message is
/// written to the file once, and read once by each process, regardless of the number of listeners.
#[derive(Clone, Debug)]
pub struct SqliteBus {
    connections: Arc<Connections>,
    messages: Arc<Feed<Messages>>,
}

impl SqliteBus {
    pub(super) fn new(connections: Arc<Connections>, messages: Arc<Feed<Messages>>) -> Self {
        Self {
            connections,
            messages,
        }
    }
}

/// The table of messages.
pub(super) struct Messages;

impl Table for Messages {
    type Item = (Arc<str>, Bytes);

    const LAST: &'static str = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'promises_bus_messages'), 0)";

    const AFTER: &'static str =
        "SELECT id, topic, payload FROM promises_bus_messages WHERE id > ?1 ORDER BY id LIMIT ?2";

    fn item(row: &SqliteRow) -> sqlx::Result<Self::Item> {
        let topic: &str = row.try_get(1)?;
        let payload: Vec<u8> = row.try_get(2)?;
        Ok((topic.into(), payload.into()))
    }
}

const PUBLISH: &str = "INSERT INTO promises_bus_messages (topic, payload, published)
    SELECT ?1, ?2, milliseconds FROM promises_now";

/// Builds a statement that publishes a message.
pub(super) fn publish(
    settings: &Settings,
    topic: &str,
    payload: Bytes,
) -> Result<Statement, BackendError> {
    check_name(topic)?;
    check_size(payload.len(), settings.max_message_bytes)?;
    Ok(query(PUBLISH)
        .bind(topic.to_owned())
        .bind(Vec::from(payload)))
}

impl Bus for SqliteBus {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let settings = self.connections.database().settings();
            let insert = publish(settings, topic, payload)?;
            self.connections.write(insert).await?;
            self.messages.wake();
            Ok(())
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
