//! Requests with an `Idempotency-Key`: requests with the same key share an operation.

use super::body::OperationBody;
use super::claim::{Claim, Claimed};
use super::ending::{Keyed, Told};
use super::escalation::Client;
use super::inner_call::{Call, Work, to_its_end};
use super::instance::Instance;
use super::limits::{Admission, Refusal};
use super::metrics::{self, FirstReply};
use super::observe;
use super::progress::Report;
use super::record::{Key, OperationStatus, Record, Requester};
use super::records::{Changed, repeat};
use super::reply::{self, Reply, varying};
use super::result::Outcome;
use super::runner::Runner;
use super::settings::Settings;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::kit::topics::Subscription;
use tower_promises_backend::{BackendError, Revision};

/// Answers a request with a key. Calls `start` if the key is new. While the client waits, this function passes errors
/// and panics of the work on to its caller.
pub(super) async fn answer<R, E>(
    instance: Arc<Instance>,
    claim: Claim,
    client: Client,
    admission: Admission,
    start: impl FnOnce() -> Call<R, E> + Send + 'static,
) -> Result<Reply<R>, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    let (settings, headers) = (&instance.settings, &client.headers);
    let requester = client.requester.clone();
    let begin = begin(instance.clone(), claim, requester, admission, start);
    // A client that disconnects meanwhile must not leave behind a key without work.
    let (first, mut news, mut told) = match to_its_end(begin).await {
        Ok(Taken::First(first, news, told)) => (first, news, told),
        Ok(Taken::Again(key, record, mut news, _admission)) => {
            metrics::replied(FirstReply::Repeated);
            let reply = again(&instance, &key, *record, &mut news, &client).await;
            return Ok(varying(reply));
        }
        Ok(Taken::ByOther) => return Ok(varying(reply::other_request(settings, headers))),
        Ok(Taken::Draining) => return Ok(varying(reply::unavailable(settings, headers))),
        Ok(Taken::Refused(refusal)) => {
            observe::refused(refusal);
            return Ok(reply::refusal(settings, refusal, headers));
        }
        // Without the store the request might run twice.
        Err(error) => {
            observe::stays_on_connection(&error);
            return Ok(varying(reply::unavailable(settings, headers)));
        }
    };
    let mut heard = select! {
        biased;
        told = &mut told => Some(told.ok()),
        () = wait_for_end(&instance, &first.key, &mut news, client.patience) => None,
    };
    // Tells the store that the client is about to get the id. If the work reports first, its report is the reply.
    let key = first.key.clone();
    let landed = loop {
        if let Some(Some(told)) = heard {
            first.has_landed();
            return published(settings, told, headers);
        }
        select! {
            biased;
            told = &mut told, if heard.is_none() => heard = Some(told.ok()),
            landed = repeat(&key, || tell(&instance, &key)) => break landed.ok(),
        }
    };
    let can_hear = heard.is_none();
    // The report of the work is the reply if the operation is gone or has ended without a result, and also if the store
    // does not know that the client gets the id, because the operation may be forgotten.
    let is_over = match &landed {
        Some(Some(record)) => record.status == OperationStatus::Failed && record.result.is_none(),
        Some(None) | None => true,
    };
    match landed {
        Some(_) => first.has_landed(),
        // Dropping it retries the write in the background.
        None => drop(first),
    }
    if can_hear && !is_over {
        told.close();
    }
    if can_hear {
        if let Ok(told) = told.await {
            return published(settings, told, headers);
        }
    }
    if let Some(Some(record)) = &landed {
        metrics::replied(FirstReply::of(record));
    }
    Ok(varying(match landed {
        Some(record) => after_wait(&instance, &key, record, &client).await,
        None => reply::unavailable(settings, headers),
    }))
}

