//! Requests with an `Idempotency-Key`: the same key, the same operation.

use super::body::OperationBody;
use super::claim::{Claim, Claimed};
use super::core::{Core, Requester};
use super::first_client::{Keyed, Told};
use super::first_reply::Asked;
use super::hub::Subscription;
use super::limits::{Admission, Refusal};
use super::observe;
use super::progress::Report;
use super::record::{Key, Record};
use super::records::{Changed, decode, encode};
use super::reply::{Reply, varying};
use super::result::Outcome;
use super::runner::{Runner, repeat};
use super::status::Status;
use super::work::{Call, Work, to_its_end};
use tower_promises_backend::BoxError;
use tower_promises_backend::{BackendError, CompareAndSet, Revision};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Says that a key is not one.
pub(super) fn malformed<R>(core: &Core, headers: &HeaderMap) -> Reply<R> {
    let detail = "The idempotency key is not valid.";
    varying(core.problem(StatusCode::BAD_REQUEST, detail, headers))
}

/// Says that another instance has to see to it that a request runs once.
pub(super) fn draining<R>(core: &Core, headers: &HeaderMap) -> Reply<R> {
    varying(core.unavailable(headers))
}

/// Says that a request is too large to be run once: it could not be told from another.
pub(super) fn too_large<R>(core: &Core, headers: &HeaderMap) -> Reply<R> {
    let detail = "The request body is too large.";
    varying(core.problem(StatusCode::PAYLOAD_TOO_LARGE, detail, headers))
}

/// Says that the body of a request has not arrived to its end, so that it cannot be told from another.
pub(super) fn incomplete<R>(core: &Core, headers: &HeaderMap) -> Reply<R> {
    let detail = "The request body is incomplete.";
    varying(core.problem(StatusCode::BAD_REQUEST, detail, headers))
}

/// Answers a request with a key. `start` is called if the key was not sent before. An error or a panic of the work is
/// that of this while the client waits.
pub(super) async fn answer<R, E>(
    core: Arc<Core>,
    claim: Claim,
    asked: Asked,
    admission: Admission,
    start: impl FnOnce() -> Call<R, E> + Send + 'static,
) -> Result<Reply<R>, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    let begin = begin(
        core.clone(),
        claim,
        asked.requester.clone(),
        admission,
        start,
    );
    // A client that goes away in between must not leave a key behind for work that nobody does.
    let (first, mut news, mut told) = match to_its_end(begin).await {
        Ok(Taken::First(first, news, told)) => (first, news, told),
        Ok(Taken::Again(key, record, mut news, _admission)) => {
            return Ok(varying(
                again(&core, &key, *record, &mut news, &asked).await,
            ));
        }
        Ok(Taken::ByOther) => {
            let detail = "The idempotency key was sent with another request.";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Ok(varying(core.problem(status, detail, &asked.headers)));
        }
        Ok(Taken::Draining) => return Ok(draining(&core, &asked.headers)),
        Ok(Taken::Refused(refusal)) => {
            observe::refused(refusal);
            return Ok(core.refusal(refusal, &asked.headers));
        }
        // Without the store it might run twice.
        Err(error) => {
            observe::stays_on_connection(&error);
            return Ok(varying(core.unavailable(&asked.headers)));
        }
    };
    let mut heard = select! {
        biased;
        told = &mut told => Some(told.ok()),
        () = end(&core, &first.key, &mut news, asked.patience) => None,
    };
    // The client is told the id now, unless its work has the last word before the store knows that.
    let key = first.key.clone();
    let landed = loop {
        if let Some(Some(told)) = heard {
            first.has_landed();
            return published(&core, told, &asked.headers);
        }
        select! {
            biased;
            told = &mut told, if heard.is_none() => heard = Some(told.ok()),
            landed = repeat(&key, || tell(&core, &key)) => break landed.ok(),
        }
    };
    let can_hear = heard.is_none();
    // An operation that is gone, or that has ended without a result, leaves the last word to its work. So does one of
    // which the store does not know that the client is told: it may be forgotten.
    let is_over = match &landed {
        Some(Some(record)) => record.status == Status::Failed && record.result.is_none(),
        Some(None) | None => true,
    };
    match landed {
        Some(_) => first.has_landed(),
        // Which tries it again.
        None => drop(first),
    }
    if can_hear && !is_over {
        told.close();
    }
    if can_hear {
        if let Ok(told) = told.await {
            return published(&core, told, &asked.headers);
        }
    }
    Ok(varying(match landed {
        Some(record) => reply(&core, &key, record, &asked).await,
        None => core.unavailable(&asked.headers),
    }))
}

