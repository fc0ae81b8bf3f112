//! Fetches messages from the consumers of the queues, for the workers of this process.

use super::connection::{Connection, refused};
use super::names;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{AckKind, Context, Message};
use async_nats::{Client, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use std::collections::HashMap;
use std::mem;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;

/// The time from the delivery of a message to the record of its lease. If a worker takes longer, the message is
/// delivered to another worker.
const CLAIM_TIME: Duration = Duration::from_secs(2);

/// How long the consumer of a queue without workers stays. The next worker creates a new consumer.
const CONSUMER_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// The number of workers that can wait for one queue at once.
const MAX_WAITING: i64 = 8192;

/// How long a request that does not wait may stay without an answer. The server sends no answer if another worker has
/// received the last message meanwhile.
const UNANSWERED: Duration = Duration::from_millis(500);

/// How long to wait for further answers after the first one.
const MORE: Duration = Duration::from_millis(50);

/// The interval of the server's heartbeats for a waiting request. If they are missing for more than twice that long,
/// the request, its consumer or the server is gone.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The largest number of messages that are requested at once.
const MAX_REQUESTS: usize = 64;

/// The largest number of queues whose consumers a process remembers.
const MAX_REMEMBERED: usize = 1024;

/// Delivers the stream of envelopes to the workers of this process, with a durable consumer for each queue.
#[derive(Clone, Debug)]
pub(super) struct Deliveries {
    connection: Arc<Connection>,
    /// The queues whose consumers are known to exist.
    known: Arc<Mutex<HashMap<Arc<str>, Known>>>,
}

/// The state of an existing consumer.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The numbers of the connection and of the streams with which the consumer was seen. With other numbers, the
    /// consumer may have been lost.
    connects: u64,
    made: u64,
    /// Whether the queue seems to have more messages than were requested.
    has_more: bool,
}

impl Deliveries {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            known: Arc::default(),
        }
    }

    /// Returns up to `limit` messages of a queue, or none if there was none for a while. If the future is dropped
    /// before it resolves, the messages that it has received are returned to the queue.
    pub(super) async fn next(
        &self,
        queue: &str,
        limit: usize,
    ) -> Result<Vec<Message>, BackendError> {
        let limit = limit.clamp(1, MAX_REQUESTS);
        let (is_new, has_more) = self.prepare(queue).await?;
        let messages = self.receive(queue, limit, has_more).await;
        match messages {
            // The consumer may be gone. The next request creates it.
            Err(_) if !is_new => Ok(Vec::new()),
            messages => messages,
        }
    }

    async fn receive(
        &self,
        queue: &str,
        limit: usize,
        has_more: bool,
    ) -> Result<Vec<Message>, BackendError> {
        if has_more {
            let messages = self.pull(queue, limit, None).await?;
            self.remember(queue, messages.len() == limit);
            if !messages.is_empty() {
                return Ok(messages);
            }
        }
        // Usually there is no message, or only one.
        let wait = self.connection.settings().pull_expiry;
        let messages = self.pull(queue, 1, Some(wait)).await?;
        self.remember(queue, messages.iter().any(is_one_of_many));
        Ok(messages)
    }

    /// Acknowledges a message, or tells the consumer when to deliver it again. A lost acknowledgement costs only time,
    /// because the record of the lease decides.
    pub(super) async fn tell(&self, reply: &str, kind: AckKind) -> Result<(), BackendError> {
        let client = self.connection.client();
        let told = client.publish(reply.to_owned(), kind.into()).await;
        told.map_err(BackendError::unavailable)
    }

    fn remember(&self, queue: &str, has_more: bool) {
        if let Some(known) = lock(&self.known).get_mut(queue) {
            known.has_more = has_more;
        }
    }

    /// Lets the next call create the consumer of a queue.
    fn forget(&self, queue: &str) {
        lock(&self.known).remove(queue);
    }

    /// Creates the consumer of a queue unless it is known to exist. Returns whether it was created, and whether the
    /// queue seems to have more than one message.
    async fn prepare(&self, queue: &str) -> Result<(bool, bool), BackendError> {
        let connects = self.connection.connects();
        let made = self.connection.streams().made();
        let known = lock(&self.known).get(queue).copied();
        let known = known.filter(|known| known.connects == connects && known.made == made);
        if let Some(known) = known {
            return Ok((false, known.has_more));
        }
        let prefix = &self.connection.settings().prefix;
        let consumer = pull::Config {
            durable_name: Some(names::consumer(queue)),
            description: Some(queue.to_owned()),
            filter_subject: format!("{prefix}.queue.{}.*", names::token(queue)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: CLAIM_TIME,
            // Messages that wait for a delay or a retry are pending too.
            max_ack_pending: -1,
            max_waiting: MAX_WAITING,
            inactive_threshold: CONSUMER_LIFE,
            ..Default::default()
        };
        let create = || async {
            let made = self.connection.streams().made();
            let stream = &self.connection.streams().envelopes;
            let created = stream.create_consumer(consumer.clone()).await;
            created.map_err(BackendError::unavailable)?;
            Ok(made)
        };
        let made = self.connection.in_time(create).await?;
        let mut known = lock(&self.known);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        // Messages may have accumulated before the first request.
        let seen = Known {
            connects,
            made,
            has_more: true,
        };
        known.insert(queue.into(), seen);
        Ok((true, seen.has_more))
    }

    /// Requests messages from the consumer, with one request for each message, so that each request has exactly one
    /// answer.
    async fn pull(
        &self,
        queue: &str,
        requests: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<Message>, BackendError> {
        let connects = self.connection.connects();
        let answers = self.connection.in_time(|| self.ask(queue, requests, wait));
        let mut answers = answers.await?;
        let patience = match wait {
            Some(wait) => heartbeat(wait) * 2 + UNANSWERED,
            None => UNANSWERED,
        };
        let received = {
            let received = answers.receive(patience);
            let reconnected = self.connection.reconnected(connects);
            match select(pin!(received), pin!(reconnected)).await {
                Either::Left((received, _)) => received,
                // The new connection's server does not know of the requests.
                Either::Right(_) => Ok(true),
            }
        };
        match received {
            Ok(true) => Ok(mem::take(&mut answers.messages)),
            Ok(false) => {
                // Without `wait`, another worker may have received the last message. With `wait`, missing heartbeats
                // mean that the consumer may be gone: the server does not answer requests to a consumer that does not
                // exist.
                if wait.is_some() {
                    self.forget(queue);
                }
                Ok(Vec::new())
            }
            Err(error) => {
                // The consumer may be gone.
                self.forget(queue);
                Err(error)
            }
        }
    }

    async fn ask(
        &self,
        queue: &str,
        requests: usize,
        wait: Option<Duration>,
    ) -> Result<Answers, BackendError> {
        let client = self.connection.client();
        let inbox = client.new_inbox();
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.connection.streams().envelopes_name(),
            names::consumer(queue)
        );
        let request = match wait {
            Some(wait) => format!(
                r#"{{"batch":1,"expires":{},"idle_heartbeat":{}}}"#,
                wait.as_nanos(),
                heartbeat(wait).as_nanos()
            ),
            None => r#"{"batch":1,"no_wait":true}"#.to_owned(),
        };
        let request = Bytes::from(request);
        let subscriber = client.subscribe(inbox.clone()).await;
        let mut answers = Answers {
            client: client.clone(),
            context: self.connection.context().clone(),
            subscriber: Some(subscriber.map_err(BackendError::unavailable)?),
            messages: Vec::new(),
            open: 0,
        };
        for _ in 0..requests {
            let (subject, inbox) = (subject.clone(), inbox.clone());
            // Counted before the request is sent: the future may be dropped after the request was sent.
            answers.open += 1;
            let asked = client
                .publish_with_reply(subject, inbox, request.clone())
                .await;
            asked.map_err(BackendError::unavailable)?;
        }
        Ok(answers)
    }
}

