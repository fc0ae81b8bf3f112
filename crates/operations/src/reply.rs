//! Responses that the layer creates.

use super::body::OperationBody;
use super::condition;
use super::document::{Links, document, waiting};
use super::limits::Refusal;
use super::memory::Waiting;
use super::page::{self, ErrorContext, PageContext, PageLinks};
use super::record::Record;
use super::result::Outcome;
use super::settings::Settings;
use super::{accept, prefer::Preferences};
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, EXPIRES,
    LINK, LOCATION, REFERRER_POLICY, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use std::time::Duration;
use tower_promises_backend::kit::problem;

pub(super) type Reply<R> = Response<OperationBody<R>>;

const ASYNC_RESULT: HeaderName = HeaderName::from_static("asyncresult");
const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The longest time after which a page without scripts reloads itself.
const LONGEST_RELOAD: Duration = Duration::from_secs(60);

/// The minimal policy for the layer's own page.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The first reply of a request that has become an operation.
pub(super) fn accepted<R>(
    settings: &Settings,
    record: &Record,
    preferences: Preferences,
    headers: &HeaderMap,
) -> Reply<R> {
    let links = settings.links(&record.id);
    let mut response = if accept::names_html(headers) {
        see_other(&links.own)
    } else {
        let mut response = pending(settings, record);
        let headers = response.headers_mut();
        headers.insert(OPERATION_LOCATION, value(&links.own));
        headers.insert(LINK, value(&format!("<{}>; rel=\"monitor\"", links.own)));
        if let Some(applied) = preferences.applied(settings.max_wait, record.callback.is_some()) {
            headers.insert(PREFERENCE_APPLIED, value(&applied));
        }
        response
    };
    add_vary(response.headers_mut());
    response
}

/// 202 with the status document.
pub(super) fn pending<R>(settings: &Settings, record: &Record) -> Reply<R> {
    let links = settings.links(&record.id);
    let mut response = json(StatusCode::ACCEPTED, document(record, &links));
    let headers = response.headers_mut();
    headers.insert(LOCATION, value(&links.result));
    headers.insert(RETRY_AFTER, seconds(settings.retry_after));
    response
}

