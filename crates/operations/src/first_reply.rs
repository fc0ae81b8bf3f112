//! The first reply: the inner response if it comes in time, else a reply that names the operation.

use super::body::{OperationBody, OperationRequestBody};
use super::claim::{Claim, IDEMPOTENCY_KEY};
use super::escalation::{self, Client};
use super::inner_call::{on_connection, start};
use super::instance::Instance;
use super::limits::Refusal;
use super::operations::Operations;
use super::prefer::Preferences;
use super::record::Requester;
use super::reply::{self, Reply, add_vary, varying};
use super::settings::{Escalate, Settings};
use super::{durable, idempotency, observe, on_end};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tower_promises_backend::BoxError;
use tower_service::Service;

/// Answers a request that is not below the mount path.
pub(super) async fn answer<S, B, R>(
    instance: Arc<Instance>,
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
    on_end::listen(&instance);
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(Operations::of(instance.clone()));
    let settings = &instance.settings;
    let is_durable = settings.is_durable(&parts);
    let escalate = if is_durable {
        Escalate::Always
    } else {
        settings.escalate(&parts)
    };
    let varies = settings.varies(&mut parts, escalate);
    let preferences = Preferences::of(&parts.headers);
    let mut can_escalate = match escalate {
        Escalate::Never => false,
        Escalate::WhenPreferred => preferences.respond_async,
        Escalate::Always => true,
    };
    if can_escalate && instance.mount.is_unreachable() {
        observe::stays_because_unreachable();
        can_escalate = false;
    }
    let has_key = settings.idempotency_keys
        && escalate != Escalate::Never
        && parts.headers.contains_key(IDEMPOTENCY_KEY);
    if (has_key || is_durable) && instance.drain.is_draining() {
        // Another instance can ensure that the request runs once, or that it survives its process.
        return Ok(varying(reply::unavailable(settings, &parts.headers)));
    }
    if !(can_escalate || has_key || is_durable) || instance.drain.is_draining() {
        let body = OperationRequestBody::streaming(body);
        let response = on_connection(service, parts, body).await?;
        return Ok(published(response, varies));
    }
    let client = Client {
        requester: Requester {
            principal: settings.principal(&parts),
            received: settings.now(),
            callback: settings.callback(&parts),
        },
        preferences,
        patience: if can_escalate {
            preferences.wait(settings.wait, settings.max_wait)
        } else {
            Duration::MAX
        },
        headers: parts.headers.clone(),
    };
    let (principal, headers) = (client.requester.principal.as_deref(), &client.headers);
    // A repeated request needs no room for a result.
    let needs_room = !has_key;
    let body = if body.is_end_stream() {
        OperationRequestBody::default()
    } else {
        match receive(&instance, principal, needs_room, headers, body).await {
            Ok(body) => body,
            Err(reply) => return Ok(reply),
        }
    };
    if (has_key || is_durable) && !body.is_whole() {
        return Ok(varying(if body.is_too_large() {
            reply::too_large(settings, headers)
        } else {
            reply::incomplete(settings, headers)
        }));
    }
    if !body.is_whole() {
        // The request never becomes an operation. Counting it as running would let the client hold the place for any
        // time, because no limit of the layer applies to a body that the inner service reads from the connection.
        let response = on_connection(service, parts, body).await?;
        return Ok(published(response, true));
    }
    let admission = instance.limits.admit(principal).and_then(|admission| {
        // The room for a durable request is checked where it is stored.
        if needs_room && !is_durable {
            admission.check_room()?;
        }
        Ok(admission)
    });
    let admission = match admission {
        Ok(admission) => admission,
        Err(refusal) => return Ok(refused(settings, refusal, headers)),
    };
    instance.listen();

    let claim = if has_key {
        match Claim::of(&parts, principal, body.read_bytes()) {
            Ok(claim) => claim,
            Err(()) => return Ok(varying(reply::malformed_key(settings, headers))),
        }
    } else {
        None
    };
    if is_durable {
        return Ok(durable::answer(instance, claim, client, &parts, body.read_bytes()).await);
    }
    let start = start(service, parts, body);
    match claim {
        Some(claim) => idempotency::answer(instance, claim, client, admission, start).await,
        None => escalation::answer(instance, client, admission, start()).await,
    }
}

/// Reads a request body, unless it is too large or the limits on bodies that are being received refuse the request.
async fn receive<B, R>(
    instance: &Instance,
    principal: Option<&str>,
    needs_room: bool,
    headers: &HeaderMap,
    body: B,
) -> Result<OperationRequestBody<B>, Reply<R>>
where
    B: Body,
{
    let settings = &instance.settings;
    let receiving = instance.limits.receive(principal).and_then(|receiving| {
        if needs_room {
            receiving.check_room()?;
        }
        Ok(receiving)
    });
    let _receiving = receiving.map_err(|refusal| refused(settings, refusal, headers))?;
    let body = OperationRequestBody::read(body, settings.max_body_bytes);
    let body = timeout(settings.receive_timeout, body).await;
    body.map_err(|_| {
        observe::too_slow();
        varying(reply::too_slow(settings, headers))
    })
}

fn refused<R>(settings: &Settings, refusal: Refusal, headers: &HeaderMap) -> Reply<R> {
    observe::refused(refusal);
    reply::refusal(settings, refusal, headers)
}

fn published<R>(response: Response<R>, varies: bool) -> Reply<R> {
    let mut response = response.map(OperationBody::inner);
    if varies {
        add_vary(response.headers_mut());
    }
    response
}
