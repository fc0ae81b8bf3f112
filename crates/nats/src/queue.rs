use super::connection::Connection;
use super::deliveries::Deliveries;
use super::leases::{Claim, Leases, Number, Record, State, after};
use super::{names, time};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Message};
use futures_util::future::{BoxFuture, join_all};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tower_promises_backend::kit::claim::claim;
use tower_promises_backend::kit::clock::LONGEST;
use tower_promises_backend::{
    BackendError, Capabilities, Enqueued, Envelope, Outcome, Queue, Receipt, Taken, check_name,
};

/// The header for a delay in milliseconds.
const DELAY: &str = "Tower-Promises-Delay";

/// A [`Queue`] for the machines that are connected to one server or cluster. [`NatsBackend`](super::NatsBackend)
/// creates it.
///
/// All queues are in one JetStream stream, with a durable consumer for each. Delays are supported, priorities are not.
/// A separate stream has a record for each message that was taken, which says which worker has the lease. Records are
/// changed with compare-and-set, which the acknowledgements of a consumer do not offer. Leases and delays start when
/// the server has stored the record, and end by the [clock of the server](super#clocks).
///
/// The id of an envelope is known for the [window](super::NatsBuilder::deduplication_window) after it was enqueued, and
/// until the envelope has ended. A server that was restarted has forgotten the ids of ended envelopes. The server
/// publishes an advisory for each message that is given up.
#[derive(Clone, Debug)]
pub struct NatsQueue {
    connection: Arc<Connection>,
    deliveries: Deliveries,
    leases: Leases,
}