/// The status document or, for browsers, the page, which may reload itself.
pub(super) fn status<R>(
    settings: &Settings,
    record: &Record,
    request: &HeaderMap,
    reloads: bool,
) -> Reply<R> {
    let links = settings.links(&record.id);
    let prefers_html = accept::prefers_html(request);
    let mut response = if prefers_html && record.status.is_terminal() {
        see_other(&links.result)
    } else if prefers_html {
        page(settings, record, reloads)
    } else {
        json(StatusCode::OK, document(record, &links))
    };
    let tag = if prefers_html {
        format!("W/\"{}-page\"", record.version)
    } else {
        condition::tag(record)
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(ETAG, value(&tag));
    if !record.status.is_terminal() {
        headers.insert(RETRY_AFTER, seconds(settings.retry_after));
    }
    response
}

fn page<R>(settings: &Settings, record: &Record, reloads: bool) -> Reply<R> {
    // Without the origin: the page is loaded from the right origin already.
    let links = Links::new("", &settings.mount, &record.id);
    let assets = assets(settings);
    let elapsed = Duration::from_millis(settings.now().saturating_sub(record.created));
    let refresh = Duration::from_secs(whole_seconds(settings.retry_after));
    let context = PageContext {
        status: record.status,
        progress: record.progress,
        message: record.message.as_deref(),
        waiting_for: waiting(record).filter_map(Waiting::shown_name).collect(),
        elapsed,
        links: PageLinks {
            own: &links.own,
            events: &links.events,
            result: &links.result,
            cancel: &links.cancel,
            assets: &assets,
        },
        cancel_token: &record.token,
        can_cancel: record.can_cancel(),
        refresh,
        reload: reloads.then(|| (elapsed / 2).min(LONGEST_RELOAD).max(refresh)),
        strings: &settings.strings,
    };
    match &settings.page {
        // A policy could break a page of the application.
        Some(page) => html(StatusCode::OK, page(&context), false),
        None => html(StatusCode::OK, page::render(&context), true),
    }
}

fn assets(settings: &Settings) -> String {
    format!("{}/assets", settings.mount)
}

/// The stored response of the inner service.
pub(super) fn result<R>(settings: &Settings, outcome: Outcome, body: OperationBody<R>) -> Reply<R> {
    let length = outcome.body.len();
    let mut response = Response::new(body);
    *response.headers_mut() = outcome.headers;
    let headers = response.headers_mut();
    headers.insert(ASYNC_RESULT, outcome.status.as_u16().into());
    let says_how_long = headers.contains_key(CACHE_CONTROL) || headers.contains_key(EXPIRES);
    if settings.result_once || !says_how_long {
        // This is the response to a `GET`, which a cache may otherwise store for a time of its own choice (RFC
        // 9111, section 4.2.2) and send to other clients, even if the original request had another method.
        headers.insert(CACHE_CONTROL, NO_STORE);
    }
    // 202 would mean that the result is not ready.
    let status = match outcome.status {
        StatusCode::ACCEPTED => StatusCode::OK,
        status => status,
    };
    *response.status_mut() = status;
    let has_no_length = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if !has_no_length {
        // Also for `HEAD`, because servers do not measure that body.
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// The result of work that has ended without a response.
pub(super) fn no_result<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let mut response = problem(
        settings,
        StatusCode::INTERNAL_SERVER_ERROR,
        "The request could not be completed.",
        request,
    );
    response.headers_mut().insert(ASYNC_RESULT, 500.into());
    response
}

/// The reply to a refused request.
pub(super) fn refusal<R>(settings: &Settings, refusal: Refusal, request: &HeaderMap) -> Reply<R> {
    let (status, detail) = match refusal {
        Refusal::Principal => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many of your requests are running. Try again later.",
        ),
        Refusal::PrincipalReceiving => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many of your requests are being received. Try again later.",
        ),
        Refusal::PrincipalStored => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many of your results are kept. Remove some, or try again later.",
        ),
        Refusal::PrincipalOpen => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many of your requests have not ended. Try again later.",
        ),
        Refusal::Total | Refusal::TotalReceiving | Refusal::TotalOpen => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The server is busy. Try again later.",
        ),
    };
    let mut response = problem(settings, status, detail, request);
    add_vary(response.headers_mut());
    response
}

/// An error as problem+json, or as a page if the client prefers HTML.
pub(super) fn problem<R>(
    settings: &Settings,
    status: StatusCode,
    detail: &'static str,
    request: &HeaderMap,
) -> Reply<R> {
    error(settings, status, detail, false, request)
}

fn error<R>(
    settings: &Settings,
    status: StatusCode,
    detail: &'static str,
    is_cancelled: bool,
    request: &HeaderMap,
) -> Reply<R> {
    let is_busy =
        status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE;
    let retry_after = is_busy.then_some(settings.retry_after);
    let mut response = if accept::prefers_html(request) {
        let context = ErrorContext {
            status,
            is_cancelled,
            retry_after: retry_after.map(|delay| Duration::from_secs(whole_seconds(delay))),
            assets: &assets(settings),
            strings: &settings.strings,
        };
        match &settings.error_page {
            Some(page) => html(status, page(&context), false),
            None => html(status, page::render_error(&context), true),
        }
    } else {
        let mut response = problem::response(status, detail);
        no_store(response.headers_mut());
        response
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Some(delay) = retry_after {
        headers.insert(RETRY_AFTER, seconds(delay));
    }
    response
}

/// The reply to a request whose body has taken too long to arrive.
pub(super) fn too_slow<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The request body took too long to arrive.";
    problem(settings, StatusCode::REQUEST_TIMEOUT, detail, request)
}

/// The reply for a malformed idempotency key.
pub(super) fn malformed_key<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The idempotency key is not valid.";
    problem(settings, StatusCode::BAD_REQUEST, detail, request)
}

/// The reply for an idempotency key that was sent with another request.
pub(super) fn other_request<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The idempotency key was sent with another request.";
    problem(settings, StatusCode::UNPROCESSABLE_ENTITY, detail, request)
}

/// The reply for a body that is too large to be compared with other requests.
pub(super) fn too_large<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The request body is too large.";
    problem(settings, StatusCode::PAYLOAD_TOO_LARGE, detail, request)
}