/// What the work has ended with, as it is without a key.
fn published<R, E>(core: &Core, told: Told<E>, headers: &HeaderMap) -> Result<Reply<R>, E> {
    match told {
        Told::Response(outcome) => Ok(varying(answered(outcome))),
        Told::Error(error) => Err(error),
        Told::Panic(panic) => resume_unwind(panic),
        Told::Unavailable => Ok(varying(core.unavailable(headers))),
    }
}

fn answered<R>(outcome: Outcome) -> Reply<R> {
    let mut response = Response::new(OperationBody::from(outcome.body));
    *response.status_mut() = outcome.status;
    *response.headers_mut() = outcome.headers;
    response
}

/// Waits until an operation has ended that had not when it was subscribed to, and no longer than the client does.
async fn end(core: &Core, key: &Key, news: &mut Subscription, patience: Duration) {
    let settings = &core.settings;
    let end = async {
        loop {
            select! {
                // It is only said that it may have ended.
                () = news.ended() => {}
                // In case the message is lost, or the process that works on it.
                () = sleep(settings.heartbeat.min(settings.lease)) => {}
            }
            match core.load(key).await {
                Ok(Some(record)) if !record.status.is_terminal() => {}
                Ok(_) => break,
                Err(error) => observe::backend_failed(key, &error),
            }
        }
    };
    let _ = timeout(patience, end).await;
}

/// Says that nobody waits any more for the first reply, which the document does not show. Returns the record.
async fn land(core: &Core, key: &Key) -> Result<Option<Record>, BackendError> {
    let changed = core.records.change(key, |record| {
        !record.status.is_terminal() && std::mem::take(&mut record.in_flight)
    });
    changed.await.map(Changed::record)
}

/// Says that a client is told the id. Returns the record.
async fn tell(core: &Core, key: &Key) -> Result<Option<Record>, BackendError> {
    let changed = core.records.change(key, |record| {
        if record.status.is_terminal() || record.told {
            return false;
        }
        record.in_flight = false;
        record.told = true;
        true
    });
    changed.await.map(Changed::record)
}

/// The client that waits for the first reply. If it goes away before, it can come back for the operation.
struct InFlight {
    core: Arc<Core>,
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
            let (core, key) = (self.core.clone(), self.key.clone());
            runtime.spawn(async move { repeat(&key, || land(&core, &key)).await });
        }
    }
}

/// Whose a key is.
enum Taken<E> {
    /// This request's, whose work has begun.
    First(InFlight, Subscription, oneshot::Receiver<Told<E>>),
    /// That of the same request, sent before.
    Again(Key, Box<Record>, Subscription, Admission),
    /// That of another request.
    ByOther,
    /// Nobody's: this process is about to end.
    Draining,
    /// Nobody's: there is no room for the result.
    Refused(Refusal),
}

