use super::connection::{Connection, Stored};
use super::time::{self, milliseconds_now};
use tower_promises_backend::{BackendError, Outcome, Receipt};
use async_nats::jetstream::message::PublishMessage;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Who has which envelope. A consumer of NATS would take the acknowledgement of a worker whose time is over for that
/// of the one that has the message now, so it is not the consumer that decides but a record for each message.
/// Each change of a record names the one it replaces, so of two workers that change it at once one is refused.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    connection: Arc<Connection>,
}

/// Which message of the stream of envelopes it is. A server that has lost the stream begins to count anew, so the
/// sequence alone could be that of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) sequence: u64,
    /// When the server has stored it, in nanoseconds.
    pub(super) published: u64,
}

impl Number {
    pub(super) fn new(sequence: u64, published: SystemTime) -> Self {
        let published = published.duration_since(SystemTime::UNIX_EPOCH);
        // Times that do not fit are centuries away.
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

/// What is known of an envelope that has been taken.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// How often it has been taken.
    pub(super) number: u32,
    pub(super) state: State,
    /// For how long it is in this state, from the time on at which the server has stored the record.
    pub(super) milliseconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// A worker has it.
    Leased,
    /// It is to be delivered again.
    Waiting,
    /// It has ended. The record stays for a while, for workers who do not know.
    Ended,
}

/// A record as it is stored.
pub(super) struct Known {
    pub(super) record: Record,
    pub(super) revision: u64,
    time: SystemTime,
}

impl Known {
    /// How long no worker may take it.
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

    /// The record of a message.
    pub(super) async fn read(&self, message: Number) -> Result<Option<Known>, BackendError> {
        let subject = self.subject(message);
        let stream = &self.connection.streams().leases;
        let stored = self.connection.last(stream, &subject).await?;
        stored.as_ref().map(known).transpose()
    }

    /// Replaces the record with a revision; zero stands for none. Returns the new revision, or `None` where it
    /// is another one by now.
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

    /// Replaces the record of a lease that is in force. Returns whether it was.
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
        // Most leases are never renewed, so it is not even read.
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

/// Reads a record.
pub(super) fn known(stored: &Stored) -> Result<Known, BackendError> {
    let record = serde_json::from_slice(&stored.payload).map_err(BackendError::unavailable)?;
    Ok(Known {
        record,
        revision: stored.sequence,
        time: stored.time,
    })
}

/// What the receipt of a lease says.
pub(super) struct Claim<'a> {
    pub(super) message: Number,
    /// That of the delivery.
    pub(super) number: u32,
    /// That of the record when the lease began.
    pub(super) revision: u64,
    /// When it ends if it is not renewed: by the monotonic clock of the process that has taken it.
    pub(super) expires: u64,
    /// Where the consumer wants to hear about the message.
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

/// The state in which an outcome leaves an envelope, and for how long.
pub(super) fn after(outcome: Outcome) -> (State, Duration) {
    match outcome {
        Outcome::Retry { after } => (State::Waiting, after),
        Outcome::Done | Outcome::GiveUp => (State::Ended, Duration::ZERO),
    }
}
