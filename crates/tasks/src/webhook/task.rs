use super::client::{SendError, post};
use super::sender::WebhookSender;
use crate::metrics::{self, WebhookOutcome};
use crate::{EndedTask, RetryPolicy, Task, TaskContext, TaskError, TaskFailure};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tower_promises_backend::kit::clock::now;
use tower_promises_backend::kit::metrics::Stopwatch;
use tower_promises_backend::kit::{backoff, json};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

const MAX_ATTEMPTS: u32 = 10;

/// The pauses between the attempts, as the specification recommends them: ten attempts within about three days.
const PAUSES: [Duration; MAX_ATTEMPTS as usize - 1] = [
    Duration::from_secs(5),
    MINUTE.saturating_mul(5),
    MINUTE.saturating_mul(30),
    HOUR.saturating_mul(2),
    HOUR.saturating_mul(5),
    HOUR.saturating_mul(10),
    HOUR.saturating_mul(14),
    HOUR.saturating_mul(20),
    HOUR.saturating_mul(24),
];

/// The longest pause that a receiver can ask for.
const LONGEST_PAUSE: Duration = HOUR.saturating_mul(24);

/// A task that sends a *Standard Webhooks* request: a POST of JSON with `type`, `timestamp` and `data`, and with the
/// headers `webhook-id`, `webhook-timestamp` and `webhook-signature` (HMAC-SHA256, `v1`).
///
/// The worker needs a [`WebhookSender`] as [application state](crate::TasksBuilder::state).
///
/// ```
/// use serde_json::json;
/// use tower_promises_tasks::{TaskError, Tasks, Webhook};
///
/// async fn paid(tasks: &Tasks, url: &str, invoice: u64) -> Result<(), TaskError> {
///     let webhook = Webhook::new(url, "invoice.paid", &json!({ "id": invoice }))?;
///     tasks.queue("webhooks").submit(webhook).await?;
///     Ok(())
/// }
/// # let _ = paid;
/// ```
///
/// # Rules
///
/// 1. A response with a status of 200 to 299 ends the task. The body of a response is ignored.
/// 2. Everything else is tried again, up to ten attempts within about three days, after growing pauses with up to a
///    fifth of jitter, and not before the time of a `Retry-After`, which counts up to a day. After the last attempt the
///    task is a dead letter.
/// 3. A 410 ends the task with an error: the receiver wants no more webhooks. So do a URL and an address that the sender
///    does not allow, and a receiver without a secret.
/// 4. The `webhook-id` is the same in all attempts, so that a receiver can ignore repetitions. The timestamp is that of
///    the attempt.
/// 5. Redirects are not followed, and no proxy is used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Webhook {
    url: String,
    #[serde(rename = "type")]
    event: String,
    /// In milliseconds since the epoch.
    created: u64,
    /// `None` for the end of a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "type")]
    event: &'a str,
    timestamp: String,
    data: &'a RawValue,
}

/// The data of a webhook on the end of a task.
#[derive(Serialize)]
struct EndData<'a> {
    id: &'a str,
    queue: &'a str,
    task: &'a str,
    state: String,
}

impl Webhook {
    /// Creates a webhook. The `event` is its type, by convention words that are separated by full stops, such as
    /// `invoice.paid`.
    ///
    /// # Errors
    ///
    /// [`TaskError::Serialize`] if the data cannot be serialised.
    pub fn new(
        url: impl Into<String>,
        event: impl Into<String>,
        data: &impl Serialize,
    ) -> Result<Self, TaskError> {
        let data = json::to_raw_value(data).map_err(|error| TaskError::Serialize {
            task: Self::NAME,
            error: Arc::new(error),
        })?;
        Ok(Self {
            data: Some(data),
            ..Self::on_end(url, event)
        })
    }

