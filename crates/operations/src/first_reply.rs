//! The first reply: the inner response if it comes in time, else a reply that names the operation.

use super::body::{OperationBody, OperationRequestBody};
use super::claim::{Claim, IDEMPOTENCY_KEY};
use super::core::{Core, Requester};
use super::limits::Admission;
use super::observe;
use super::operations::Operations;
use super::prefer::Preferences;
use super::progress::{Progress, Report};
use super::record::{Key, Record};
use super::reply::{Reply, add_vary, varying};
use super::runner::Runner;
use super::settings::{Escalate, OnDisconnect};
use super::work::{Call, Task, Work, call, unwrapped};
use super::{condition, idempotency, work};
use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::select;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower_promises_backend::BackendError;
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::clock::now;
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
    let varies = core.settings.varies(&mut parts, escalate);
    let preferences = Preferences::of(&parts.headers);
    let mut can_escalate = match escalate {
        Escalate::Never => false,
        Escalate::WhenPreferred => preferences.respond_async,
        Escalate::Always => true,
    };
    if can_escalate && core.mount.is_unreachable() {
        observe::stays_because_unreachable();
        can_escalate = false;
    }
    let has_key = core.settings.idempotency_keys
        && escalate != Escalate::Never
        && parts.headers.contains_key(IDEMPOTENCY_KEY);
    if has_key && core.drain.is_draining() {
        // Another instance can see to it that it runs once.
        return Ok(idempotency::draining(&core, &parts.headers));
    }
    if !(can_escalate || has_key) || core.drain.is_draining() {
        let body = OperationRequestBody::streaming(body);
        let response = on_connection(service, parts, body).await?;
        return Ok(published(response, varies));
    }
    let principal = (core.settings.principal)(&parts);
    let requester = Requester {
        principal: principal.map(|principal| Core::principal_digest(&principal)),
        received: now(),
    };
    let principal = requester.principal.as_deref();
    let settings = &core.settings;
    let refuse = |refusal| {
        observe::refused(refusal);
        core.refusal(refusal, &parts.headers)
    };
    // A repeated request needs no room for a result.
    let needs_room = !has_key;
    let body = if body.is_end_stream() {
        OperationRequestBody::default()
    } else {
        let receiving = core.limits.receive(principal).and_then(|receiving| {
            if needs_room {
                receiving.check_room()?;
            }
            Ok(receiving)
        });
        let _receiving = match receiving {
            Ok(receiving) => receiving,
            Err(refusal) => return Ok(refuse(refusal)),
        };
        let body = OperationRequestBody::read(body, settings.max_body_bytes);
        match timeout(settings.receive_timeout, body).await {
            Ok(body) => body,
            Err(_) => {
                observe::too_slow();
                return Ok(varying(core.too_slow(&parts.headers)));
            }
        }
    };
    if has_key && !body.is_whole() {
        return Ok(if body.is_too_large() {
            idempotency::too_large(&core, &parts.headers)
        } else {
            idempotency::incomplete(&core, &parts.headers)
        });
    }
    if !body.is_whole() {
        // The request never becomes an operation. Counting it as running would let the client hold the place for any
        // time, because no limit of the layer applies to a body that the inner service reads from the connection.
        let response = on_connection(service, parts, body).await?;
        return Ok(published(response, true));
    }
    let admission = core.limits.admit(principal).and_then(|admission| {
        if needs_room {
            admission.check_room()?;
        }
        Ok(admission)
    });
    let admission = match admission {
        Ok(admission) => admission,
        Err(refusal) => return Ok(refuse(refusal)),
    };
    core.listen();

    let (progress, headers) = (Progress::new(), parts.headers.clone());
    let patience = if can_escalate {
        preferences.wait(settings.wait, settings.max_wait)
    } else {
        Duration::MAX
    };
    let asked = Asked {
        preferences,
        patience,
        headers,
        requester,
    };
    if has_key {
        match Claim::of(
            &parts,
            asked.requester.principal.as_deref(),
            body.read_bytes(),
        ) {
            Ok(None) => {}
            Ok(Some(claim)) => {
                let call = start(service, parts, body, progress);
                return idempotency::answer(core, claim, asked, admission, call).await;
            }
            Err(()) => return Ok(idempotency::malformed(&core, &asked.headers)),
        }
    }
    let call = start(service, parts, body, progress)();
    wait(core, asked, admission, call).await
}

