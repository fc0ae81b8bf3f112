//! Requests with an `Idempotency-Key`: the same key, the same operation.

use super::body::OperationBody;
use super::core::{Core, Requester};
use super::first_reply::Asked;
use super::hub::Subscription;
use super::limits::{Admission, Refusal};
use super::observe;
use super::progress::Report;
use super::record::{Key, Record, digest};
use super::records::{Changed, Records, decode, encode};
use super::reply::{Reply, varying};
use super::runner::{Runner, repeat};
use super::status::Status;
use super::work::{Call, Work, to_its_end};
use crate::BoxError;
use crate::backend::{BackendError, CompareAndSet, Revision};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Response, StatusCode, request};
use http_body::Body;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::select;
use tokio::time::{sleep, timeout};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How many bytes a key may have.
const MAX_KEY_BYTES: usize = 255;

/// What a client claims by sending a key.
pub(super) struct Claim {
    /// Where the store has it. The principal is a part of it.
    key: String,
    /// What the key was sent with. Another request must not get the answer to this one.
    fingerprint: String,
}

/// What the store knows of a key.
#[derive(Serialize, Deserialize)]
struct Claimed {
    fingerprint: String,
    id: String,
}

impl Claim {
    /// `None` for a request without a key, an error for one whose key is not one.
    pub(super) fn of(
        request: &request::Parts,
        principal: Option<&str>,
        body: &Bytes,
    ) -> Result<Option<Self>, ()> {
        let mut keys = request.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = keys.next() else {
            return Ok(None);
        };
        let key = key.as_bytes();
        if key.is_empty() || key.len() > MAX_KEY_BYTES || keys.next().is_some() {
            return Err(());
        }
        let content_type = request.headers.get(CONTENT_TYPE);
        // HTTP/2 has the host in the address, and HTTP/1 in a header.
        let authority = request.uri.authority().map(Authority::as_str);
        let host = authority.map(str::as_bytes);
        let host = host.or_else(|| Some(request.headers.get(HOST)?.as_bytes()));
        let path = request.uri.path_and_query().map(PathAndQuery::as_str);
        let principal = principal.unwrap_or_default().as_bytes();
        Ok(Some(Self {
            key: format!("operation/key/{}", digest(&[principal, key])),
            fingerprint: digest(&[
                request.method.as_str().as_bytes(),
                &host.unwrap_or_default().to_ascii_lowercase(),
                path.unwrap_or_default().as_bytes(),
                content_type.map_or(b"", |content_type| content_type.as_bytes()),
                body,
            ]),
        }))
    }
}

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

/// Answers a request with a key. `start` is called if nobody has sent the key before.
pub(super) async fn answer<R, E>(
    core: Arc<Core>,
    claim: Claim,
    asked: Asked,
    admission: Admission,
    start: impl FnOnce() -> Call<R, E> + Send + 'static,
) -> Reply<R>
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
    let (first, record, mut news) = match to_its_end(begin).await {
        Ok(Taken::First(first, record, news)) => (first, record, news),
        Ok(Taken::Again(key, record, mut news, _admission)) => {
            return varying(again(&core, &key, *record, &mut news, &asked).await);
        }
        Ok(Taken::ByOther) => {
            let detail = "The idempotency key was sent with another request.";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return varying(core.problem(status, detail, &asked.headers));
        }
        Ok(Taken::Draining) => return draining(&core, &asked.headers),
        Ok(Taken::Refused(refusal)) => {
            observe::refused(refusal);
            return core.refusal(refusal, &asked.headers);
        }
        // Without the store it might run twice.
        Err(error) => {
            observe::stays_on_connection(&error);
            return varying(core.unavailable(&asked.headers));
        }
    };
    end(&core, &first.key, &mut news, asked.patience).await;
    // The client is told the id now.
    let key = first.key.clone();
    let landed = match land(&core, &key).await {
        Ok(landed) => {
            first.has_landed();
            landed
        }
        Err(error) => {
            observe::backend_failed(&key, &error);
            // Which tries it again.
            drop(first);
            Some(*record)
        }
    };
    varying(reply(&core, &key, landed, &asked).await)
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
enum Taken {
    /// This request's, whose work has begun.
    First(InFlight, Box<Record>, Subscription),
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
) -> Result<Taken, BackendError>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    loop {
        let mut expected: Option<Revision> = None;
        if let Some(entry) = core.records.get(&claim.key).await? {
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
        let name = Some(claim.key.clone());
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
        let set = core.records.set(&claim.key, expected, value, longest).await;
        if let Ok(CompareAndSet::Set(_)) = set {
            // Before it is asked whether the process drains, so that who drains waits for it.
            let registration = core.register(&key);
            if core.is_draining() {
                // It has begun to while the body was read or the store was asked.
                core.discard(&key).await;
                return Ok(Taken::Draining);
            }
            let news = core.hub.subscribe(&key);
            let work = Work::Calling(start());
            tokio::spawn(Runner::new(registration, work, admission).run());
            let first = InFlight {
                core,
                key,
                is_waiting: true,
            };
            return Ok(Taken::First(first, record.into(), news));
        }
        // Another request with this key was faster, or the store has not answered. It may have set the key even so,
        // which is free without the operation.
        core.discard(&key).await;
        let _ = set?;
    }
}

/// Frees the key of an operation that was removed, unless it has another one by now.
pub(super) async fn release(records: &Records, name: &str, id: &str) -> Result<(), BackendError> {
    let Some(entry) = records.get(name).await? else {
        return Ok(());
    };
    let claimed: Claimed = decode(&entry.value)?;
    if claimed.id == id {
        // A key without an operation is free, so this only sees to it that it does not stay for long.
        let moment = Duration::from_secs(1);
        let set = records.set(name, Some(entry.revision), entry.value, moment);
        let _ = set.await?;
    }
    Ok(())
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
    match core.load(key).await {
        Ok(latest) => reply(core, key, latest, asked).await,
        Err(error) => {
            observe::backend_failed(key, &error);
            core.accepted(&record, asked.preferences, &asked.headers)
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
        Ok(Some(outcome)) if !record.consumed => {
            let mut response = Response::new(OperationBody::from(outcome.body));
            *response.status_mut() = outcome.status;
            *response.headers_mut() = outcome.headers;
            response
        }
        Ok(_) => core.gone("The result has been read.", headers),
        Err(error) => {
            observe::backend_failed(key, &error);
            core.unavailable(headers)
        }
    }
}
