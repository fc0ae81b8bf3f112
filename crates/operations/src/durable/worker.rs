//! The worker that takes up the runs of durable operations.

use super::running::{PAUSE, Request, Running};
use super::takeover::{Claimant, Takeover};
use super::wake::{Reason, Wake};
use crate::changes::ENDED;
use crate::instance::Instance;
use crate::metrics::{self, RunReason};
use crate::observe;
use crate::on_end;
use crate::open::{close, lists_of};
use crate::record::{Key, random};
use crate::records::repeat;
use bytes::Bytes;
use http::{Response, request};
use http_body::Body;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower_promises_backend::kit::drain::Drain;
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{BackendError, BoxError, Delivery, Outcome, WorkOptions};
use tower_service::Service;

/// The pause before an envelope is delivered again that another version of the program has written.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

/// Takes up runs until the process drains and the runs have ended.
pub(crate) async fn work<S, B, R>(
    instance: Arc<Instance>,
    service: S,
    prepare: impl Fn(&mut request::Parts) + Send + Sync + 'static,
) -> Result<(), BackendError>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    instance.is_known_to_work.store(true, Ordering::Relaxed);
    instance.listen();
    on_end::listen(&instance);
    let options = WorkOptions::new(instance.settings.durable.queue.clone())
        .concurrency(instance.settings.durable.max_runs)
        .lease(instance.settings.lease);
    let drain: Arc<Drain> = instance.drain.clone();
    let backend = instance.records.backend.clone();
    // A lock, so that the service need not be `Sync`.
    let (service, prepare) = (Mutex::new(service), Arc::new(prepare));
    let handle = move |delivery: Delivery| {
        let service = lock(&service).clone();
        let (instance, prepare) = (instance.clone(), prepare.clone());
        async move { handle(instance, service, &*prepare, &delivery).await }
    };
    let shutdown = Box::pin(async move { drain.draining().await });
    backend
        .queue()
        .work(options, Arc::new(handle), shutdown)
        .await
}

/// Handles an envelope: begins a run, unless the envelope is outdated.
async fn handle<S, B, R>(
    instance: Arc<Instance>,
    service: S,
    prepare: &(impl Fn(&mut request::Parts) + Sync),
    delivery: &Delivery,
) -> Outcome
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let Ok(wake) = serde_json::from_slice::<Wake>(&delivery.payload) else {
        observe::unreadable_envelope();
        // A process of the other version can read it.
        return Outcome::Retry {
            after: UNREADABLE_PAUSE,
        };
    };
    let key = Key::parse(&wake.key);
    let reason = match wake.reason {
        Reason::Begin => RunReason::Begin,
        Reason::Due => RunReason::Due,
        Reason::Settled(_) => RunReason::Settled,
    };
    let Ok(fence) = random() else {
        return Outcome::Retry { after: PAUSE };
    };
    // Owned, because futures that borrow from a closure are not `Send` for all lifetimes.
    let claimant = Arc::new(Claimant {
        instance: instance.clone(),
        key: key.clone(),
        wake,
        envelope: delivery.id.clone(),
        fence,
    });
    let taken = repeat(&key, || claimant.clone().take_over());
    let (held, memory) = match taken.await {
        Ok(Takeover::Run(held, memory)) => {
            metrics::taken_up(reason);
            (held, memory)
        }
        Ok(Takeover::Nothing) => return Outcome::Done,
        Ok(Takeover::Later(after)) => return Outcome::Retry { after },
        Ok(Takeover::Ended(record, failure)) => {
            close(
                &instance.records,
                &instance.settings,
                &key,
                &lists_of(&record),
            )
            .await;
            observe::ended(&key, record.status, Some(&failure.code));
            instance.announce(&key, ENDED).await;
            tell_end(&instance, &key).await;
            return Outcome::Done;
        }
        Err(_) => return Outcome::Retry { after: PAUSE },
    };
    let lists = lists_of(&held.record);
    match Running::begin(&instance, &key, *held, memory, service, prepare).await {
        Ok(running) => {
            let (outcome, has_ended) = running.run().await;
            if has_ended {
                close(&instance.records, &instance.settings, &key, &lists).await;
                tell_end(&instance, &key).await;
            }
            outcome
        }
        Err(error) => {
            observe::backend_failed(&key, &error);
            Outcome::Retry { after: PAUSE }
        }
    }
}

/// Tells the application of an end. After a failure, the envelope of the end does.
async fn tell_end(instance: &Instance, key: &Key) {
    if let Err(error) = instance.tell_end(key).await {
        observe::on_end_failed(key, &*error);
    }
}
