//! Requests and their answers.

use super::markup::{self, View};
use super::query::Query;
use super::reply::{self, Failure, Reply};
use super::source::Source;
use super::{dead_letters, form, limits, list, overview, task};
use crate::tasks::Core;
use crate::{Principal, observe};
use http::{Method, StatusCode, request};
use http_body::Body;
use tower_promises_backend::BoxError;

/// Answers a request.
pub(super) async fn answer<B>(source: &Source, parts: &request::Parts, body: B) -> Reply
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    // Error pages need the files, also for principals that may not see more.
    if let Some(file) = query.file.as_deref().filter(|_| is_read) {
        return reply::file(file).unwrap_or_else(|| reply::error(&Failure::NothingHere));
    }
    let Some(viewer) = (source.settings.admit)(parts) else {
        observe::page_denied();
        return reply::error(&Failure::NothingHere);
    };
    if Core::runtime().is_err() {
        return reply::error(&Failure::Unavailable);
    }
    let answer = if is_read {
        show(source, &viewer, &query).await
    } else if parts.method == Method::POST {
        form::answer(source, &viewer, &query, parts, body).await
    } else {
        Err(Failure::NotAllowed)
    };
    answer.unwrap_or_else(|failure| reply::error(&failure))
}

async fn show(source: &Source, viewer: &Principal, query: &Query) -> Result<Reply, Failure> {
    let view: View = match query.view.as_deref() {
        None => overview::show(source).await?,
        Some("tasks") => list::show(source, query).await?,
        Some("task") => task::show(source, viewer, query).await?,
        Some("dead-letters") => dead_letters::show(source, viewer, query).await?,
        Some("limits") => limits::show(source, query).await?,
        Some(_) => return Err(Failure::NothingHere),
    };
    let html = markup::page(&source.settings.title, viewer, query, &view);
    Ok(reply::html(StatusCode::OK, html))
}
