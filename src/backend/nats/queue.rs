use super::connection::{Connection, refused};
use super::leases::{Claim, Leases, Record, State, after};
use super::{names, time};
use crate::backend::{
    BackendError, Capabilities, Enqueued, Envelope, Outcome, Queue, Receipt, Taken, check_name,
};
use crate::sync::lock;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, AckKind};
use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

/// A delay in milliseconds.
const DELAY: &str = "Tower-Promises-Delay";

/// How long a worker may take from the delivery of a message to the record of its lease. Then it is delivered
/// to another one.
const CLAIM_TIME: Duration = Duration::from_secs(2);

/// How long a queue that nobody works on keeps its consumer. The next worker makes a new one.
const CONSUMER_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How many workers can wait for one queue at once.
const MAX_WAITING: i64 = 8192;

/// How long the server may say nothing to a request that does not wait: it does so where another worker was given
/// the last message in the meantime.
const UNANSWERED: Duration = Duration::from_millis(500);

/// How long the other answers may take when the first one is there.
const MORE: Duration = Duration::from_millis(50);

/// How many are taken at once.
const MAX_TAKEN: usize = 64;

/// A time that no server counts to the end. What comes too early is told the rest.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How many queues a process remembers to have a consumer.
const MAX_REMEMBERED: usize = 1024;

/// A [`Queue`] of the machines that are connected to one server or cluster. A [`NatsBackend`](super::NatsBackend)
/// has it.
///
/// All queues are one JetStream stream, each with a durable consumer. There are delays but no priorities. A record for
/// each message that was taken, in a stream of its own, says who has the lease: each change of it is compared and
/// set, which the consumer's acknowledgements are not. Leases and delays begin when the server has stored the
/// record, and whoever wants to take the envelope compares that with its own clock: one that is ahead of the
/// server's ends leases early, which lets a second worker begin, and never lets the first one settle.
///
/// An id is known for the [window](super::NatsBuilder::deduplication_window) after it was enqueued, and as long as its
/// envelope has not ended. A message that is given up makes the server tell so in an advisory.
#[derive(Clone, Debug)]
pub struct NatsQueue {
    connection: Arc<Connection>,
    stream: Stream,
    leases: Leases,
    window: Duration,
    /// The queues that have a consumer, as far as is known.
    ready: Arc<Mutex<HashSet<Arc<str>>>>,
}

impl NatsQueue {
    pub(super) fn new(connection: Arc<Connection>, stream: Stream, leases: Stream) -> Self {
        Self {
            leases: Leases::new(connection.clone(), leases),
            connection,
            // Another process may have made the stream, with another one.
            window: stream.cached_info().config.duplicate_window,
            stream,
            ready: Arc::default(),
        }
    }

    async fn add(&self, envelope: Envelope) -> Result<Enqueued, BackendError> {
        let (queue, id) = (names::token(&envelope.queue), names::token(&envelope.id));
        let mut message = PublishMessage::build()
            .payload(envelope.payload)
            // Known for the window.
            .message_id(format!("{queue}.{id}"))
            // Known as long as it has not ended.
            .expected_last_subject_sequence(0);
        if !envelope.delay.is_zero() {
            message = message.header(DELAY, time::milliseconds(envelope.delay).to_string());
        }
        let prefix = &self.connection.settings().prefix;
        let subject = format!("{prefix}.queue.{queue}.{id}");
        match self.connection.publish(subject, message).await? {
            Some(stored) if !stored.duplicate => Ok(Enqueued::Added),
            _ => Ok(Enqueued::Duplicate),
        }
    }