/// The data of a request that its first reply depends on.
pub(super) struct Asked {
    pub(super) preferences: Preferences,
    /// How long the client waits.
    pub(super) patience: Duration,
    pub(super) headers: http::HeaderMap,
    pub(super) requester: Requester,
}

/// Calls the inner service as if the layer were absent.
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

/// Returns a function that spawns the inner call as a task.
fn start<S, B, R>(
    service: S,
    mut parts: request::Parts,
    body: OperationRequestBody<B>,
    progress: Progress,
) -> impl FnOnce() -> Call<R, S::Error> + Send + 'static
where
    S: Service<Request<OperationRequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Send + 'static,
{
    move || {
        condition::remove(&mut parts);
        parts.extensions.insert(progress.clone());
        let body = body.watched_by(progress.clone());
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

/// Waits for the inner response, at most as long as the client.
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
        () = sleep(asked.patience) => {}
    }
    if core.drain.is_draining() {
        return Ok(published(unwrapped(call.await).await?, true));
    }
    let report = call.progress().latest();
    let mut creating = Creating::start(&core, asked.requester, report);
    let created = select! {
        biased;
        ended = &mut *call => return Ok(published(unwrapped(ended).await?, true)),
        created = creating.created() => created,
    };
    let (key, record) = match created {
        Ok(created) => created,
        Err(error) => {
            observe::stays_on_connection(&error);
            return Ok(published(unwrapped(call.await).await?, true));
        }
    };
    // Registers before the check for draining, so that `drain` waits for this operation.
    let registration = core.register(&key);
    if core.drain.is_draining() {
        drop(registration);
        return Ok(published(unwrapped(call.await).await?, true));
    }
    // A reply must not name an operation that has ended.
    if let Some(ended) = call.poll_now() {
        return Ok(published(unwrapped(ended).await?, true));
    }
    if let Some((call, admission)) = waiting.running.take() {
        creating.keep();
        let work = Work::Calling(call);
        tokio::spawn(Runner::new(registration, work, admission, None).run());
    }
    Ok(core.accepted(&record, asked.preferences, &asked.headers))
}

/// An operation that is being created. Dropping it discards the operation, unless [`keep`](Self::keep) was called.
struct Creating {
    core: Arc<Core>,
    task: Option<JoinHandle<Result<(Key, Record), BackendError>>>,
    created: Option<Record>,
}

impl Creating {
    fn start(core: &Arc<Core>, requester: Requester, report: Report) -> Self {
        let create = core.clone().create(requester, report, None);
        Self {
            core: core.clone(),
            task: Some(tokio::spawn(create)),
            created: None,
        }
    }

    /// Resolves once, to the created operation. Cancel safe.
    async fn created(&mut self) -> Result<(Key, Record), BackendError> {
        let Some(task) = &mut self.task else {
            return std::future::pending().await;
        };
        let created = task.await;
        self.task = None;
        let (key, record) = created.map_err(BackendError::unavailable)??;
        self.created = Some(record.clone());
        Ok((key, record))
    }

    fn keep(mut self) {
        self.created = None;
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        let (task, created) = (self.task.take(), self.created.take());
        if task.is_none() && created.is_none() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let core = self.core.clone();
        runtime.spawn(async move {
            let mut created = created;
            if let Some(task) = task {
                created = task
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .map(|(_, record)| record);
            }
            if let Some(record) = created {
                core.discard(&record).await;
            }
        });
    }
}

/// Work whose client waits. If the client disconnects and drops it before the end, the work continues where that is
/// configured.
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
            match core.clone().create(requester, report, None).await {
                Ok((key, _)) => {
                    let work = Work::Calling(call);
                    let registration = core.register(&key);
                    Runner::new(registration, work, admission, None).run().await;
                }
                Err(error) => {
                    // The work continues without an address.
                    observe::stays_on_connection(&error);
                    let _ = call.await;
                }
            }
        });
    }
}
