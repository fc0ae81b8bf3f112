//! A site with operations, shown in a browser.

use crate::browser::{Browser, PATIENCE};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use http::{HeaderValue, StatusCode, header};
use std::future::pending;
use std::time::Duration;
use thirtyfour::By;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tower_promises::operations::durable::DurableRun;
use tower_promises::operations::{OperationLayer, Progress};

/// A request that is being handled.
pub struct Work {
    pub progress: Progress,
    /// The run, if the operation is durable.
    pub run: Option<DurableRun>,
    finish: oneshot::Sender<Response>,
}

impl Work {
    /// Answers the request with a page.
    pub fn finish(self) {
        self.finish_with(Html("<title>result</title>"));
    }

    pub fn finish_with(self, response: impl IntoResponse) {
        self.finish.send(response.into_response()).unwrap();
    }

    /// Waits until the handler is dropped.
    pub async fn until_dropped(mut self) {
        let dropped = timeout(PATIENCE, self.finish.closed());
        dropped.await.expect("the work is dropped");
    }
}

/// The proxy between the browser and the layer.
#[derive(Clone, Copy)]
pub enum Proxy {
    Transparent,
    RefusesEvents,
    KeepsEvents,
}

/// The event streams of the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streams {
    pub open: usize,
    /// The highest number of streams that were open at the same time.
    pub most: usize,
}

/// A server with an operation, and a browser.
pub struct Site {
    pub url: String,
    pub works: mpsc::UnboundedReceiver<Work>,
    pub streams: watch::Receiver<Streams>,
    pub browser: Browser,
}

impl Site {
    pub async fn start() -> Self {
        Self::start_with(Proxy::Transparent, |layer| layer).await
    }

    pub async fn start_with(
        proxy: Proxy,
        configure: impl FnOnce(OperationLayer) -> OperationLayer,
    ) -> Self {
        let layer = configure(OperationLayer::memory().wait(Duration::ZERO));
        let operations = layer.operations();
        let (sender, works) = mpsc::unbounded_channel();
        let (count, streams) = watch::channel(Streams::default());
        let handlers = Router::new()
            .route("/", get(start))
            // Browsers request this icon for pages outside of the layer.
            .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
            .route("/work", get(work).post(work))
            .with_state(sender);
        let runs = handlers.clone();
        tokio::spawn(async move { operations.work::<_, Body, _>(runs).await });
        let app = handlers
            .layer(layer)
            .layer(from_fn_with_state(proxy, pass_on))
            .layer(from_fn_with_state(count, count_streams))
            .layer(from_fn(restrict));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, app).await });
        let browser = Browser::start().await;
        Self {
            url,
            works,
            streams,
            browser,
        }
    }

    /// Submits the form that starts an operation, and waits for the page.
    pub async fn begin(&mut self) -> Work {
        self.browser.open(&self.url).await;
        self.click("button").await;
        let work = timeout(PATIENCE, self.works.recv());
        let work = work.await.expect("the work begins").unwrap();
        self.browser
            .until("document.title === 'Working on it'")
            .await;
        work
    }

    /// Waits until the server has this number of event streams.
    pub async fn until_streams(&mut self, open: usize) {
        let change = self.streams.wait_for(|streams| streams.open == open);
        let change = timeout(PATIENCE, change).await;
        let is_reached = change.is_ok();
        drop(change);
        assert!(is_reached, "not {open}, but {:?}", *self.streams.borrow());
    }

    pub async fn click(&self, selector: &'static str) {
        let element = self.browser.driver().find(By::Css(selector)).await.unwrap();
        element.click().await.unwrap();
    }

    pub async fn see_result(&self) {
        self.browser.until("document.title === 'result'").await;
        assert!(self.browser.url().await.ends_with("/result"));
    }

    pub async fn see_error(&self, status: u16, heading: &str) {
        let has_heading = format!("document.querySelector('h1')?.textContent === '{heading}'");
        self.browser.until(&has_heading).await;
        let navigation = "performance.getEntriesByType('navigation')[0].responseStatus";
        assert_eq!(self.browser.evaluate::<u16>(navigation).await, status);
    }
}

/// The page with the form that starts an operation, as the principal in the query.
async fn start(RawQuery(principal): RawQuery) -> Html<String> {
    let principal = principal.unwrap_or_default();
    Html(format!(
        r#"<!doctype html><html lang="en"><title>start</title>
        <form method="post" action="/work?{principal}"><button>Start</button></form>"#
    ))
}

/// Passes its request to the test, and sends the answer of the test.
async fn work(
    State(works): State<mpsc::UnboundedSender<Work>>,
    Extension(progress): Extension<Progress>,
    run: Option<Extension<DurableRun>>,
) -> Response {
    let (finish, answer) = oneshot::channel();
    let run = run.map(|Extension(run)| run);
    let _ = works.send(Work {
        progress,
        run,
        finish,
    });
    let answer = answer.await;
    answer.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
}

async fn pass_on(State(proxy): State<Proxy>, request: Request, next: Next) -> Response {
    match proxy {
        Proxy::RefusesEvents if request.uri().path().ends_with("/events") => {
            StatusCode::BAD_GATEWAY.into_response()
        }
        Proxy::KeepsEvents if request.uri().path().ends_with("/events") => pending().await,
        _ => next.run(request).await,
    }
}

/// Counts an event stream as open until it is dropped.
struct Open(watch::Sender<Streams>);

impl Open {
    fn new(count: watch::Sender<Streams>) -> Self {
        count.send_modify(|streams| {
            streams.open += 1;
            streams.most = streams.most.max(streams.open);
        });
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|streams| streams.open -= 1);
    }
}

async fn count_streams(
    State(count): State<watch::Sender<Streams>>,
    request: Request,
    next: Next,
) -> Response {
    if !request.uri().path().ends_with("/events") {
        return next.run(request).await;
    }
    // Counted even if a proxy buffers the stream, because it occupies a connection of the browser.
    let open = Open::new(count);
    let response = next.run(request).await;
    response.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _ = &open;
        }))
    })
}

/// Adds the security headers of a strict site.
async fn restrict(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let policy = HeaderValue::from_static("default-src 'self'");
    let headers = response.headers_mut();
    headers.append(header::CONTENT_SECURITY_POLICY, policy);
    response
}
