//! What the consumers of queues deliver, to those who ask for it.

use super::connection::{Connection, refused};
use super::names;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::sync::lock;
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

/// How often the server says that a request is still waiting. Without a word for more than twice that, the request, its
/// consumer or the server is gone.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How many are asked for at once.
const MAX_REQUESTS: usize = 64;

/// How many queues a process remembers to have a consumer.
const MAX_REMEMBERED: usize = 1024;

/// The way from the stream of envelopes to the workers of this process: a durable consumer for each queue.
#[derive(Clone, Debug)]
pub(super) struct Deliveries {
    connection: Arc<Connection>,
    /// The queues that have a consumer, as far as is known.
    known: Arc<Mutex<HashMap<Arc<str>, Known>>>,
}

/// What is known of a consumer that was there.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The connection and the streams it was seen with. With others, it may have been lost.
    connects: u64,
    made: u64,
    /// Whether more seems to be there than was asked for.
    has_more: bool,
}

impl Deliveries {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            known: Arc::default(),
        }
    }

    /// Messages of a queue, at most `limit`, or none where there was none for a while. Dropped before it resolves, it
    /// gives back what it has.
    pub(super) async fn next(
        &self,
        queue: &str,
        limit: usize,
    ) -> Result<Vec<Message>, BackendError> {
        let limit = limit.clamp(1, MAX_REQUESTS);
        let (is_new, has_more) = self.prepare(queue).await?;
        let messages = self.receive(queue, limit, has_more).await;
        match messages {
            // The consumer may be gone, and is made before the next request.
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
        // Most of the time there is nothing to take, or one.
        let wait = self.connection.settings().poll_interval;
        let messages = self.pull(queue, 1, Some(wait)).await?;
        self.remember(queue, messages.iter().any(is_one_of_many));
        Ok(messages)
    }

    /// Tells the consumer when to deliver a message again, if ever. What is lost on the way costs time only: the
    /// record decides.
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

    /// Lets the next call see to the consumer of a queue.
    fn forget(&self, queue: &str) {
        lock(&self.known).remove(queue);
    }

    /// Creates the consumer of a queue if it is not known to be there. Returns whether it has done so, and whether more
    /// seems to be there than one message.
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
            // What waits for its time is pending too.
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
        // Whoever works on it for the first time finds what has gathered.
        let seen = Known {
            connects,
            made,
            has_more: true,
        };
        known.insert(queue.into(), seen);
        Ok((true, seen.has_more))
    }

    /// Asks the consumer for messages, one by one: so many that each request has exactly one answer.
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
                // The server has forgotten who waits.
                Either::Right(_) => Ok(true),
            }
        };
        match received {
            Ok(true) => Ok(mem::take(&mut answers.messages)),
            Ok(false) => {
                // That another worker got the last message is no reason. That nothing says that the request waits is one:
                // to a consumer that is gone, the server does not answer.
                if wait.is_some() {
                    self.forget(queue);
                }
                Ok(Vec::new())
            }
            Err(error) => {
                // It may be that the consumer is not there any more.
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
            // Before it is sent: it may be sent and its future dropped.
            answers.open += 1;
            let asked = client
                .publish_with_reply(subject, inbox, request.clone())
                .await;
            asked.map_err(BackendError::unavailable)?;
        }
        Ok(answers)
    }
}

/// How often the server speaks while a request waits. It allows for at most half of the time.
fn heartbeat(wait: Duration) -> Duration {
    HEARTBEAT.min(wait / 2)
}

/// Whether a message shows that there may be more: not all were delivered yet, or this one not for the first time, as
/// all those that a worker has left behind.
fn is_one_of_many(message: &Message) -> bool {
    let info = message.info();
    info.is_ok_and(|info| info.pending > 0 || info.delivered > 1)
}

/// The answers to requests for messages. Dropped, it gives back those that nobody has taken, and what comes too late.
struct Answers {
    client: Client,
    context: Context,
    subscriber: Option<Subscriber>,
    messages: Vec<Message>,
    /// How many are missing.
    open: usize,
}

impl Answers {
    /// Waits for all answers. Returns whether the server says something in time, again and again.
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
            // What is there does not wait for what may come.
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
            // If it is lost, the message comes back all the same.
            let give_back = async |reply: Option<Subject>| {
                if let Some(reply) = reply {
                    let _ = client.publish(reply, AckKind::Nak(None).into()).await;
                }
            };
            for message in messages {
                give_back(message.message.reply).await;
            }
            // The server sends no more, and what is on its way still comes.
            if subscriber.drain().await.is_err() {
                return;
            }
            while let Ok(Some(message)) = timeout(CLAIM_TIME, subscriber.next()).await {
                give_back(message.reply).await;
            }
        });
    }
}
