//! The form that cancels an operation.

use super::condition;
use super::instance::Instance;
use super::record::{Key, Record};
use super::records::Changed;
use super::reply::{self, Reply, see_other};
use super::settings::Settings;
use super::{OperationRequestBody, accept, observe};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode, request};
use http_body::Body;
use std::sync::Arc;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::same_site::{self, Sender, is_same};

/// The largest number of bytes of the form. The token has 32.
const MAX_FORM_BYTES: usize = 4096;

/// The content types that a page of another site can send without a preflight.
const FORM_TYPES: [&str; 3] = [
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "text/plain",
];

/// Answers `POST P/cancel`.
pub(super) async fn answer<B, R>(
    instance: &Arc<Instance>,
    key: &Key,
    record: &Record,
    request: &request::Parts,
    body: B,
) -> Result<Reply<R>, BackendError>
where
    B: Body,
{
    let (settings, headers) = (&instance.settings, &request.headers);
    let Ok(is_allowed) = is_allowed(settings, record, request, body).await else {
        observe::too_slow();
        return Ok(reply::too_slow(settings, headers));
    };
    if !is_allowed {
        let detail = "The request does not come from the page of this operation.";
        return Ok(reply::problem(
            settings,
            StatusCode::FORBIDDEN,
            detail,
            headers,
        ));
    }
    Ok(
        match instance.cancel(key, condition::may_cancel(headers)).await? {
            Changed::Yes(record) if accept::names_html(headers) => {
                see_other(&settings.links(&record.id).own)
            }
            Changed::Yes(record) => reply::status(settings, &record, &HeaderMap::new(), false),
            Changed::No(record) => reply::not_cancelled(settings, &record, headers),
            Changed::Gone => reply::not_found(settings, headers),
        },
    )
}

/// Returns whether the request comes from the page of this operation, or from a client that is not a browser. Returns
/// an error if the form takes too long to arrive.
async fn is_allowed<B: Body>(
    settings: &Settings,
    record: &Record,
    request: &request::Parts,
    body: B,
) -> Result<bool, Elapsed> {
    let headers = &request.headers;
    let sender = same_site::sender(headers, &request.uri, &settings.origin);
    if sender == Sender::Foreign {
        return Ok(false);
    }
    // A page of another site can make a browser send a form, and some browsers do not send the origin of a form. Such a
    // page cannot know the token, and cannot send other content types without a preflight.
    if !is_form(headers) && sender != Sender::Unknown {
        return Ok(true);
    }
    let body = OperationRequestBody::read(body, MAX_FORM_BYTES);
    let body = timeout(settings.receive_timeout, body).await?;
    Ok(body.is_whole() && has_token(body.read_bytes(), &record.token))
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = content_type.and_then(|value| value.split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| {
        FORM_TYPES
            .iter()
            .any(|form| essence.trim_ascii().eq_ignore_ascii_case(form.as_bytes()))
    })
}

/// Whether a form has the field `token` with this value. A token has no characters that need encoding.
fn has_token(form: &[u8], token: &str) -> bool {
    form.split(|byte| *byte == b'&').any(|field| {
        let value = field.strip_prefix(b"token=");
        value.is_some_and(|value| is_same(value, token.as_bytes()))
    })
}
