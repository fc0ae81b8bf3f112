//! The first reply: the inner response if it comes in time, else one that names the operation.

use super::body::{OperationBody, OperationRequestBody};
use super::builder::{Escalate, OnDisconnect};
use super::core::{Core, Requester};
use super::limits::Admission;
use super::observe;
use super::operations::Operations;
use super::prefer::Preferences;
use super::progress::Progress;
use super::reply::{Reply, add_vary};
use super::runner::Runner;
use super::status::now;
use super::work::{Call, Task, Work, call, unwrapped};
use super::{idempotency, work};
use crate::BoxError;
use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::select;
use tokio::time::sleep;
use tower_service::Service;

/// Answers a request that is not below the mount path.
pub(super) async fn answer<S, B, R>(
    core: Arc<Core>,
    service: S,
    request: Request<B>,
) -> Result<Reply<R>, S::Error>
where
    S: Service<Request<OperationRequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(Operations::of(core.clone()));
    let escalate = core.settings.escalate(&parts);
    let preferences = Preferences::of(&parts.headers);
    let can_escalate = match escalate {
        Escalate::Never => false,
        Escalate::WhenPreferred => preferences.respond_async,
        Escalate::Always => true,
    };
    if !can_escalate || core.is_draining() {
        let body = OperationRequestBody::streaming(body);
        let response = on_connection(service, parts, body).await?;
        return Ok(published(response, escalate != Escalate::Never));
    }
    let principal = (core.settings.principal)(&parts);
    let requester = Requester {
        principal: principal.map(|principal| Core::principal_digest(&principal)),
        received: now(),
    };
    let admission = match core.limits.admit(requester.principal.as_deref()) {
        Ok(admission) => admission,
        Err(refusal) => {
            observe::refused(refusal);
            return Ok(core.refusal(refusal, &parts.headers));
        }
    };
    let body = OperationRequestBody::read(body, core.settings.max_body_bytes).await;
    if !body.is_whole() {
        let response = on_connection(service, parts, body).await?;
        drop(admission);
        return Ok(published(response, true));
    }
    core.listen();

    let (progress, headers) = (Progress::new(), parts.headers.clone());
    let asked = Asked {
        preferences,
        headers,
        requester,
    };
    if core.settings.idempotency_keys {
        match idempotency::Claim::of(
            &parts,
            asked.requester.principal.as_deref(),
            body.read_bytes(),
        ) {
            Ok(None) => {}
            Ok(Some(claim)) => {
                let call = start(service, parts, body, progress);
                return Ok(idempotency::answer(core, claim, asked, admission, call).await);
            }
            Err(()) => return Ok(idempotency::malformed(&core, &asked.headers)),
        }
    }
    let call = start(service, parts, body, progress)();
    wait(core, asked, admission, call).await
}

/// What of a request its first reply depends on.
pub(super) struct Asked {
    pub(super) preferences: Preferences,
    pub(super) headers: http::HeaderMap,
    pub(super) requester: Requester,
}

/// Calls the inner service as if the layer were not there.
async fn on_connection<S, B, R>(
    service: S,
    mut parts: request::Parts,
    body: OperationRequestBody<B>,
) -> Result<Response<R>, S::Error>
where
    S: Service<Request<OperationRequestBody<B>>, Response = Response<R>>,
    B: Body,
{
    let progress = Progress::detached();
    parts.extensions.insert(progress.clone());
    let request = Request::from_parts(parts, body);
    progress.scope(call(service, request, &progress)).await
}

/// The inner call as a task, which starts when this is called.
fn start<S, B, R>(
    service: S,
    mut parts: request::Parts,
    body: OperationRequestBody<B>,
    progress: Progress,
) -> impl FnOnce() -> Call<R, S::Error>
where
    S: Service<Request<OperationRequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Send + 'static,
{
    move || {
        parts.extensions.insert(progress.clone());
        let request = Request::from_parts(parts, body);
        let reports = progress.clone();
        Task::spawn(progress, async move {
            work::call(service, request, &reports).await
        })
    }
}

fn published<R>(response: Response<R>, varies: bool) -> Reply<R> {
    let mut response = response.map(OperationBody::inner);
    if varies {
        add_vary(response.headers_mut());
    }
    response
}

/// Waits for the inner response, and no longer than the client wants to.
async fn wait<R, E>(
    core: Arc<Core>,
    asked: Asked,
    admission: Admission,
    call: Call<R, E>,
) -> Result<Reply<R>, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    let settings = &core.settings;
    let patience = asked.preferences.wait(settings.wait, settings.max_wait);
    let mut waiting = Waiting {
        core: core.clone(),
        requester: asked.requester.clone(),
        running: Some((call, admission)),
    };
    let (call, _) = waiting
        .running
        .as_mut()
        .expect("it is there until it is taken");
    select! {
        biased;
        ended = &mut *call => {
            return Ok(published(unwrapped(ended).await?, true));
        }
        () = sleep(patience) => {}
    }
    if core.is_draining() {
        return Ok(published(unwrapped(call.await).await?, true));
    }
    let report = call.progress().latest();
    let mut created = Box::pin(core.clone().create(asked.requester, report, false));
    let created = select! {
        biased;
        ended = &mut *call => {
            let core = core.clone();
            tokio::spawn(async move {
                if let Ok((key, _)) = created.await {
                    core.discard(&key).await;
                }
            });
            return Ok(published(unwrapped(ended).await?, true));
        }
        created = &mut created => created,
    };
    let (key, record) = match created {
        Ok(created) => created,
        Err(error) => {
            observe::stays_on_connection(&error);
            return Ok(published(unwrapped(call.await).await?, true));
        }
    };
    // A reply that names an operation never names one that has ended.
    if let Some(ended) = call.poll_now() {
        core.discard(&key).await;
        return Ok(published(unwrapped(ended).await?, true));
    }
    if let Some((call, admission)) = waiting.running.take() {
        let work = Work::Calling(call);
        tokio::spawn(Runner::new(core.clone(), key, work, admission).run());
    }
    Ok(core.accepted(&record, asked.preferences, &asked.headers))
}

/// Work whose client waits. Dropped before its end, because the client is gone, it goes on where that is configured.
struct Waiting<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    core: Arc<Core>,
    requester: Requester,
    running: Option<(Call<R, E>, Admission)>,
}

impl<R, E> Drop for Waiting<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    fn drop(&mut self) {
        let Some((call, admission)) = self.running.take() else {
            return;
        };
        if call.has_ended() || self.core.settings.on_disconnect == OnDisconnect::Drop {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (core, requester) = (self.core.clone(), self.requester.clone());
        runtime.spawn(async move {
            let report = call.progress().latest();
            match core.clone().create(requester, report, false).await {
                Ok((key, _)) => {
                    let work = Work::Calling(call);
                    Runner::new(core, key, work, admission).run().await;
                }
                Err(error) => {
                    // It goes on all the same, and nobody can ask for it.
                    observe::stays_on_connection(&error);
                    let _ = call.await;
                }
            }
        });
    }
}