impl NatsQueue {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            leases: Leases::new(connection.clone()),
            deliveries: Deliveries::new(connection.clone()),
            connection,
        }
    }

    async fn add(&self, envelope: &Envelope) -> Result<Enqueued, BackendError> {
        let (queue, id) = (names::token(&envelope.queue), names::token(&envelope.id));
        let mut message = PublishMessage::build()
            .payload(envelope.payload.clone())
            // Deduplicates within the window.
            .message_id(format!("{queue}.{id}"))
            // Deduplicates until the envelope has ended.
            .expected_last_subject_sequence(0);
        if !envelope.delay.is_zero() {
            message = message.header(DELAY, time::milliseconds(envelope.delay).to_string());
        }
        let prefix = &self.connection.settings().prefix;
        let subject = format!("{prefix}.queue.{queue}.{id}");
        match self.connection.publish(&subject, message).await? {
            Some(stored) if !stored.duplicate => Ok(Enqueued::Added),
            _ => Ok(Enqueued::Duplicate),
        }
    }

    /// Takes a delivered message unless another worker has it or it is not due yet.
    async fn claim(
        &self,
        message: &Message,
        lease: Duration,
    ) -> Result<Option<Taken>, BackendError> {
        let info = message.info().map_err(BackendError::unavailable)?;
        let is_first = info.delivered == 1;
        let published = SystemTime::from(info.published);
        let place = Number::new(info.stream_sequence, published);
        let Some(reply) = message.message.reply.clone() else {
            return Err(BackendError::unavailable("a message has no reply subject"));
        };
        let Some(id) = names::last_name(&message.message.subject) else {
            // The crate did not publish this message.
            self.deliveries.tell(&reply, AckKind::Term).await?;
            return Ok(None);
        };
        let mut known = if is_first {
            // Most messages have no record at their first delivery. If there is a record, the first write detects it.
            None
        } else {
            self.leases.read(place).await?
        };
        loop {
            let left = match &known {
                Some(known) if known.record.state == State::Ended => {
                    // The acknowledgement of its worker was lost.
                    self.deliveries.tell(&reply, AckKind::Ack).await?;
                    return Ok(None);
                }
                Some(known) => known.left(&self.connection).await?,
                None => {
                    let headers = message.message.headers.as_ref();
                    let delay = headers.and_then(|headers| time::header(headers, DELAY));
                    match delay {
                        Some(delay) => self.connection.left(published, delay).await?,
                        None => Duration::ZERO,
                    }
                }
            };
            if !left.is_zero() {
                self.deliveries.tell(&reply, again(left)).await?;
                return Ok(None);
            }
            let (number, revision) = known
                .as_ref()
                .map_or((0, 0), |known| (known.record.number, known.revision));
            let record = Record {
                number: number.saturating_add(1),
                state: State::Leased,
                milliseconds: time::milliseconds(lease),
            };
            let asked = Instant::now();
            let expires = Claim::expires(lease);
            if let Some(revision) = self.leases.write(place, record, revision).await? {
                self.deliveries.tell(&reply, again(lease)).await?;
                let claim = Claim {
                    message: place,
                    number: record.number,
                    revision,
                    expires,
                    reply: &reply,
                };
                return Ok(Some(Taken::new(
                    id,
                    message.message.payload.clone(),
                    record.number,
                    asked + lease,
                    claim.receipt(),
                )));
            }
            // Another worker was faster.
            known = self.leases.read(place).await?;
            if known.is_none() {
                // The envelope has ended, and its record was already deleted.
                return Ok(None);
            }
        }
    }

    /// Takes all of the messages that can be taken.
    async fn claim_all(
        self,
        messages: Vec<Message>,
        lease: Duration,
    ) -> Result<Vec<Taken>, BackendError> {
        let claims = messages
            .iter()
            .map(|message| self.connection.in_time(|| self.claim(message, lease)));
        let (mut taken, mut failed) = (Vec::new(), None);
        for claim in join_all(claims).await {
            match claim {
                Ok(claim) => taken.extend(claim),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            // The remaining messages are delivered again.
            Some(error) if taken.is_empty() => Err(error),
            _ => Ok(taken),
        }
    }

    async fn change(
        &self,
        receipt: &Receipt,
        state: State,
        time: Duration,
        kind: AckKind,
    ) -> Result<bool, BackendError> {
        let Some(claim) = Claim::read(receipt) else {
            return Ok(false);
        };
        let change = || async {
            let is_changed = self.leases.change(&claim, state, time).await?;
            if is_changed {
                // The record decides, so a failure here has no effect on the outcome.
                let _ = self.deliveries.tell(claim.reply, kind).await;
            }
            Ok(is_changed)
        };
        self.connection.in_time(change).await
    }
}

/// Delivers a message again after a time. A lease ends in this way too.
fn again(after: Duration) -> AckKind {
    // A delay of zero would mean the consumer's own `ack_wait`.
    let at_once = after.is_zero().then_some(None);
    AckKind::Nak(at_once.unwrap_or(Some(after.min(LONGEST))))
}

impl Queue for NatsQueue {
    fn capabilities(&self) -> Capabilities {
        let limit = self.connection.settings().max_envelope_bytes;
        let mut capabilities = Capabilities::new(
            self.connection.limit(limit),
            self.connection.streams().window(),
        );
        capabilities.priorities = false;
        capabilities
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move {
            self.capabilities().check(&envelope)?;
            self.connection.in_time(|| self.add(&envelope)).await
        })
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        Box::pin(async move {
            check_name(queue)?;
            let lease = lease.min(LONGEST);
            loop {
                let messages = self.deliveries.next(queue, limit).await?;
                if messages.is_empty() {
                    continue;
                }
                let taken = claim(self, self.clone().claim_all(messages, lease)).await?;
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        let lease = lease.min(LONGEST);
        Box::pin(self.change(receipt, State::Leased, lease, again(lease)))
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        let (state, time) = after(outcome);
        let kind = match outcome {
            Outcome::Done => AckKind::Ack,
            Outcome::GiveUp => AckKind::Term,
            Outcome::Retry { after } => again(after),
        };
        Box::pin(self.change(receipt, state, time, kind))
    }
}
