//! Processes that share a backend, and handlers with promises.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use test_support::operation::{Answer, SECOND, read, request, request_with};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_promises::backend::Backend;
use tower_promises::{PromiseError, PromiseLayer, Promises};
use tower_promises_operations::{OperationLayer, Operations};

pub(crate) const LEASE: Duration = SECOND;

/// How long a test waits for a condition: longer than anything that a handler of a test waits for.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// A process with the layer, and a worker that takes up runs.
pub(crate) struct Process {
    pub(crate) router: Router,
    pub(crate) operations: Operations,
    worker: Option<JoinHandle<()>>,
}

/// A layer whose clock is the paused clock of the test.
pub(crate) fn layer(backend: &Backend) -> OperationLayer {
    let began = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let start = Instant::now();
    OperationLayer::new(backend.clone())
        .durable(|request| request.method == http::Method::POST)
        .lifetime(Duration::from_secs(30 * 24 * 60 * 60))
        .lease(LEASE)
        .wait(SECOND)
        .clock(move || u64::try_from((began + start.elapsed()).as_millis()).unwrap())
}

/// A handler of the promises of a request.
pub(crate) trait Handle:
    Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static
{
}

impl<F> Handle for F where
    F: Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static
{
}

impl Process {
    /// Starts a process with a handler that cannot await.
    pub(crate) fn start(layer: OperationLayer, handler: impl Handle) -> Self {
        Self::with(layer, PromiseLayer::new(), handler)
    }

    pub(crate) fn with(
        layer: OperationLayer,
        promises: PromiseLayer,
        handler: impl Handle,
    ) -> Self {
        let answer = move |request: Request| {
            let promises = request.extensions().get::<Promises>().unwrap().clone();
            let outcome = handler(&promises);
            async move { respond(outcome) }
        };
        Self::serving(layer, Router::new().fallback(answer).layer(promises))
    }

    /// Starts a process with this service.
    pub(crate) fn serving(layer: OperationLayer, inner: Router) -> Self {
        let mut process = Self::idle(layer, inner.clone());
        process.work(inner);
        process
    }

    /// Starts a process that takes up no runs.
    pub(crate) fn idle(layer: OperationLayer, inner: Router) -> Self {
        Self {
            operations: layer.operations(),
            router: inner.layer(layer),
            worker: None,
        }
    }

    fn work(&mut self, inner: Router) {
        let operations = self.operations.clone();
        self.worker = Some(tokio::spawn(async move {
            operations.work::<_, Body, _>(inner).await.unwrap();
        }));
    }

    /// Ends the process without any preparation.
    pub(crate) async fn kill(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.abort();
            let _ = worker.await;
        }
    }

    pub(crate) async fn send(&self, request: Request) -> Answer {
        read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    pub(crate) async fn ask(&self, line: &str) -> Answer {
        self.send(request(line, &[])).await
    }

    /// Begins an operation and returns its path.
    pub(crate) async fn begin(&self, line: &str) -> String {
        let answer = self.ask(line).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("operation-location").to_owned()
    }

    pub(crate) async fn document(&self, path: &str) -> serde_json::Value {
        let answer = self.ask(&format!("GET {path}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until the status document fulfils a condition.
    pub(crate) async fn until(
        &self,
        path: &str,
        condition: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let began = Instant::now();
        loop {
            let document = self.document(path).await;
            if condition(&document) {
                return document;
            }
            assert!(began.elapsed() < PATIENCE, "{document}");
            sleep(SECOND / 10).await;
        }
    }

    pub(crate) async fn suspended(&self, path: &str) -> serde_json::Value {
        self.until(path, |document| document["waitingFor"].is_array())
            .await
    }

    pub(crate) async fn ended(&self, path: &str) -> serde_json::Value {
        let is_running = |status: &str| matches!(status, "NotStarted" | "Running");
        self.until(path, |document| {
            !is_running(document["status"].as_str().unwrap())
        })
        .await
    }

    /// Returns the status and the body of the result.
    pub(crate) async fn result(&self, path: &str) -> (u16, String) {
        self.ended(path).await;
        let answer = self.ask(&format!("GET {path}/result")).await;
        (answer.status.as_u16(), answer.body)
    }

    /// Settles a promise over HTTP.
    pub(crate) async fn settle(&self, url: &str, body: &str) -> Answer {
        let headers = [("content-type", "application/json")];
        let line = format!("POST {url}");
        self.send(request_with(&line, &headers, Body::from(body.to_owned())))
            .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.abort();
        }
    }
}

fn respond(outcome: Result<String, PromiseError>) -> Response {
    match outcome {
        Ok(text) => text.into_response(),
        Err(error) if error.is_pending() => error.status().into_response(),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let text = format!("{error}: {}", source.unwrap_or_default());
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// Ends the pass if the promise is pending. Any other outcome is left to the caller.
pub(crate) fn settled<T>(outcome: &Result<T, PromiseError>) -> Result<(), PromiseError> {
    match outcome {
        Err(error) if error.is_pending() => Err(error.clone()),
        _ => Ok(()),
    }
}

/// What has happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    pub(crate) fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.read().iter().filter(|noted| *noted == text).count()
    }
}
