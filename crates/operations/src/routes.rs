//! Replies to requests below the mount path.

use super::body::OperationBody;
use super::cancel_form;
use super::condition;
use super::instance::{Found, Instance};
use super::record::{Key, OperationStatus, Record};
use super::records::Changed;
use super::reply::{self, Reply, no_store};
use super::settings::Settings;
use super::{durable, events, observe, on_end, page};
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
    /// A promise of an operation, by its token.
    Promise(&'a str, &'a str),
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
            rest => match rest.strip_prefix("promises/") {
                Some(token) if !token.is_empty() => Self::Promise(id, token),
                _ => Self::Unknown,
            },
        })
    }
}

/// Answers a request below the mount path, and starts to listen for changes.
pub(super) async fn answer<B, R>(
    instance: Arc<Instance>,
    parts: request::Parts,
    body: B,
) -> Reply<R>
where
    B: Body,
{
    instance.mount.arrived(&parts.extensions);
    let (settings, headers) = (&instance.settings, &parts.headers);
    let path = parts.uri.path();
    // A router that mounts these routes may have removed the mount path.
    let route = Route::of(path, &settings.mount).or_else(|| Route::of(path, ""));
    let route = route.unwrap_or(Route::Unknown);
    instance.listen();
    on_end::listen(&instance);
    let id = match route {
        Route::Asset(file) => return asset(settings, file, &parts),
        Route::Unknown => return reply::not_found(settings, headers),
        Route::Promise(id, token) => {
            return durable::answer_promise(&instance, (id, token), &parts, body).await;
        }
        Route::Status(id) | Route::Result(id) | Route::Events(id) | Route::Cancel(id) => id,
    };
    let key = Key::of(id);
    let comes_late = instance.is_being_cancelled(&key);
    let principal = settings.principal(&parts);
    let record = match instance.find(&key, principal.as_deref()).await {
        Ok(Found::Record(record)) => record,
        Ok(Found::Gone) => return reply::gone(settings, "The operation has expired.", headers),
        Ok(Found::Unknown) => return reply::not_found(settings, headers),
        Err(error) => return failed(settings, &key, &error, headers),
    };
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    let answer = match route {
        Route::Status(_) if is_read => Ok(status(settings, &record, &parts)),
        Route::Status(_) if parts.method == Method::DELETE => {
            delete(&instance, &key, &record, headers, comes_late).await
        }
        Route::Status(_) => Ok(reply::not_allowed(settings, "GET, HEAD, DELETE", headers)),
        Route::Result(_) if is_read => result(&instance, &key, &record, &parts).await,
        Route::Events(_) if is_read => Ok(events::answer(&instance, key.clone(), &record, &parts)),
        Route::Cancel(_) if parts.method == Method::POST => {
            cancel_form::answer(&instance, &key, &record, &parts, body).await
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

fn status<R>(settings: &Settings, record: &Record, request: &request::Parts) -> Reply<R> {
    let headers = &request.headers;
    let mut response = reply::status(settings, record, headers, reloads(request));
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

/// Whether the page may reload itself.
fn reloads(request: &request::Parts) -> bool {
    let query = request.uri.query().unwrap_or_default();
    query.split('&').all(|part| part != page::RELOAD_OFF)
}

async fn delete<R>(
    instance: &Arc<Instance>,
    key: &Key,
    record: &Record,
    headers: &HeaderMap,
    comes_late: bool,
) -> Result<Reply<R>, BackendError> {
    let settings = &instance.settings;
    if record.status.is_terminal() {
        if comes_late || instance.is_being_cancelled(key) {
            // Another request has cancelled the operation or is doing so. This client meant to cancel, not to remove.
            return Ok(reply::conflict(settings, headers));
        }
        if !condition::allows(headers, record) {
            return Ok(reply::precondition_failed(settings, headers));
        }
        return Ok(if instance.remove(key, record).await? {
            let mut response = Response::new(Bytes::new().into());
            *response.status_mut() = StatusCode::NO_CONTENT;
            no_store(response.headers_mut());
            response
        } else {
            reply::not_found(settings, headers)
        });
    }
    Ok(
        match instance.cancel(key, condition::may_cancel(headers)).await? {
            Changed::Yes(record) => reply::status(settings, &record, &HeaderMap::new(), false),
            Changed::No(record) if !condition::allows(headers, &record) => {
                reply::precondition_failed(settings, headers)
            }
            Changed::No(record) => reply::not_cancelled(settings, &record, headers),
            Changed::Gone => reply::not_found(settings, headers),
        },
    )
}

async fn result<R>(
    instance: &Arc<Instance>,
    key: &Key,
    record: &Record,
    request: &request::Parts,
) -> Result<Reply<R>, BackendError> {
    let (settings, headers) = (&instance.settings, &request.headers);
    if !record.status.is_terminal() {
        return Ok(reply::pending(settings, record));
    }
    if record.status == OperationStatus::Cancelled {
        return Ok(reply::cancelled(settings, headers));
    }
    let consumed = "The result has been read.";
    if record.consumed {
        return Ok(reply::gone(settings, consumed, headers));
    }
    let Some(stored) = record.result else {
        return Ok(reply::no_result(settings, headers));
    };
    let Some(outcome) = instance.records.get_result(key, stored).await? else {
        return Ok(reply::gone(settings, consumed, headers));
    };
    let data = outcome.body.clone();
    let body = if settings.result_once && request.method == Method::GET {
        let (instance, key, runtime) = (instance.clone(), key.clone(), Handle::current());
        OperationBody::once(data, move || instance.consume(&runtime, key))
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
