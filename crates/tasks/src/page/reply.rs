//! Responses.

use super::assets::{ICON, STYLE, asset};
use super::body::TasksPageBody;
use super::link::Link;
use crate::{TaskError, observe};
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::html::Escaped;

pub(super) type Reply = Response<TasksPageBody>;

/// Scripts are not allowed at all.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

/// The reason why a request has no other answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The principal may not see the page, or there is no such view.
    NothingHere,
    /// There is no such task, or its record has expired.
    NoTask,
    /// The cursor of a list is not one of this store.
    BadLink,
    /// A form from another site, or with an old token.
    Refused,
    /// The form has another content type than that of the page.
    NoForm,
    TooLarge,
    TooSlow,
    /// The task is not in the state that the change needs.
    Conflict,
    NotAllowed,
    /// The backend has no lists.
    Unsupported,
    Unavailable,
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        match &error {
            TaskError::NotFound { .. } => Self::NoTask,
            TaskError::Backend { error } => match error {
                BackendError::InvalidName { .. } => Self::BadLink,
                BackendError::Unsupported { .. } => Self::Unsupported,
                _ => {
                    observe::page_failed(error);
                    Self::Unavailable
                }
            },
            _ => Self::Unavailable,
        }
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        TaskError::from(error).into()
    }
}

/// A page.
pub(super) fn html(status: StatusCode, html: String) -> Reply {
    let mut response = Response::new(Bytes::from(html).into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    protect(headers);
    response
}

fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Leads to a view after a change, so that a reload does not repeat the change.
pub(super) fn see_other(link: &Link) -> Reply {
    let mut response = Response::new(TasksPageBody::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    // A link is ASCII without control characters.
    if let Ok(location) = HeaderValue::from_str(&link.to_string()) {
        headers.insert(LOCATION, location);
    }
    protect(headers);
    response
}

/// A file, `None` if there is no file of this name.
pub(super) fn file(name: &str) -> Option<Reply> {
    let asset = asset(name)?;
    let mut response = Response::new(Bytes::from_static(asset.body.as_bytes()).into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The file name contains a digest of the content.
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(CACHE_CONTROL, forever);
    Some(response)
}

/// An error page.
pub(super) fn error(failure: &Failure) -> Reply {
    let (status, heading, text) = match failure {
        Failure::NothingHere => (
            StatusCode::NOT_FOUND,
            "There is nothing here",
            "The address may be wrong, or it may belong to another account.",
        ),
        Failure::NoTask => (
            StatusCode::NOT_FOUND,
            "There is no such task",
            "The id may be wrong, or what was known of the task is no longer kept.",
        ),
        Failure::BadLink => (
            StatusCode::BAD_REQUEST,
            "That address is not valid",
            "The position in the list does not belong to this server.",
        ),
        Failure::Refused => (
            StatusCode::FORBIDDEN,
            "That request was not accepted",
            "It does not come from this page, or the page is too old. Open the page again and repeat it.",
        ),
        Failure::NoForm => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "That request was not accepted",
            "It is not a form of this page.",
        ),
        Failure::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "That request was not accepted",
            "The form is too large.",
        ),
        Failure::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "That request was not accepted",
            "The form took too long to arrive.",
        ),
        Failure::Conflict => (
            StatusCode::CONFLICT,
            "That is not possible now",
            "The task has changed in the meantime. It may have ended, or the dead letter may have been sent again or \
             discarded.",
        ),
        Failure::NotAllowed => (
            StatusCode::METHOD_NOT_ALLOWED,
            "That request was not accepted",
            "The method is not allowed here.",
        ),
        Failure::Unsupported => (
            StatusCode::NOT_IMPLEMENTED,
            "There are no lists",
            "The backend of the tasks cannot list them. Tasks can be opened by their ids only.",
        ),
        Failure::Unavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The tasks cannot be read",
            "The backend does not answer at the moment. Try again later.",
        ),
    };
    let back = match failure {
        Failure::NothingHere => "",
        _ => "<p><a href=\"?\">Back to the overview</a></p>\n",
    };
    let mut response = html(
        status,
        format!(
            include_str!("error.html"),
            heading = Escaped(heading),
            text = Escaped(text),
            icon = ICON.file_name,
            style = STYLE.file_name,
            back = back,
            status = status.as_u16(),
        ),
    );
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allow = HeaderValue::from_static("GET, HEAD, POST");
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}
