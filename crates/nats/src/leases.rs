use super::connection::{Connection, Stored};
use super::time::{self, milliseconds_now};
use async_nats::jetstream::message::PublishMessage;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tower_promises_backend::{BackendError, Outcome, Receipt};

/// The leases of envelopes. A consumer of NATS cannot tell the acknowledgement of a worker whose lease has ended from
/// that of the present worker, so a record for each message decides instead. Each change of a record names the revision
/// that it replaces, so that one of two concurrent changes is refused.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    connection: Arc<Connection>,
}

/// Identifies a message in the stream of envelopes. A server that has lost the stream counts sequences from the start
/// again, so two messages can have the same sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) sequence: u64,
    /// The timestamp of the server, in nanoseconds since the epoch.
    pub(super) published: u64,
}

impl Number {
    pub(super) fn new(sequence: u64, published: SystemTime) -> Self {
        let published = published.duration_since(SystemTime::UNIX_EPOCH);
        // A time that does not fit is centuries away.
        let published = published.unwrap_or_default().as_nanos();
        Self {
            sequence,
            published: u64::try_from(published).unwrap_or(u64::MAX),
        }
    }

    /// Reads the token that [`Display`](fmt::Display) writes.
    pub(super) fn read(token: &str) -> Option<Self> {
        let (sequence, published) = token.split_once('-')?;
        Some(Self {
            sequence: sequence.parse().ok()?,
            published: published.parse().ok()?,
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sequence, self.published)
    }
}

/// The state of an envelope that was taken.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The number of deliveries so far.
    pub(super) number: u32,
    pub(super) state: State,
    /// The duration of the state, from the time at which the server has stored the record.
    pub(super) milliseconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// A worker has the lease.
    Leased,
    /// The envelope will be delivered again.
    Waiting,
    /// The envelope has ended. The record stays for a while, because the message may be delivered again.
    Ended,
}

/// A record as it is stored.
pub(super) struct Known {
    pub(super) record: Record,
    pub(super) revision: u64,
    time: SystemTime,
}

impl Known {
    /// How long no worker may take the envelope.
    pub(super) async fn left(&self, connection: &Connection) -> Result<Duration, BackendError> {
        let time = Duration::from_millis(self.record.milliseconds);
        connection.left(self.time, time).await
    }
}

impl Leases {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    fn subject(&self, message: Number) -> String {
        format!("{}.leases.{message}", self.connection.settings().prefix)
    }

    /// Reads the record of a message.
    pub(super) async fn read(&self, message: Number) -> Result<Option<Known>, BackendError> {
        let subject = self.subject(message);
        let stream = &self.connection.streams().leases;
        let stored = self.connection.last(stream, &subject).await?;
        stored.as_ref().map(known).transpose()
    }

    /// Replaces the record with the expected revision. Zero means no record. Returns the new revision, or `None` if the
    /// record has another revision.
    pub(super) async fn write(
        &self,
        message: Number,
        record: Record,
        expected: u64,
    ) -> Result<Option<u64>, BackendError> {
        let record = serde_json::to_vec(&record).map_err(BackendError::unavailable)?;
        let subject = self.subject(message);
        let record = PublishMessage::build()
            .payload(record.into())
            .expected_last_subject_sequence(expected);
        let stored = self.connection.publish(&subject, record).await?;
        Ok(stored.map(|stored| stored.sequence))
    }

    /// Replaces the record of an active lease. Returns whether the lease was active.
    pub(super) async fn change(
        &self,
        claim: &Claim<'_>,
        state: State,
        time: Duration,
    ) -> Result<bool, BackendError> {
        let record = Record {
            number: claim.number,
            state,
            milliseconds: time::milliseconds(time),
        };
        // Most leases are never renewed, so the revision of the receipt is tried before the record is read.
        if milliseconds_now() < claim.expires
            && self
                .write(claim.message, record, claim.revision)
                .await?
                .is_some()
        {
            return Ok(true);
        }
        loop {
            let Some(known) = self.read(claim.message).await? else {
                return Ok(false);
            };
            let is_held = known.record.number == claim.number
                && known.record.state == State::Leased
                && !known.left(&self.connection).await?.is_zero();
            if !is_held {
                return Ok(false);
            }
            if self
                .write(claim.message, record, known.revision)
                .await?
                .is_some()
            {
                return Ok(true);
            }
        }
    }
}

/// Parses a record.
pub(super) fn known(stored: &Stored) -> Result<Known, BackendError> {
    let record = serde_json::from_slice(&stored.payload).map_err(BackendError::unavailable)?;
    Ok(Known {
        record,
        revision: stored.sequence,
        time: stored.time,
    })
}

/// The contents of a receipt.
pub(super) struct Claim<'a> {
    pub(super) message: Number,
    /// The number of the delivery.
    pub(super) number: u32,
    /// The revision of the record when the lease started.
    pub(super) revision: u64,
    /// The end of the lease unless it is renewed, by the monotonic clock of the process that took it.
    pub(super) expires: u64,
    /// The subject for acknowledgements of the message.
    pub(super) reply: &'a str,
}

impl<'a> Claim<'a> {
    pub(super) fn expires(lease: Duration) -> u64 {
        milliseconds_now().saturating_add(time::milliseconds(lease))
    }

    pub(super) fn receipt(&self) -> Receipt {
        let Self {
            message,
            number,
            revision,
            expires,
            reply,
        } = self;
        Receipt::new(format!("{message} {number} {revision} {expires} {reply}"))
    }

    pub(super) fn read(receipt: &'a Receipt) -> Option<Self> {
        let mut parts = receipt.as_str().split(' ');
        Some(Self {
            message: Number::read(parts.next()?)?,
            number: parts.next()?.parse().ok()?,
            revision: parts.next()?.parse().ok()?,
            expires: parts.next()?.parse().ok()?,
            reply: parts.next()?,
        })
    }
}

/// The state of an envelope after an outcome, and the duration of that state.
pub(super) fn after(outcome: Outcome) -> (State, Duration) {
    match outcome {
        Outcome::Retry { after } => (State::Waiting, after),
        Outcome::Done | Outcome::GiveUp => (State::Ended, Duration::ZERO),
    }
}