    /// Creates the consumer of a queue if it is not there.
    async fn prepare(&self, queue: &str) -> Result<(), BackendError> {
        if lock(&self.ready).contains(queue) {
            return Ok(());
        }
        let prefix = &self.connection.settings().prefix;
        let consumer = pull::Config {
            durable_name: Some(names::consumer(queue)),
            description: Some(queue.to_owned()),
            filter_subject: format!("{prefix}.queue.{}.*", names::token(queue)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: CLAIM_TIME,
            // What waits for its time is pending too.
            max_ack_pending: -1,
            max_waiting: MAX_WAITING,
            inactive_threshold: CONSUMER_LIFE,
            ..Default::default()
        };
        let create = async {
            let created = self.stream.create_consumer(consumer).await;
            created.map_err(BackendError::unavailable)
        };
        self.connection.in_time(create).await?;
        let mut ready = lock(&self.ready);
        if ready.len() >= MAX_REMEMBERED {
            ready.clear();
        }
        ready.insert(queue.into());
        Ok(())
    }

    /// Asks the consumer for messages, one by one: so many that each request has exactly one answer.
    async fn pull(
        &self,
        queue: &str,
        requests: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<Message>, BackendError> {
        let client = self.connection.client();
        let inbox = client.new_inbox();
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.stream.cached_info().config.name,
            names::consumer(queue)
        );
        let request = match wait {
            Some(wait) => format!(r#"{{"batch":1,"expires":{}}}"#, wait.as_nanos()),
            None => r#"{"batch":1,"no_wait":true}"#.to_owned(),
        };
        let request = Bytes::from(request);
        let ask = async {
            let answers = client.subscribe(inbox.clone()).await;
            let answers = answers.map_err(BackendError::unavailable)?;
            for _ in 0..requests {
                let (subject, inbox) = (subject.clone(), inbox.clone());
                let asked = client
                    .publish_with_reply(subject, inbox, request.clone())
                    .await;
                asked.map_err(BackendError::unavailable)?;
            }
            Ok(Answers {
                client: client.clone(),
                open: requests,
                subscriber: Some(answers),
            })
        };
        let answers = self.connection.in_time(ask).await?;
        let after = self.connection.settings().timeout;
        let patience = wait.map_or(UNANSWERED, |wait| wait + after).min(LONGEST);
        match receive(answers, requests, Instant::now() + patience).await {
            Ok(Some(messages)) => Ok(messages),
            // The request that waits finds out whether the server is there.
            Ok(None) if wait.is_none() => Ok(Vec::new()),
            Ok(None) => Err(BackendError::TimedOut { after }),
            Err(error) => {
                // It may be that the consumer is not there any more.
                lock(&self.ready).remove(queue);
                Err(error)
            }
        }
    }

    /// Takes a message that was delivered, unless it is not for us, or not yet.
    async fn claim(
        &self,
        message: Message,
        lease: Duration,
    ) -> Result<Option<Taken>, BackendError> {
        let message = jetstream::Message {
            message,
            context: self.connection.context().clone(),
        };
        let info = message.info().map_err(BackendError::unavailable)?;
        let (sequence, is_first) = (info.stream_sequence, info.delivered == 1);
        let published = SystemTime::from(info.published);
        let Some(reply) = message.message.reply.clone() else {
            return Err(BackendError::unavailable("a message has no reply subject"));
        };
        let Some(id) = names::last_name(&message.message.subject) else {
            // It is not one of ours.
            self.tell(&reply, AckKind::Term).await?;
            return Ok(None);
        };
        let mut known = if is_first {
            // Most have no record by then, and if there is one, the first write finds out.
            None
        } else {
            self.leases.read(sequence).await?
        };
        loop {
            let left = match &known {
                Some(known) if known.record.state == State::Ended => {
                    // Its worker could not say so.
                    self.tell(&reply, AckKind::Ack).await?;
                    return Ok(None);
                }
                Some(known) => known.left(),
                None => {
                    let headers = message.message.headers.as_ref();
                    let delay = headers.and_then(|headers| time::header(headers, DELAY));
                    delay.map_or(Duration::ZERO, |delay| time::left(published, delay))
                }
            };
            if !left.is_zero() {
                self.tell(&reply, again(left)).await?;
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
            if let Some(revision) = self.leases.write(sequence, record, revision).await? {
                self.tell(&reply, again(lease)).await?;
                let claim = Claim {
                    sequence,
                    number: record.number,
                    revision,
                    expires,
                    reply: &reply,
                };
                return Ok(Some(Taken {
                    id: id.into(),
                    payload: message.message.payload,
                    number: record.number,
                    leased_until: asked + lease,
                    receipt: claim.receipt(),
                }));
            }
            // Another worker was faster.
            known = self.leases.read(sequence).await?;
            if known.is_none() {
                // It has even ended long ago.
                return Ok(None);
            }
        }
    }

    /// Tells the consumer when to deliver a message again, if ever. What is lost on the way costs time only: the
    /// record decides.
    async fn tell(&self, reply: &str, kind: AckKind) -> Result<(), BackendError> {
        let client = self.connection.client();
        let told = client.publish(reply.to_owned(), kind.into()).await;
        told.map_err(BackendError::unavailable)
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
        let change = async {
            let is_changed = self.leases.change(&claim, state, time).await?;
            if is_changed {
                // It is decided, whatever the consumer hears.
                let _ = self.tell(claim.reply, kind).await;
            }
            Ok(is_changed)
        };
        self.connection.in_time(change).await
    }
}

/// Delivers a message again after a time. It is what makes the end of a lease known, too.
fn again(after: Duration) -> AckKind {
    // Zero would be the time of the consumer.
    let at_once = after.is_zero().then_some(None);
    AckKind::Nak(at_once.unwrap_or(Some(after.min(LONGEST))))
}

/// The answers to requests for messages. Dropped, it gives back what comes too late.
struct Answers {
    client: Client,
    subscriber: Option<Subscriber>,
    /// How many are missing.
    open: usize,
}

impl Answers {
    async fn next(&mut self) -> Option<Message> {
        let answer = self.subscriber.as_mut()?.next().await;
        self.open = self.open.saturating_sub(1);
        answer
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let (Some(mut subscriber), Ok(runtime)) = (self.subscriber.take(), Handle::try_current())
        else {
            return;
        };
        if self.open == 0 {
            return;
        }
        let client = self.client.clone();
        runtime.spawn(async move {
            // The server sends no more, and what is on its way still comes.
            if subscriber.drain().await.is_err() {
                return;
            }
            while let Ok(Some(message)) = timeout(CLAIM_TIME, subscriber.next()).await {
                if let Some(reply) = message.reply {
                    // If it is lost, the message comes back all the same.
                    let _ = client.publish(reply, AckKind::Nak(None).into()).await;
                }
            }
        });
    }
}

/// The messages among the answers to so many requests, or `None` where none is answered in time.
async fn receive(
    mut answers: Answers,
    requests: usize,
    until: Instant,
) -> Result<Option<Vec<Message>>, BackendError> {
    let (mut messages, mut until) = (Vec::new(), until);
    for number in 0..requests {
        let answer = match timeout_at(until, answers.next()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(BackendError::unavailable("the client was closed")),
            Err(_) if number == 0 => return Ok(None),
            Err(_) => break,
        };
        match answer.status {
            None | Some(StatusCode::OK) => messages.push(answer),
            Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => {}
            Some(_) if !messages.is_empty() => break,
            Some(status) => return Err(refused(status, answer.description.as_deref())),
        }
        // What is there does not wait for what may come.
        until = until.min(Instant::now() + MORE);
    }
    Ok(Some(messages))
}

impl Queue for NatsQueue {
    fn capabilities(&self) -> Capabilities {
        let limit = self.connection.settings().max_payload_bytes;
        let mut capabilities = Capabilities::new(self.connection.limit(limit), self.window);
        capabilities.priorities = false;
        capabilities
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move {
            self.capabilities().check(&envelope)?;
            self.connection.in_time(self.add(envelope)).await
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
                self.prepare(queue).await?;
                let mut messages = self.pull(queue, limit.clamp(1, MAX_TAKEN), None).await?;
                if messages.is_empty() {
                    let wait = self.connection.settings().poll_interval;
                    messages = self.pull(queue, 1, Some(wait)).await?;
                }
                let claims = messages
                    .into_iter()
                    .map(|message| self.claim(message, lease));
                let claims = async { Ok(join_all(claims).await) };
                let mut taken = Vec::new();
                let mut failed = None;
                for claim in self.connection.in_time(claims).await? {
                    match claim {
                        Ok(claim) => taken.extend(claim),
                        Err(error) => failed = Some(error),
                    }
                }
                match failed {
                    _ if !taken.is_empty() => return Ok(taken),
                    Some(error) => return Err(error),
                    None => {}
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
