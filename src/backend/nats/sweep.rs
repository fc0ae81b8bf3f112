use super::connection::{Connection, Stored};
use super::leases::{State, known};
use super::{observe, store, time};
use crate::backend::BackendError;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures_util::StreamExt;
use std::sync::Weak;
use std::time::{Duration, SystemTime};
use tokio::time::sleep;

/// Deletes what is over from the streams, in turns with the other processes.
pub(super) struct Sweep {
    values: Stream,
    envelopes: Stream,
    leases: Stream,
}

impl Sweep {
    pub(super) fn new(values: &Stream, envelopes: &Stream, leases: &Stream) -> Self {
        Self {
            values: values.clone(),
            envelopes: envelopes.clone(),
            leases: leases.clone(),
        }
    }

    /// Sweeps again and again, until nobody has the connection any more.
    pub(super) async fn run(self, connection: Weak<Connection>, interval: Duration) {
        loop {
            sleep(interval).await;
            let Some(connection) = connection.upgrade() else {
                return;
            };
            let turn = Turn {
                sweep: &self,
                connection: &connection,
            };
            if let Err(error) = turn.take().await {
                observe::sweep_failed(&error);
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// Values that have expired, and the marks of deletions.
    Values,
    /// The records of envelopes that have ended.
    Leases,
}

struct Turn<'a> {
    sweep: &'a Sweep,
    connection: &'a Connection,
}

impl Turn<'_> {
    async fn take(&self) -> Result<(), BackendError> {
        if self.connection.in_time(self.is_our_turn()).await? {
            self.delete(Kind::Values).await?;
            self.delete(Kind::Leases).await?;
        }
        Ok(())
    }

    /// Whether nobody else has swept in this interval. A record of the last time says so.
    async fn is_our_turn(&self) -> Result<bool, BackendError> {
        let subject = self.turns();
        let last = self.connection.last(&self.sweep.leases, &subject).await?;
        let interval = self.connection.settings().sweep_interval;
        // Somewhat less: the others wait as long as this one.
        let is_early = |last: &Stored| !time::left(last.time, interval / 2).is_zero();
        if last.as_ref().is_some_and(is_early) {
            return Ok(false);
        }
        let last = last.map_or(0, |last| last.sequence);
        let message = PublishMessage::build().expected_last_subject_sequence(last);
        Ok(self.connection.publish(subject, message).await?.is_some())
    }

    fn turns(&self) -> String {
        format!("{}.leases.sweep", self.connection.settings().prefix)
    }

    async fn is_over(
        &self,
        kind: Kind,
        stored: &Stored,
        subject: &str,
    ) -> Result<bool, BackendError> {
        let grace = self.connection.settings().sweep_interval;
        match kind {
            // Watchers, and machines whose clocks are behind, may still look at it for a while.
            Kind::Values => Ok(store::is_over(stored, grace)),
            Kind::Leases => {
                // A worker that stands still may have yet to find out.
                let is_young = !time::left(stored.time, grace).is_zero();
                if is_young || subject == self.turns() {
                    return Ok(false);
                }
                let ended = known(stored)?.record.state == State::Ended;
                let sequence = subject.rsplit('.').next().and_then(|it| it.parse().ok());
                match sequence {
                    // As long as the message is there, it would be delivered again without its record.
                    Some(sequence) if ended => Ok(!self.has_envelope(sequence).await?),
                    _ => Ok(false),
                }
            }
        }
    }

    async fn has_envelope(&self, sequence: u64) -> Result<bool, BackendError> {
        let read = async {
            match self.sweep.envelopes.get_raw_message(sequence).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
                Err(error) => Err(BackendError::unavailable(error)),
            }
        };
        self.connection.in_time(read).await
    }

    /// Reads all messages of a stream and deletes those that are over. By their sequence, so that what replaces
    /// them at the same time stays.
    async fn delete(&self, kind: Kind) -> Result<(), BackendError> {
        let (stream, headers_only) = match kind {
            Kind::Values => (&self.sweep.values, true),
            Kind::Leases => (&self.sweep.leases, false),
        };
        let open = async {
            let info = stream.get_info().await.map_err(BackendError::unavailable)?;
            if info.state.messages == 0 {
                return Ok(None);
            }
            let consumer = OrderedConfig {
                deliver_subject: self.connection.client().new_inbox(),
                headers_only,
                ..Default::default()
            };
            let consumer = stream.create_consumer(consumer).await;
            let consumer = consumer.map_err(BackendError::unavailable)?;
            let messages = consumer.messages().await;
            Ok(Some(messages.map_err(BackendError::unavailable)?))
        };
        let Some(mut messages) = self.connection.in_time(open).await? else {
            return Ok(());
        };
        loop {
            let next = async { Ok(messages.next().await) };
            let Some(message) = self.connection.in_time(next).await? else {
                return Ok(());
            };
            let message = message.map_err(BackendError::unavailable)?;
            let info = message.info().map_err(BackendError::unavailable)?;
            let (sequence, pending) = (info.stream_sequence, info.pending);
            let stored = Stored {
                sequence,
                time: SystemTime::from(info.published),
                headers: message.message.headers.unwrap_or_default(),
                payload: message.message.payload,
            };
            if self
                .is_over(kind, &stored, &message.message.subject)
                .await?
            {
                let delete = async {
                    // Another one may have deleted or replaced it.
                    let _ = stream.delete_message(sequence).await;
                    Ok(())
                };
                self.connection.in_time(delete).await?;
            }
            if pending == 0 {
                return Ok(());
            }
        }
    }
}
