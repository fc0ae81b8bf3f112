//! Replies to requests below the mount path.

use super::body::OperationBody;
use super::cancel;
use super::condition;
use super::core::{Core, Found};
use super::future::OperationFuture;
use super::record::{Key, Record, Status};
use super::records::Changed;
use super::reply::{self, Reply, no_store};
use super::settings::Settings;
use super::{events, observe, page};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::Body;
use http_body_util::Empty;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tower_promises_backend::BackendError;
use tower_service::Service;

/// The target of a request below the mount path.
pub(super) enum Route<'a> {
    Asset(&'a str),
    Status(&'a str),
    Result(&'a str),
    Events(&'a str),
    Cancel(&'a str),
    Unknown,
}

impl<'a> Route<'a> {
    /// Returns `None` for a path that is not below the mount path.
    pub(super) fn of(path: &'a str, mount: &str) -> Option<Self> {
        let below = path.strip_prefix(mount)?;
        let Some(below) = below.strip_prefix('/') else {
            return below.is_empty().then_some(Self::Unknown);
        };
        if let Some(file) = below.strip_prefix("assets/") {
            return Some(Self::Asset(file));
        }
        let (id, rest) = below.split_once('/').unwrap_or((below, ""));
        Some(match rest {
            _ if id.is_empty() => Self::Unknown,
            "" if !below.ends_with('/') => Self::Status(id),
            "result" => Self::Result(id),
            "events" => Self::Events(id),
            "cancel" => Self::Cancel(id),
            _ => Self::Unknown,
        })
    }
}

/// Service that answers only requests for operations, for a router that has the layer on some of its routes.
///
/// [`OperationLayer::routes`](super::OperationLayer::routes) creates it. It accepts paths with the mount path and, for
/// routers that remove the mount path, paths without it.
#[derive(Clone)]
pub struct OperationRoutes {
    core: Arc<Core>,
}

impl OperationRoutes {
    pub(super) fn of(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl<B> Service<Request<B>> for OperationRoutes
where
    B: Body<Data: Send, Error: Send> + Send + 'static,
{
    type Response = Response<OperationBody<Empty<Bytes>>>;
    type Error = Infallible;
    type Future = OperationFuture<Empty<Bytes>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let core = self.core.clone();
        let (parts, body) = request.into_parts();
        OperationFuture::new(async move { Ok(answer(core, parts, body).await) })
    }
}

impl fmt::Debug for OperationRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationRoutes")
            .field("mount", &self.core.settings.mount)
            .finish()
    }
}

/// Answers a request below the mount path, and starts to listen for changes.
pub(super) async fn answer<B, R>(core: Arc<Core>, parts: request::Parts, body: B) -> Reply<R>
where
    B: Body,
{
    core.mount.arrived(&parts.extensions);
    let (settings, headers) = (&core.settings, &parts.headers);
    let path = parts.uri.path();
    // A router that mounts these routes may have removed the mount path.
    let route = Route::of(path, &settings.mount).or_else(|| Route::of(path, ""));
    let route = route.unwrap_or(Route::Unknown);
    core.listen();
    let id = match route {
        Route::Asset(file) => return asset(settings, file, &parts),
        Route::Unknown => return reply::not_found(settings, headers),
        Route::Status(id) | Route::Result(id) | Route::Events(id) | Route::Cancel(id) => id,
    };
    let key = Key::of(id);
    let comes_late = core.is_being_cancelled(&key);
    let principal = settings.principal(&parts);
    let record = match core.find(&key, principal.as_deref()).await {
        Ok(Found::Record(record)) => record,
        Ok(Found::Gone) => return reply::gone(settings, "The operation has expired.", headers),
        Ok(Found::Unknown) => return reply::not_found(settings, headers),
        Err(error) => return failed(settings, &key, &error, headers),
    };
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    let answer = match route {
        Route::Status(_) if is_read => Ok(status(settings, &record, headers)),
        Route::Status(_) if parts.method == Method::DELETE => {
            delete(&core, &key, &record, headers, comes_late).await
        }
        Route::Status(_) => Ok(reply::not_allowed(settings, "GET, HEAD, DELETE", headers)),
        Route::Result(_) if is_read => result(&core, &key, &record, &parts).await,
        Route::Events(_) if is_read => Ok(events::answer(&core, key.clone(), &record, &parts)),
        Route::Cancel(_) if parts.method == Method::POST => {
            cancel::answer(&core, &key, &record, &parts, body).await
        }
        Route::Cancel(_) => Ok(reply::not_allowed(settings, "POST", headers)),
        _ => Ok(reply::not_allowed(settings, "GET, HEAD", headers)),
    };
    answer.unwrap_or_else(|error| failed(settings, &key, &error, headers))
}

fn failed<R>(
    settings: &Settings,
    key: &Key,
    error: &BackendError,
    headers: &HeaderMap,
) -> Reply<R> {
    observe::backend_failed(key, error);
    reply::unavailable(settings, headers)
}

fn status<R>(settings: &Settings, record: &Record, headers: &HeaderMap) -> Reply<R> {
    let mut response = reply::status(settings, record, headers);
    if response.status() != StatusCode::OK {
        // Conditions apply to responses with content only.
        return response;
    }
    let tag = response.headers().get(ETAG);
    let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    if !condition::matches(headers, tag) {
        return reply::precondition_failed(settings, headers);
    }
    if condition::is_known(headers, tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Bytes::new().into();
        response.headers_mut().remove(CONTENT_TYPE);
    }
    response
}

async fn delete<R>(
    core: &Arc<Core>,
    key: &Key,
    record: &Record,
    headers: &HeaderMap,
    comes_late: bool,
) -> Result<Reply<R>, BackendError> {
    let settings = &core.settings;
    if record.status.is_terminal() {
        if comes_late || core.is_being_cancelled(key) {
            // The client wanted to cancel the operation, which another request cancels, and not to remove it.
            return Ok(reply::conflict(settings, headers));
        }
        if !condition::allows(headers, record) {
            return Ok(reply::precondition_failed(settings, headers));
        }
        return Ok(if core.remove(key, record).await? {
            let mut response = Response::new(Bytes::new().into());
            *response.status_mut() = StatusCode::NO_CONTENT;
            no_store(response.headers_mut());
            response
        } else {
            reply::not_found(settings, headers)
        });
    }
    Ok(match core.cancel(key, condition::of(headers)).await? {
        Changed::Yes(record) => reply::status(settings, &record, &HeaderMap::new()),
        Changed::No(record) if !condition::allows(headers, &record) => {
            reply::precondition_failed(settings, headers)
        }
        Changed::No(_) => reply::conflict(settings, headers),
        Changed::Gone => reply::not_found(settings, headers),
    })
}

async fn result<R>(
    core: &Arc<Core>,
    key: &Key,
    record: &Record,
    request: &request::Parts,
) -> Result<Reply<R>, BackendError> {
    let (settings, headers) = (&core.settings, &request.headers);
    if !record.status.is_terminal() {
        return Ok(reply::pending(settings, record));
    }
    if record.status == Status::Canceled {
        return Ok(reply::cancelled(settings, headers));
    }
    let consumed = "The result has been read.";
    if record.consumed {
        return Ok(reply::gone(settings, consumed, headers));
    }
    let Some(stored) = record.result else {
        return Ok(reply::no_result(settings, headers));
    };
    let Some(outcome) = core.records.get_result(key, stored).await? else {
        return Ok(reply::gone(settings, consumed, headers));
    };
    let data = outcome.body.clone();
    let body = if settings.result_once && request.method == Method::GET {
        let (core, key, runtime) = (core.clone(), key.clone(), Handle::current());
        OperationBody::once(data, move || core.consume(&runtime, key))
    } else {
        data.into()
    };
    Ok(reply::result(settings, outcome, body))
}

fn asset<R>(settings: &Settings, file: &str, request: &request::Parts) -> Reply<R> {
    let Some(asset) = page::asset(file) else {
        return reply::not_found(settings, &request.headers);
    };
    if request.method != Method::GET && request.method != Method::HEAD {
        return reply::not_allowed(settings, "GET, HEAD", &request.headers);
    }
    let mut response = Response::new(Bytes::from_static(asset.body.as_bytes()).into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    // The file name contains a digest of the content.
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(CACHE_CONTROL, forever);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.remove(VARY);
    response
}
