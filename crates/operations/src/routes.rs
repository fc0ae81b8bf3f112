//! Replies to requests below the mount path.

use super::body::OperationBody;
use super::cancel;
use super::condition;
use super::core::{Core, Found};
use super::events;
use super::observe;
use super::page;
use super::record::{Key, Record};
use super::records::Changed;
use super::reply::{Reply, no_store};
use super::status::Status;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};
use http_body::Body;
use std::sync::Arc;
use tokio::runtime::Handle;
use tower_promises_backend::BackendError;

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

/// Answers a request below the mount path, and starts to listen for changes.
pub(super) async fn answer<B, R>(core: Arc<Core>, parts: request::Parts, body: B) -> Reply<R>
where
    B: Body,
{
    core.mount.arrived(&parts.extensions);
    let headers = &parts.headers;
    let path = parts.uri.path();
    // A router that mounts these routes may have removed the mount path.
    let route = Route::of(path, &core.settings.mount).or_else(|| Route::of(path, ""));
    let route = route.unwrap_or(Route::Unknown);
    core.listen();
    let id = match route {
        Route::Asset(file) => return asset(&core, file, &parts),
        Route::Unknown => return core.not_found(headers),
        Route::Status(id) | Route::Result(id) | Route::Events(id) | Route::Cancel(id) => id,
    };
    let key = Key::of(id);
    let comes_late = core.is_being_cancelled(&key);
    let principal = (core.settings.principal)(&parts);
    let principal = principal.map(|principal| Core::principal_digest(&principal));
    let record = match core.find(&key, principal.as_deref()).await {
        Ok(Found::Record(record)) => record,
        Ok(Found::Gone) => return core.gone("The operation has expired.", headers),
        Ok(Found::Unknown) => return core.not_found(headers),
        Err(error) => return failed(&core, &key, &error, headers),
    };
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    let answer = match route {
        Route::Status(_) if is_read => Ok(status(&core, &record, headers)),
        Route::Status(_) if parts.method == Method::DELETE => {
            delete(&core, &key, &record, headers, comes_late).await
        }
        Route::Status(_) => Ok(core.not_allowed("GET, HEAD, DELETE", headers)),
        Route::Result(_) if is_read => result(&core, &key, &record, &parts).await,
        Route::Events(_) if is_read => Ok(events::answer(&core, key.clone(), &record, &parts)),
        Route::Cancel(_) if parts.method == Method::POST => {
            cancel::answer(&core, &key, &record, &parts, body).await
        }
        Route::Cancel(_) => Ok(core.not_allowed("POST", headers)),
        _ => Ok(core.not_allowed("GET, HEAD", headers)),
    };
    answer.unwrap_or_else(|error| failed(&core, &key, &error, headers))
}

fn failed<R>(core: &Core, key: &Key, error: &BackendError, headers: &HeaderMap) -> Reply<R> {
    observe::backend_failed(key, error);
    core.unavailable(headers)
}

fn status<R>(core: &Core, record: &Record, headers: &HeaderMap) -> Reply<R> {
    let mut response = core.status(record, headers);
    if response.status() != StatusCode::OK {
        // Conditions apply to responses with content only.
        return response;
    }
    let tag = response.headers().get(ETAG);
    let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    if !condition::matches(headers, tag) {
        return core.precondition_failed(headers);
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
    if record.status.is_terminal() {
        if comes_late || core.is_being_cancelled(key) {
            // The client wanted to cancel the operation, which another request cancels, and not to remove it.
            return Ok(core.conflict(headers));
        }
        if !condition::allows(headers, record) {
            return Ok(core.precondition_failed(headers));
        }
        return Ok(if core.remove(key, record).await? {
            let mut response = Response::new(Bytes::new().into());
            *response.status_mut() = StatusCode::NO_CONTENT;
            no_store(response.headers_mut());
            response
        } else {
            core.not_found(headers)
        });
    }
    Ok(match core.cancel(key, condition::of(headers)).await? {
        Changed::Yes(record) => core.status(&record, &HeaderMap::new()),
        Changed::No(record) if !condition::allows(headers, &record) => {
            core.precondition_failed(headers)
        }
        Changed::No(_) => core.conflict(headers),
        Changed::Gone => core.not_found(headers),
    })
}

async fn result<R>(
    core: &Arc<Core>,
    key: &Key,
    record: &Record,
    request: &request::Parts,
) -> Result<Reply<R>, BackendError> {
    let headers = &request.headers;
    if !record.status.is_terminal() {
        return Ok(core.pending(record, &core.links(&record.id)));
    }
    if record.status == Status::Canceled {
        return Ok(core.canceled(headers));
    }
    let consumed = "The result has been read.";
    if record.consumed {
        return Ok(core.gone(consumed, headers));
    }
    let Some(stored) = record.result else {
        return Ok(core.no_result(headers));
    };
    let Some(outcome) = core.records.get_result(key, stored).await? else {
        return Ok(core.gone(consumed, headers));
    };
    let data = outcome.body.clone();
    let body = if core.settings.result_once && request.method == Method::GET {
        let (core, key, runtime) = (core.clone(), key.clone(), Handle::current());
        OperationBody::once(data, move || core.consume(&runtime, key))
    } else {
        data.into()
    };
    Ok(core.result(outcome, body))
}

fn asset<R>(core: &Core, file: &str, request: &request::Parts) -> Reply<R> {
    let Some(asset) = page::asset(file) else {
        return core.not_found(&request.headers);
    };
    if request.method != Method::GET && request.method != Method::HEAD {
        return core.not_allowed("GET, HEAD", &request.headers);
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
