//! The page around the answer of a demo. Below the answer it shows what the server did.

use crate::recorder::{Recorder, Row};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, Response};
use futures_util::{Stream, StreamExt, stream};
use minijinja::{Environment, Value, context};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tower_promises::BoxError;
use tower_promises::operations::durable::DurableRun;
use tracing::{Instrument, Span, error, info_span};

/// What comes before the answer. The answer is directly in the body, where fragments reach their places.
const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tour</title>
<link rel="stylesheet" href="/style.css">
<link rel="icon" href="/icon.svg">
</head>
<body class="stage">
"#;

/// Renders a page that is not on the stage.
pub(crate) fn page(content: &str) -> Html<String> {
    Html(format!("{HEAD}{content}\n</body>\n</html>\n"))
}

/// The number of a visit, in the extensions of its request.
#[derive(Clone, Copy)]
pub(crate) struct Visit(pub(crate) u64);

/// Puts demos on the stage.
#[derive(Clone)]
pub(crate) struct Stage {
    recorder: Recorder,
    templates: Arc<Environment<'static>>,
    visits: Arc<AtomicU64>,
}

impl Stage {
    pub(crate) fn new(recorder: Recorder) -> Result<Self, minijinja::Error> {
        let mut templates = Environment::new();
        templates.add_template("did.html", include_str!("did.html"))?;
        Ok(Self {
            recorder,
            templates: Arc::new(templates),
            // No trace has the number 0.
            visits: Arc::new(AtomicU64::new(1)),
        })
    }

    /// Adds the stage to the pages of a demo.
    pub(crate) fn around(&self, demo: Router) -> Router {
        demo.layer(from_fn_with_state(self.clone(), present))
    }

    /// Begins a visit, or continues it with the next run of a durable request. Returns its number and its span.
    fn begin(&self, run: Option<&DurableRun>) -> (u64, Span) {
        let Some(run) = run else {
            let visit = self.visits.fetch_add(1, Ordering::Relaxed);
            self.recorder.begin(visit);
            return (visit, info_span!("visit", visit));
        };
        // The same in each run.
        let key = run.idempotency_key("visit");
        let visit = key.get(..16).map(|key| u64::from_str_radix(key, 16));
        let visit = visit.and_then(Result::ok).unwrap_or(u64::MAX);
        self.recorder.begin(visit);
        (visit, info_span!("run", visit, attempt = run.attempt()))
    }

    /// Renders what the server did.
    fn end(&self, visit: u64) -> String {
        let (rows, took) = self.recorder.end(visit);
        let end = rows.iter().map(end).chain([took]).max();
        let end = end.unwrap_or_default().as_secs_f64().max(1e-9);
        let count = |kind| rows.iter().filter(|row| row.kind == kind).count();
        let context = context! {
            // A request without promises has no spans.
            passes => count("pass").max(1),
            promises => count("promise"),
            took => milliseconds(took),
            rows => rows.iter().map(|row| view(row, end)).collect::<Vec<_>>(),
        };
        let template = self.templates.get_template("did.html");
        template
            .and_then(|template| template.render(context))
            .unwrap_or_else(|error| {
                error!("{error:#}");
                String::new()
            })
    }
}

fn end(row: &Row) -> Duration {
    row.begin.saturating_add(row.took.unwrap_or_default())
}

fn view(row: &Row, end: f64) -> Value {
    let percent = |time: Duration| 100.0 * time.as_secs_f64() / end;
    // A short span is visible too.
    let width = row.took.map(|took| percent(took).max(0.8));
    let outcome = match (row.kind, row.outcome.as_str()) {
        ("promise", "fulfilled") => "",
        // The request was dropped with it, because all that it waits for is remembered, or because its worker died.
        ("promise", "cancelled") => "not settled",
        (_, outcome) => outcome,
    };
    context! {
        kind => row.kind,
        text => row.text.as_str(),
        outcome,
        begin => milliseconds(row.begin),
        took => row.took.map(milliseconds),
        x => percent(row.begin).min(99.2),
        width,
    }
}

/// Writes a duration with the digits that matter.
fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.1}"),
        _ => format!("{milliseconds:.0}"),
    }
}

/// Middleware: runs once for a visit, and once for each run of a durable request.
async fn present(State(stage): State<Stage>, mut request: Request, next: Next) -> Response {
    let (visit, span) = stage.begin(request.extensions().get());
    request.extensions_mut().insert(Visit(visit));
    let response = next.run(request).instrument(span.clone()).await;
    if !is_html(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts
        .headers
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let head = stream::once(async { Ok::<_, BoxError>(Bytes::from_static(HEAD.as_bytes())) });
    let answer = inside(span, body.into_data_stream());
    // Called at the end of the answer, which may be long after its head.
    let did = stream::once(async move { Ok(Bytes::from(stage.end(visit))) });
    Response::from_parts(parts, Body::from_stream(head.chain(answer).chain(did)))
}

/// Polls a stream inside of a span, so that the spans of fragments are below it.
fn inside<S, T, E>(span: Span, mut stream: S) -> impl Stream<Item = Result<T, BoxError>>
where
    S: Stream<Item = Result<T, E>> + Unpin,
    E: Into<BoxError>,
{
    stream::poll_fn(move |cx| span.in_scope(|| stream.poll_next_unpin(cx)))
        .map(|item| item.map_err(Into::into))
}

fn is_html(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/html"))
}
