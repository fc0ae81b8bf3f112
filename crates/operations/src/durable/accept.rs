//! The first reply to a request that becomes a durable operation.

use super::request::StoredRequest;
use super::wake::{self, PRECAUTION, Reason};
use crate::claim::{Claim, Claimed};
use crate::escalation::Client;
use crate::idempotency::{after_wait, again, wait_for_end};
use crate::inner_call::to_its_end;
use crate::instance::Instance;
use crate::limits::Refusal;
use crate::memory::Durable;
use crate::metrics::{self, FirstReply};
use crate::observe;
use crate::open::{close, lists_of, open};
use crate::record::{Key, OperationStatus, Record, Requester, random};
use crate::reply::{self, Reply, varying};
use bytes::Bytes;
use http::request;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::kit::topics::Subscription;

/// Stores a request, so that a run begins in this process or in another, and waits for the end as long as the client
/// does.
pub(crate) async fn answer<R>(
    instance: Arc<Instance>,
    claim: Option<Claim>,
    client: Client,
    parts: &request::Parts,
    body: &Bytes,
) -> Reply<R> {
    let settings = &instance.settings;
    let principal = (settings.principal)(parts);
    let stored = StoredRequest::encode(parts, body, principal, &settings.durable.headers);
    let accepted = match stored {
        Ok(stored) => {
            let requester = client.requester.clone();
            // A client that disconnects meanwhile must not leave behind a request without a run.
            to_its_end(accept(instance.clone(), claim, requester, stored)).await
        }
        Err(error) => Err(error),
    };
    varying(match accepted {
        Ok(Accepted::New(key, mut news)) => {
            wait_for_end(&instance, &key, &mut news, client.patience).await;
            match instance.records.read(&key).await {
                Ok(found) => {
                    let record = found.map(|(record, _)| record);
                    if let Some(record) = &record {
                        metrics::replied(FirstReply::of(record));
                        warn_if_not_taken_up(&instance, &key, record, &client);
                    }
                    after_wait(&instance, &key, record, &client).await
                }
                Err(error) => {
                    observe::backend_failed(&key, &error);
                    reply::unavailable(settings, &client.headers)
                }
            }
        }
        Ok(Accepted::Again(key, record, mut news)) => {
            metrics::replied(FirstReply::Repeated);
            again(&instance, &key, *record, &mut news, &client).await
        }
        Ok(Accepted::Refused(refusal)) => {
            observe::refused(refusal);
            reply::refusal(settings, refusal, &client.headers)
        }
        Ok(Accepted::ByOther) => reply::other_request(settings, &client.headers),
        Err(error) => {
            observe::not_accepted(&error);
            reply::unavailable(settings, &client.headers)
        }
    })
}

/// The time after which an idle worker has taken up a run on each backend.
const SOON: Duration = Duration::from_secs(1);

/// Warns once if a request has waited for its run in vain, and this process takes up none.
fn warn_if_not_taken_up(instance: &Instance, key: &Key, record: &Record, client: &Client) {
    let is_late = record.status == OperationStatus::NotStarted && client.patience >= SOON;
    if is_late && !instance.is_known_to_work.swap(true, Ordering::Relaxed) {
        observe::not_taken_up(key);
    }
}

enum Accepted {
    New(Key, Subscription),
    /// An earlier, equal request has the idempotency key.
    Again(Key, Box<Record>, Subscription),
    /// Another request has the idempotency key.
    ByOther,
    /// There are too many operations, or too much is stored.
    Refused(Refusal),
}

async fn accept(
    instance: Arc<Instance>,
    claim: Option<Claim>,
    requester: Requester,
    stored: Bytes,
) -> Result<Accepted, BackendError> {
    let backend = &instance.records.backend;
    loop {
        let mut expected = None;
        if let Some(claim) = &claim {
            let found: Option<(Claimed, _)> = backend.read_revision(&claim.name).await?;
            if let Some((claimed, revision)) = found {
                let key = Key::of(&claimed.id);
                // Subscribes before the operation is read, so that no end is missed.
                let news = instance.changes.ends(&key);
                if let Some(record) = instance.read_or_declare_lost(&key).await? {
                    return Ok(if claimed.fingerprint == claim.fingerprint {
                        Accepted::Again(key, record.into(), news)
                    } else {
                        Accepted::ByOther
                    });
                }
                expected = Some(revision);
            }
        }
        // A request with an idempotency key is refused only if it is not a repeated one.
        let room = instance.limits.check_room(requester.principal.as_deref());
        if let Err(refusal) = room {
            return Ok(Accepted::Refused(refusal));
        }
        let name = claim.as_ref().map(|claim| claim.name.clone());
        let began = Instant::now();
        let created = create(&instance, requester.clone(), stored.clone(), name);
        let (key, record) = match created.await? {
            Ok(created) => created,
            Err(refusal) => return Ok(Accepted::Refused(refusal)),
        };
        if let Some(claim) = &claim {
            // The operation is created first, because a key without an operation is free.
            let claimed = encode(&Claimed {
                fingerprint: claim.fingerprint.clone(),
                id: record.id.clone(),
            })?;
            let longest = instance.settings.longest();
            if !backend.set(&claim.name, expected, claimed, longest).await? {
                // Another request was faster.
                instance.records.discard(&record).await;
                let (records, settings) = (&instance.records, &instance.settings);
                close(records, settings, &key, &lists_of(&record)).await;
                continue;
            }
            if began.elapsed() >= PRECAUTION / 2 {
                // A worker may have found the operation without its key, and may be about to discard the operation. A
                // repeated request finds out.
                return Err(BackendError::unavailable("the key was stored too late"));
            }
        }
        let news = instance.changes.ends(&key);
        let first = wake::envelope(&instance, &key, 1, Reason::Begin)?;
        backend.enqueue(first).await?;
        observe::began(&key, true);
        return Ok(Accepted::New(key, news));
    }
}

/// Stores a request and its operation, which waits for its first run. Refuses it if there are too many.
async fn create(
    instance: &Instance,
    requester: Requester,
    stored: Bytes,
    claim: Option<String>,
) -> Result<Result<(Key, Record), Refusal>, BackendError> {
    let records = &instance.records;
    let longest = instance.settings.longest();
    let mut record = Record::new(random()?, random()?, requester, longest);
    let key = Key::of(&record.id);
    let principal = record.principal.as_deref();
    let list = match open(records, &instance.settings, principal, &key).await? {
        Ok(list) => list,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let time_to_live = record.time_to_live_of_parts();
    // The process may end after the operation is stored. Then this envelope begins the run.
    let precaution = wake::precaution(instance, &key, 1, Reason::Begin)?;
    records.backend.enqueue(precaution).await?;
    let pieces = records
        .backend
        .put_pieces(&key.request(), stored, time_to_live)
        .await?;
    record.durable = Some(Box::new(Durable {
        turn: 1,
        begun: record.created,
        list,
        secret: random()?,
        request: pieces,
        ..Durable::default()
    }));
    // The operation is never forgotten, so a repeated request may get its address at any time.
    record.told = claim.is_some();
    record.claim = claim;
    records.watch_end(&key, &mut record).await?;
    records.bury(&key, &record).await?;
    let (name, time_to_live) = (key.record(), record.time_to_live());
    if !records.backend.create(&name, &record, time_to_live).await? {
        // 128 random bits do not come twice.
        return Err(BackendError::unavailable("the id is taken"));
    }
    if let Some(principal) = &record.principal {
        if let Err(error) = records.list_add(principal, &record.id).await {
            observe::backend_failed(&key, &error);
        }
    }
    Ok(Ok((key, record)))
}