    /// Creates a webhook for [`Submit::on_end`](crate::Submit::on_end). Its data are the `id`, the `queue`, the type
    /// (`task`) and the final `state` of the task that has ended.
    #[must_use]
    pub fn on_end(url: impl Into<String>, event: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            event: event.into(),
            created: now(),
            data: None,
        }
    }

    fn body(&self, ended: Option<&EndedTask>) -> Result<Bytes, TaskFailure> {
        let (created, data) = match (&self.data, ended) {
            (Some(data), _) => (self.created, data.clone()),
            (None, Some(ended)) => {
                let data = EndData {
                    id: ended.id().as_str(),
                    queue: ended.queue(),
                    task: ended.task(),
                    state: ended.state().to_string(),
                };
                (ended.finished, json::to_raw_value(&data)?)
            }
            (None, None) => return Err("the webhook is for the end of a task".into()),
        };
        let created = tower_promises_backend::kit::clock::time(created);
        let payload = Payload {
            event: &self.event,
            timestamp: humantime::format_rfc3339_millis(created).to_string(),
            data: &data,
        };
        Ok(json::to_vec(&payload)?.into())
    }
}

impl Task for Webhook {
    const NAME: &'static str = "webhook";
    type Output = ();

    fn retry_policy() -> RetryPolicy {
        RetryPolicy::new().max_attempts(MAX_ATTEMPTS)
    }

    async fn run(self, context: TaskContext) -> Result<(), TaskFailure> {
        let start = Stopwatch::start();
        let sent = |outcome| metrics::webhook_sent(outcome, &start);
        let sender: &WebhookSender = context.state()?;
        let settings = &sender.settings;
        let target = match settings.target(&self.url) {
            Ok(target) => target,
            Err(error) => {
                sent(WebhookOutcome::Refused);
                return Err(error.into());
            }
        };
        let secrets = settings.secrets(&self.url);
        if secrets.is_empty() {
            sent(WebhookOutcome::Refused);
            return Err("the receiver has no secret".into());
        }
        let body = self.body(context.ended())?;
        let id = message_id(context.id().as_str());
        let timestamp = SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_secs();
        let signatures = secrets
            .iter()
            .map(|secret| secret.sign(&id, timestamp, &body));
        let signatures = signatures.collect::<Vec<_>>().join(" ");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = concat!("tower-promises-tasks/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.insert("webhook-id", id.parse()?);
        headers.insert("webhook-timestamp", timestamp.into());
        headers.insert("webhook-signature", signatures.parse()?);

        let attempt = context.attempt();
        let reply = match post(settings, &target, headers, body).await {
            Ok(reply) => reply,
            Err(error @ SendError::Refused) => {
                sent(WebhookOutcome::Refused);
                return Err(error.into());
            }
            Err(error) => {
                sent(WebhookOutcome::Unreachable);
                return Err(again(error, attempt, None));
            }
        };
        match reply.status {
            status if status.is_success() => {
                sent(WebhookOutcome::Delivered);
                Ok(())
            }
            StatusCode::GONE => {
                sent(WebhookOutcome::Gone);
                Err("the receiver wants no more webhooks (410)".into())
            }
            status => {
                sent(WebhookOutcome::Rejected);
                let error = format!("the receiver has answered {status}");
                Err(again(error, attempt, reply.retry_after))
            }
        }
    }
}

/// Returns the failure of an attempt after which another one follows.
fn again(
    error: impl Into<tower_promises_backend::BoxError>,
    attempt: u32,
    retry_after: Option<Duration>,
) -> TaskFailure {
    let place = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    let pause = PAUSES[place.min(PAUSES.len() - 1)];
    let asked = retry_after.unwrap_or_default().min(LONGEST_PAUSE);
    let pause = pause.max(asked);
    let jitter = backoff::random(pause / 5);
    TaskFailure::retry_after(error, pause + jitter)
}

/// Returns the `webhook-id` of a task: the same for all its attempts, in characters that a header can have.
fn message_id(task: &str) -> String {
    let mut id = "msg_".to_owned();
    for byte in Sha256::digest(task).iter().take(16) {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}
