use super::connection::{Connection, Stored};
use super::leases::{Number, State, known};
use super::scan::{Scan, Scanned};
use super::{observe, store};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use std::sync::Weak;
use std::time::Duration;
use tokio::time::sleep;
use tower_promises_backend::BackendError;

/// Deletes expired messages from the streams, in turns with the other processes, until all adapters of the connection
/// are dropped.
pub(super) async fn sweep(connection: Weak<Connection>, interval: Duration) {
    loop {
        sleep(interval).await;
        let Some(connection) = connection.upgrade() else {
            return;
        };
        let turn = Turn {
            connection: &connection,
        };
        if let Err(error) = turn.take().await {
            observe::sweep_failed(&error);
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// Expired values, and markers of deletions.
    Values,
    /// The records of envelopes that have ended.
    Leases,
}

struct Turn<'a> {
    connection: &'a Connection,
}

impl Turn<'_> {
    async fn take(&self) -> Result<(), BackendError> {
        if self.connection.in_time(|| self.is_our_turn()).await? {
            self.delete(Kind::Values).await?;
            self.delete(Kind::Leases).await?;
        }
        Ok(())
    }

    /// Whether no other process has swept in this interval. A record stores the time of the last sweep.
    async fn is_our_turn(&self) -> Result<bool, BackendError> {
        let subject = self.turns();
        let leases = &self.connection.streams().leases;
        let last = self.connection.last(leases, &subject).await?;
        let clock = self.connection.clock();
        let interval = self.connection.settings().sweep_interval;
        // All processes sleep for the same interval, so a turn is early only within half of it.
        let is_early = |last: &Stored| !clock.left(last.time, interval / 2).is_zero();
        if last.as_ref().is_some_and(is_early) {
            return Ok(false);
        }
        let last = last.map_or(0, |last| last.sequence);
        let message = PublishMessage::build().expected_last_subject_sequence(last);
        Ok(self.connection.publish(&subject, message).await?.is_some())
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
            // Watchers may still read the message for a while.
            Kind::Values => store::is_over(stored, grace, self.connection).await,
            Kind::Leases => {
                // A worker that was suspended may still have to detect that its lease has ended.
                let young = self.connection.left(stored.time, grace);
                let token = subject.rsplit('.').next();
                let message = token.and_then(Number::read);
                // The first version named a record by the sequence alone. Only the sweep reads such records.
                let is_old = token.is_some_and(|token| token.parse::<u64>().is_ok());
                if message.is_none() && !is_old {
                    // The record of a turn, or of the clock.
                    return Ok(false);
                }
                if !young.await?.is_zero() {
                    return Ok(false);
                }
                let known = known(stored)?;
                let is_over = known.record.state == State::Ended
                    || known.left(self.connection).await?.is_zero();
                if !is_over {
                    return Ok(false);
                }
                let Some(message) = message else {
                    return Ok(true);
                };
                let is_there = self.has_envelope(message).await?;
                if is_there && known.record.state == State::Ended {
                    // A server that was killed may have restored a message whose acknowledgement it had counted.
                    let envelopes = &self.connection.streams().envelopes;
                    let delete = || async {
                        // The acknowledgement may have deleted the message meanwhile.
                        let _ = envelopes.delete_message(message.sequence).await;
                        Ok(())
                    };
                    self.connection.in_time(delete).await?;
                }
                // While the message exists, the record must exist too: without the record, the message would be
                // delivered again.
                Ok(!is_there)
            }
        }
    }

    /// Whether the message exists, and its sequence does not belong to another message.
    async fn has_envelope(&self, message: Number) -> Result<bool, BackendError> {
        let read = || async {
            let envelopes = &self.connection.streams().envelopes;
            match envelopes.get_raw_message(message.sequence).await {
                Ok(found) => Ok(Number::new(found.sequence, found.time.into()) == message),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
                Err(error) => Err(BackendError::unavailable(error)),
            }
        };
        self.connection.in_time(read).await
    }

    /// Reads all messages of a stream and deletes the expired ones by their sequences, so that a message that replaces
    /// an expired one at the same time stays.
    async fn delete(&self, kind: Kind) -> Result<(), BackendError> {
        let (stream, headers_only) = match kind {
            Kind::Values => (&self.connection.streams().values, true),
            Kind::Leases => (&self.connection.streams().leases, false),
        };
        let mut scan = Scan::begin(self.connection, stream, None, headers_only, 0).await?;
        while let Some(Scanned { subject, stored }) = scan.next().await? {
            if self.is_over(kind, &stored, &subject).await? {
                let delete = || async {
                    // Another process may have deleted or replaced the message.
                    let _ = stream.delete_message(stored.sequence).await;
                    Ok(())
                };
                self.connection.in_time(delete).await?;
            }
        }
        Ok(())
    }
}
