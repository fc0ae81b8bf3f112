//! The forms that send dead letters again, discard them and cancel tasks.

use super::query::Query;
use super::reply::{self, Failure, Reply};
use super::source::Source;
use super::token::Secret;
use crate::{Principal, TaskError, TaskId, observe};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, request};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use std::time::Duration;
use tokio::time::timeout;
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::same_site::{self, Sender};

/// The largest number of bytes of a form. An id has about 1000, each of which may be encoded with three.
const MAX_FORM_BYTES: usize = 8192;

/// The time in which a form must arrive.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);

const FORM_TYPE: &[u8] = b"application/x-www-form-urlencoded";

/// The fields of a form.
#[derive(Default)]
struct Fields {
    action: String,
    id: String,
    token: String,
}

impl Fields {
    fn parse(form: &[u8]) -> Self {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(form) {
            let field = match &*name {
                "action" => &mut fields.action,
                "id" => &mut fields.id,
                "token" => &mut fields.token,
                _ => continue,
            };
            *field = value.into_owned();
        }
        fields
    }
}

/// Changes a task, and leads back to the view that the form is in.
pub(super) async fn answer<B>(
    source: &Source,
    viewer: &Principal,
    query: &Query,
    request: &request::Parts,
    body: B,
) -> Result<Reply, Failure>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let headers = &request.headers;
    let sender = same_site::sender(headers, &request.uri, &source.settings.origin);
    if sender == Sender::Foreign {
        observe::page_refused(viewer);
        return Err(Failure::Refused);
    }
    if !is_form(headers) {
        return Err(Failure::NoForm);
    }
    let fields = Fields::parse(&read(body).await?);
    let id = TaskId::from(fields.id);
    let secret = Secret::read(&source.tasks.core).await?;
    if !secret.accepts(&fields.token, viewer, &id) {
        observe::page_refused(viewer);
        return Err(Failure::Refused);
    }
    change(source, &fields.action, &id).await?;
    observe::page_changed(viewer, &fields.action, &id);
    source.snapshots.forget().await;
    let here = query.keep_refresh(query.here());
    let done = here
        .with("done", fields.action)
        .with("done-id", id.as_str());
    Ok(reply::see_other(&done))
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = content_type.and_then(|value| value.split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(FORM_TYPE))
}

async fn read<B>(body: B) -> Result<Vec<u8>, Failure>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let body = Box::pin(Limited::new(body, MAX_FORM_BYTES).collect());
    match timeout(RECEIVE_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(_)) => Err(Failure::TooLarge),
        Err(_) => Err(Failure::TooSlow),
    }
}

async fn change(source: &Source, action: &str, id: &TaskId) -> Result<(), Failure> {
    let tasks = &source.tasks;
    let record = tasks.core.read(id).await?;
    let queue = tasks.queue(record.queue);
    let changed = match action {
        "send_again" => queue.send_again(id).await,
        "discard" => queue.discard(id).await,
        "cancel" => match tasks.cancel(id).await {
            Ok(false) => return Err(Failure::Conflict),
            cancelled => cancelled.map(drop),
        },
        _ => return Err(Failure::Refused),
    };
    match changed {
        // The task is known, but it is not a dead letter.
        Err(TaskError::NotFound { .. }) => Err(Failure::Conflict),
        changed => Ok(changed?),
    }
}