/// Returns the end of the work, as it would be without a key.
fn published<R, E>(settings: &Settings, told: Told<E>, headers: &HeaderMap) -> Result<Reply<R>, E> {
    if !matches!(told, Told::Unavailable) {
        metrics::replied(FirstReply::Inline);
    }
    match told {
        Told::Response(outcome) => Ok(varying(answered(outcome))),
        Told::Error(error) => Err(error),
        Told::Panic(panic) => resume_unwind(panic),
        Told::Unavailable => Ok(varying(reply::unavailable(settings, headers))),
    }
}

fn answered<R>(outcome: Outcome) -> Reply<R> {
    let mut response = Response::new(OperationBody::from(outcome.body));
    *response.status_mut() = outcome.status;
    *response.headers_mut() = outcome.headers;
    response
}

/// Waits, at most as long as the client, until an operation ends that had not ended when `news` was subscribed.
pub(super) async fn wait_for_end(
    instance: &Instance,
    key: &Key,
    news: &mut Subscription,
    patience: Duration,
) {
    let settings = &instance.settings;
    let end = async {
        loop {
            select! {
                // The operation may have ended.
                () = news.notified() => {}
                // Covers the loss of the message, and of the process that runs the operation.
                () = sleep(settings.heartbeat.min(settings.lease)) => {}
            }
            match instance.read_or_declare_lost(key).await {
                Ok(Some(record)) if !record.status.is_terminal() => {}
                Ok(_) => break,
                Err(error) => observe::backend_failed(key, &error),
            }
        }
    };
    let _ = timeout(patience, end).await;
}

/// Records that no client waits for the first reply any more. The document does not show it. Returns the record.
async fn land(instance: &Instance, key: &Key) -> Result<Option<Record>, BackendError> {
    let changed = instance.records.change(key, |record| {
        !record.status.is_terminal() && std::mem::take(&mut record.in_flight)
    });
    changed.await.map(Changed::value)
}

/// Records that a client gets the id. Returns the record.
async fn tell(instance: &Instance, key: &Key) -> Result<Option<Record>, BackendError> {
    let changed = instance.records.change(key, |record| {
        if record.status.is_terminal() || record.told {
            return false;
        }
        record.in_flight = false;
        record.told = true;
        true
    });
    changed.await.map(Changed::value)
}

/// A client that waits for the first reply. If it disconnects before that, it can repeat the request to get the
/// operation.
struct InFlight {
    instance: Arc<Instance>,
    key: Key,
    is_waiting: bool,
}

impl InFlight {
    fn has_landed(mut self) {
        self.is_waiting = false;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.is_waiting {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (instance, key) = (self.instance.clone(), self.key.clone());
            runtime.spawn(async move { repeat(&key, || land(&instance, &key)).await });
        }
    }
}

/// The owner of a key.
enum Taken<E> {
    /// This request has the key, and its work has begun.
    First(InFlight, Subscription, oneshot::Receiver<Told<E>>),
    /// An earlier, equal request has the key.
    Again(Key, Box<Record>, Subscription, Admission),
    /// Another request has the key.
    ByOther,
    /// The key is free, but this process drains.
    Draining,
    /// The key is free, but there is no room for the result.
    Refused(Refusal),
}