/// The interval of heartbeats. The server allows at most half of the waiting time.
fn heartbeat(wait: Duration) -> Duration {
    HEARTBEAT.min(wait / 2)
}

/// Whether a message suggests that there are more: the consumer has undelivered messages, or the message is delivered
/// again, as are all messages of a worker that has crashed.
fn is_one_of_many(message: &Message) -> bool {
    let info = message.info();
    info.is_ok_and(|info| info.pending > 0 || info.delivered > 1)
}

/// The answers to requests for messages. On drop, the messages that were not taken, and messages that arrive too late,
/// are returned to the queue.
struct Answers {
    client: Client,
    context: Context,
    subscriber: Option<Subscriber>,
    messages: Vec<Message>,
    /// The number of missing answers.
    open: usize,
}

impl Answers {
    /// Waits for all answers. Returns whether the server answers, or sends heartbeats, in time.
    async fn receive(&mut self, patience: Duration) -> Result<bool, BackendError> {
        let (mut until, mut is_first) = (Instant::now() + patience, true);
        while self.open > 0 {
            let Some(subscriber) = &mut self.subscriber else {
                break;
            };
            let answer = match timeout_at(until, subscriber.next()).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(BackendError::unavailable("the client was closed")),
                Err(_) if is_first => return Ok(false),
                Err(_) => break,
            };
            if answer.status == Some(StatusCode::IDLE_HEARTBEAT) {
                if is_first {
                    until = Instant::now() + patience;
                }
                continue;
            }
            (self.open, is_first) = (self.open - 1, false);
            match answer.status {
                None | Some(StatusCode::OK) => self.messages.push(Message {
                    message: answer,
                    context: self.context.clone(),
                }),
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => {}
                Some(_) if !self.messages.is_empty() => break,
                Some(status) => return Err(refused(status, answer.description.as_deref())),
            }
            // Messages that have arrived do not wait long for further ones.
            until = until.min(Instant::now() + MORE);
        }
        Ok(true)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let (Some(mut subscriber), Ok(runtime)) = (self.subscriber.take(), Handle::try_current())
        else {
            return;
        };
        let messages = mem::take(&mut self.messages);
        if self.open == 0 && messages.is_empty() {
            return;
        }
        let client = self.client.clone();
        runtime.spawn(async move {
            // If the acknowledgement is lost, the message is delivered again later.
            let give_back = async |reply: Option<Subject>| {
                if let Some(reply) = reply {
                    let _ = client.publish(reply, AckKind::Nak(None).into()).await;
                }
            };
            for message in messages {
                give_back(message.message.reply).await;
            }
            // The server sends no more messages to the inbox. Messages that are in flight still arrive.
            if subscriber.drain().await.is_err() {
                return;
            }
            while let Ok(Some(message)) = timeout(CLAIM_TIME, subscriber.next()).await {
                give_back(message.reply).await;
            }
        });
    }
}