/// The reply for a body that has not arrived completely, so that it cannot be compared with other requests.
pub(super) fn incomplete<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The request body is incomplete.";
    problem(settings, StatusCode::BAD_REQUEST, detail, request)
}

/// The reply to a repeated request while the client of the first request waits.
pub(super) fn in_flight<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The request with this idempotency key is being worked on.";
    problem(settings, StatusCode::CONFLICT, detail, request)
}

pub(super) fn not_found<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "There is no such operation.";
    problem(settings, StatusCode::NOT_FOUND, detail, request)
}

pub(super) fn gone<R>(settings: &Settings, detail: &'static str, request: &HeaderMap) -> Reply<R> {
    problem(settings, StatusCode::GONE, detail, request)
}

/// The result of an operation that was cancelled.
pub(super) fn cancelled<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The operation was cancelled.";
    error(settings, StatusCode::GONE, detail, true, request)
}

pub(super) fn conflict<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The operation has ended already.";
    problem(settings, StatusCode::CONFLICT, detail, request)
}

/// The reply to a request that would have cancelled the operation, and has not.
pub(super) fn not_cancelled<R>(
    settings: &Settings,
    record: &Record,
    request: &HeaderMap,
) -> Reply<R> {
    if record.status.is_terminal() {
        return conflict(settings, request);
    }
    if record.can_cancel() {
        return precondition_failed(settings, request);
    }
    let detail = "The operation cannot be cancelled any more.";
    problem(settings, StatusCode::CONFLICT, detail, request)
}

pub(super) fn precondition_failed<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    let detail = "The operation is not as the request demands.";
    problem(settings, StatusCode::PRECONDITION_FAILED, detail, request)
}

pub(super) fn not_allowed<R>(
    settings: &Settings,
    allow: &'static str,
    request: &HeaderMap,
) -> Reply<R> {
    let mut response = problem(
        settings,
        StatusCode::METHOD_NOT_ALLOWED,
        "The method is not allowed here.",
        request,
    );
    let allow = HeaderValue::from_static(allow);
    response.headers_mut().insert(ALLOW, allow);
    response
}

pub(super) fn unavailable<R>(settings: &Settings, request: &HeaderMap) -> Reply<R> {
    problem(
        settings,
        StatusCode::SERVICE_UNAVAILABLE,
        "The server cannot answer at the moment. Try again later.",
        request,
    )
}

/// Adds the headers that decide whether a request becomes an operation to `Vary`.
pub(super) fn add_vary(headers: &mut HeaderMap) {
    let mut names: Vec<String> = Vec::new();
    for line in headers.get_all(VARY) {
        // A line that is not ASCII contains no names.
        let line = line.to_str().unwrap_or_default();
        names.extend(line.split(',').map(|name| name.trim().to_owned()));
    }
    names.retain(|name| !name.is_empty());
    if names.iter().any(|name| name == "*") {
        return;
    }
    for name in ["Prefer", "Accept"] {
        if !names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            names.push(name.to_owned());
        }
    }
    headers.insert(VARY, value(&names.join(", ")));
}

/// Marks a response to a request that can become an operation.
pub(super) fn varying<R>(mut response: Reply<R>) -> Reply<R> {
    add_vary(response.headers_mut());
    response
}

pub(super) fn json<R>(status: StatusCode, document: String) -> Reply<R> {
    let mut response = Response::new(Bytes::from(document).into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    no_store(headers);
    response
}

fn html<R>(status: StatusCode, page: String, is_ours: bool) -> Reply<R> {
    let mut response = Response::new(Bytes::from(page).into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(CONTENT_TYPE, html);
    if is_ours {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    }
    no_store(headers);
    response
}

pub(super) fn see_other<R>(location: &str) -> Reply<R> {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(LOCATION, value(location));
    no_store(headers);
    response
}

/// Sets the headers of all responses that describe an operation: its address is a secret, and they must not be stored.
pub(super) fn no_store(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Returns whole seconds (RFC 9110, section 10.2.3), rounded up and at least one.
pub(super) fn whole_seconds(delay: Duration) -> u64 {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    seconds.max(1)
}

fn seconds(delay: Duration) -> HeaderValue {
    whole_seconds(delay).into()
}

/// Converts to a header value. Invalid text, such as an origin with a line break, becomes an empty value.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