/// Takes the key, and begins the work if the key is free. From then on the work continues even if the client
/// disconnects, because the client is expected to repeat the request.
async fn begin<R, E>(
    instance: Arc<Instance>,
    claim: Claim,
    requester: Requester,
    admission: Admission,
    start: impl FnOnce() -> Call<R, E> + Send,
) -> Result<Taken<E>, BackendError>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    loop {
        let mut expected: Option<Revision> = None;
        let backend = &instance.records.backend;
        let found: Option<(Claimed, _)> = backend.read_revision(&claim.name).await?;
        if let Some((claimed, revision)) = found {
            let key = Key::of(&claimed.id);
            // Subscribes before the operation is read, so that no end is missed.
            let news = instance.changes.ends(&key);
            if let Some(record) = instance.read_or_declare_lost(&key).await? {
                return Ok(if claimed.fingerprint == claim.fingerprint {
                    Taken::Again(key, record.into(), news, admission)
                } else {
                    Taken::ByOther
                });
            }
            // The operation is gone, and the key is free.
            expected = Some(revision);
        }
        if let Err(refusal) = admission.check_room() {
            return Ok(Taken::Refused(refusal));
        }
        // The operation is created first, because a key without an operation is free.
        let name = Some(claim.name.clone());
        let created = instance
            .records
            .create(requester.clone(), Report::default(), name);
        let (key, record) = created.await?;
        let claimed = Claimed {
            fingerprint: claim.fingerprint.clone(),
            id: record.id.clone(),
        };
        let longest = instance.settings.longest();
        let value = encode(&claimed)?;
        let set = backend.set(&claim.name, expected, value, longest).await;
        if let Ok(true) = set {
            // Registers before the check for draining, so that `drain` waits for this operation.
            let registration = instance.register(&key);
            if instance.drain.is_draining() {
                // `drain` was called while the body was read or the store was called.
                instance.records.discard(&record).await;
                return Ok(Taken::Draining);
            }
            let news = instance.changes.ends(&key);
            let work = Work::Calling(start());
            let (sender, told) = oneshot::channel();
            let keyed = Keyed {
                name: claim.name,
                record: record.into(),
                first: sender,
            };
            tokio::spawn(Runner::new(registration, work, admission, Some(keyed)).run());
            let first = InFlight {
                instance,
                key,
                is_waiting: true,
            };
            return Ok(Taken::First(first, news, told));
        }
        // Another request with this key was faster, or the store has not answered. The store may have set the key
        // nevertheless. Without the operation the key is free.
        instance.records.discard(&record).await;
        let _ = set?;
    }
}

/// The reply to a repeated request.
pub(super) async fn again<R>(
    instance: &Instance,
    key: &Key,
    record: Record,
    news: &mut Subscription,
    client: &Client,
) -> Reply<R> {
    let (settings, headers) = (&instance.settings, &client.headers);
    if record.status.is_terminal() {
        return ended(instance, key, &record, headers).await;
    }
    if record.in_flight {
        return reply::in_flight(settings, headers);
    }
    wait_for_end(instance, key, news, client.patience).await;
    let latest = match instance.read_or_declare_lost(key).await {
        Ok(Some(latest)) if !latest.status.is_terminal() && !latest.told => {
            tell(instance, key).await
        }
        latest => latest,
    };
    match latest {
        // The request was refused.
        Ok(None) if !record.told => reply::unavailable(settings, headers),
        Ok(latest) => after_wait(instance, key, latest, client).await,
        Err(error) => {
            observe::backend_failed(key, &error);
            if record.told {
                client.accepted(instance, &record)
            } else {
                reply::unavailable(settings, headers)
            }
        }
    }
}

/// The reply after the wait, for the current record.
pub(super) async fn after_wait<R>(
    instance: &Instance,
    key: &Key,
    record: Option<Record>,
    client: &Client,
) -> Reply<R> {
    match record {
        Some(record) if record.status.is_terminal() => {
            ended(instance, key, &record, &client.headers).await
        }
        Some(record) => client.accepted(instance, &record),
        // A reply must not name an operation that does not exist.
        None => reply::gone(
            &instance.settings,
            "The operation was removed.",
            &client.headers,
        ),
    }
}

/// The stored inner response.
async fn ended<R>(
    instance: &Instance,
    key: &Key,
    record: &Record,
    headers: &HeaderMap,
) -> Reply<R> {
    let settings = &instance.settings;
    if record.status == OperationStatus::Cancelled {
        return reply::cancelled(settings, headers);
    }
    let Some(stored) = record.result else {
        return reply::no_result(settings, headers);
    };
    match instance.records.get_result(key, stored).await {
        Ok(Some(outcome)) if !record.consumed => answered(outcome),
        Ok(_) => reply::gone(settings, "The result has been read.", headers),
        Err(error) => {
            observe::backend_failed(key, &error);
            reply::unavailable(settings, headers)
        }
    }
}