/// Takes the key, and begins the work if nobody has taken it before. From then on the work goes on whatever becomes of
/// the client, which is to come back.
async fn begin<R, E>(
    core: Arc<Core>,
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
        if let Some(entry) = core.records.get(&claim.name).await? {
            let claimed: Claimed = decode(&entry.value)?;
            let key = Key::of(&claimed.id);
            // Before it is known whether it has ended, so that its end is heard.
            let news = core.hub.subscribe(&key);
            if let Some(record) = core.load(&key).await? {
                return Ok(if claimed.fingerprint == claim.fingerprint {
                    Taken::Again(key, record.into(), news, admission)
                } else {
                    Taken::ByOther
                });
            }
            // The operation is gone, and the key free.
            expected = Some(entry.revision);
        }
        if let Err(refusal) = admission.check_room() {
            return Ok(Taken::Refused(refusal));
        }
        // The operation first: a key without one is free.
        let name = Some(claim.name.clone());
        let created = core
            .clone()
            .create(requester.clone(), Report::default(), name);
        let (key, record) = created.await?;
        let claimed = Claimed {
            fingerprint: claim.fingerprint.clone(),
            id: record.id.clone(),
        };
        let longest = core.settings.longest();
        let value = encode(&claimed)?;
        let set = core
            .records
            .set(&claim.name, expected, value, longest)
            .await;
        if let Ok(CompareAndSet::Set(_)) = set {
            // Before it is asked whether the process drains, so that who drains waits for it.
            let registration = core.register(&key);
            if core.is_draining() {
                // It has begun to while the body was read or the store was asked.
                core.discard(&record).await;
                return Ok(Taken::Draining);
            }
            let news = core.hub.subscribe(&key);
            let work = Work::Calling(start());
            let (sender, told) = oneshot::channel();
            let keyed = Keyed {
                name: claim.name,
                record: record.into(),
                first: sender,
            };
            tokio::spawn(Runner::new(registration, work, admission, Some(keyed)).run());
            let first = InFlight {
                core,
                key,
                is_waiting: true,
            };
            return Ok(Taken::First(first, news, told));
        }
        // Another request with this key was faster, or the store has not answered. It may have set the key even so,
        // which is free without the operation.
        core.discard(&record).await;
        let _ = set?;
    }
}

/// The answer to a request that was sent before.
async fn again<R>(
    core: &Core,
    key: &Key,
    record: Record,
    news: &mut Subscription,
    asked: &Asked,
) -> Reply<R> {
    if record.status.is_terminal() {
        return ended(core, key, &record, &asked.headers).await;
    }
    if record.in_flight {
        let detail = "The request with this idempotency key is being worked on.";
        return core.problem(StatusCode::CONFLICT, detail, &asked.headers);
    }
    end(core, key, news, asked.patience).await;
    let latest = match core.load(key).await {
        Ok(Some(latest)) if !latest.status.is_terminal() && !latest.told => tell(core, key).await,
        latest => latest,
    };
    match latest {
        // It was refused.
        Ok(None) if !record.told => core.unavailable(&asked.headers),
        Ok(latest) => reply(core, key, latest, asked).await,
        Err(error) => {
            observe::backend_failed(key, &error);
            if record.told {
                core.accepted(&record, asked.preferences, &asked.headers)
            } else {
                core.unavailable(&asked.headers)
            }
        }
    }
}

/// The answer when the client has waited, and there is this of the operation.
async fn reply<R>(core: &Core, key: &Key, record: Option<Record>, asked: &Asked) -> Reply<R> {
    match record {
        Some(record) if record.status.is_terminal() => {
            ended(core, key, &record, &asked.headers).await
        }
        Some(record) => core.accepted(&record, asked.preferences, &asked.headers),
        // A reply must not name what cannot be asked for.
        None => core.gone("The operation was removed.", &asked.headers),
    }
}

/// The inner response, from the store.
async fn ended<R>(core: &Core, key: &Key, record: &Record, headers: &HeaderMap) -> Reply<R> {
    if record.status == Status::Canceled {
        return core.canceled(headers);
    }
    let Some(stored) = record.result else {
        return core.no_result(headers);
    };
    match core.records.get_result(key, stored).await {
        Ok(Some(outcome)) if !record.consumed => answered(outcome),
        Ok(_) => core.gone("The result has been read.", headers),
        Err(error) => {
            observe::backend_failed(key, &error);
            core.unavailable(headers)
        }
    }
}
