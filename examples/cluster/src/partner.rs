//! A partner: another system, whose interface can be away, and which is told by webhooks when a synchronisation has
//! ended. This cluster plays both roles.

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use standardwebhooks::Webhook as Verifier;
use std::time::Duration;
use tower_promises::BoxError;
use tower_promises::backend::{Backend, CompareAndSet, Store};
use tower_promises::tasks::{
    RetryPolicy, Task, TaskContext, TaskFailure, WebhookSecret, WebhookSender,
};

/// The secret that the sender and the receiver of webhooks share. A real service reads it from its configuration.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// There is a value under this key while the partner is away.
const AWAY: &str = "cluster/partner/away";

/// The key of what the partner was told.
const TOLD: &str = "cluster/partner/told";

/// The maximum number of messages that are kept.
const KEPT: usize = 5;

/// Brings an account up to date. Fails while the partner is away, so that there are dead letters to look at.
#[derive(Serialize, Deserialize)]
pub(crate) struct Synchronise {
    pub(crate) account: u32,
}

impl Task for Synchronise {
    const NAME: &'static str = "synchronise";
    type Output = String;

    fn retry_policy() -> RetryPolicy {
        // Few and short, so that a dead letter is visible soon.
        let pause = Duration::from_millis(500);
        RetryPolicy::new().max_attempts(2).backoff(pause, pause)
    }

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        let backend: &Backend = context.state()?;
        if is_away(backend.store()).await? {
            return Err(TaskFailure::retry("the partner does not answer"));
        }
        Ok(format!("account {} is up to date", self.account))
    }
}

pub(crate) async fn is_away(store: &dyn Store) -> Result<bool, BoxError> {
    Ok(store.get(AWAY).await?.is_some())
}

/// Lets the partner go away, or come back.
pub(crate) async fn set_away(store: &dyn Store, away: bool) -> Result<(), BoxError> {
    if away {
        store.put(AWAY, "away".into(), None).await?;
    } else {
        store.delete(AWAY).await?;
    }
    Ok(())
}

/// Returns the sender of webhooks.
pub(crate) fn sender() -> Result<WebhookSender, BoxError> {
    let sender = WebhookSender::builder()
        .secret(WebhookSecret::new(SECRET)?)
        // The partner is on this machine. A real sender reaches public addresses over TLS only.
        .allow_http(true)
        .allow_private_addresses(true);
    Ok(sender.build())
}

/// Receives a webhook. Fails if its signature is wrong.
pub(crate) async fn receive(
    store: &dyn Store,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), BoxError> {
    Verifier::new(SECRET)?.verify(body, headers)?;
    let message: Value = serde_json::from_slice(body)?;
    let [event, task, state] = [
        &message["type"],
        &message["data"]["task"],
        &message["data"]["state"],
    ]
    .map(|text| text.as_str().unwrap_or_default());
    let text = format!("{event}: {task} {state}");
    loop {
        let found = store.get(TOLD).await?;
        let revision = found.as_ref().map(|entry| entry.revision);
        let mut told: Vec<String> = match found {
            Some(entry) => serde_json::from_slice(&entry.value)?,
            None => Vec::new(),
        };
        told.insert(0, text.clone());
        told.truncate(KEPT);
        let told = serde_json::to_vec(&told)?.into();
        if let CompareAndSet::Set(_) = store.compare_and_set(TOLD, revision, told, None).await? {
            return Ok(());
        }
    }
}

/// Returns what the partner was told, newest first.
pub(crate) async fn told(store: &dyn Store) -> Result<Vec<String>, BoxError> {
    match store.get(TOLD).await? {
        Some(entry) => Ok(serde_json::from_slice(&entry.value)?),
        None => Ok(Vec::new()),
    }
}
