//! Code that the tests of all packages share.
#![allow(clippy::new_without_default)]

pub mod away;
pub mod browser;
pub mod child;
pub mod described;
pub mod durable;
pub mod eventually;
pub mod example;
pub mod firefox;
pub mod killed;
pub mod mortal;
#[cfg(feature = "nats")]
pub mod nats;
pub mod operation;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod recorded;
pub mod remote;
pub mod site;
pub mod spans;
pub mod stepping;
pub mod strict;
pub mod task;
pub mod uploads;
pub mod within;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use std::cell::RefCell;
use std::fmt::Debug;
use std::future::ready;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tokio::time::timeout;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::backend::Backend;
use tower_promises::body::ReplayBody;
use tower_promises::promise::Rejection;
use tower_promises::promise::ResponseForRejection;
use tower_promises::signals::Signals;
use tower_promises::{BoxError, PromiseLayer, Promises};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub type TestBody = Full<Bytes>;
pub type TestRequest = Request<ReplayBody<TestBody>>;

/// The response as the client sees it, and data that is hidden from the client.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: String,
    pub body: String,
    pub rejection: Option<Rejection>,
    /// The number of runs of the handler.
    pub passes: usize,
}

/// Sends a request through `layer` to a synchronous handler.
pub async fn ask(
    layer: PromiseLayer,
    handler: impl Fn(&Promises) -> Result<String, BoxError> + Clone,
) -> Result<Answer, BoxError> {
    let passes = Counter::default();
    let service = layer.layer(service_fn(|request: TestRequest| {
        passes.add();
        ready(handler(&promises(&request)).map(text_response))
    }));
    let response = service.oneshot(get("/")).await?;
    let mut answer = answer(response).await;
    answer.passes = passes.get();
    Ok(answer)
}

/// Sends a request through `layer` to an asynchronous handler.
pub async fn ask_async(
    layer: PromiseLayer,
    handler: impl AsyncFn(Promises) -> Result<String, BoxError>,
) -> Result<Answer, BoxError> {
    let passes = Counter::default();
    let service = layer.layer(service_fn(async |request: TestRequest| {
        passes.add();
        handler(promises(&request)).await.map(text_response)
    }));
    let response = service.oneshot(get("/")).await?;
    let mut answer = answer(response).await;
    answer.passes = passes.get();
    Ok(answer)
}

/// Response for requests that the layer does not reject.
#[derive(Clone)]
pub struct NoRejection;

impl<B> ResponseForRejection<B> for NoRejection {
    fn response_for_rejection(&self, rejection: Rejection) -> Response<B> {
        panic!("{rejection}")
    }
}

pub async fn answer<B>(response: Response<B>) -> Answer
where
    B: Body<Error: Debug>,
{
    let (parts, body) = response.into_parts();
    let content_type = parts.headers.get(http::header::CONTENT_TYPE);
    Answer {
        status: parts.status,
        content_type: content_type
            .map_or("", |value| value.to_str().unwrap())
            .to_owned(),
        body: text(body).await,
        rejection: parts.extensions.get().cloned(),
        passes: 0,
    }
}

pub fn get(uri: &str) -> Request<TestBody> {
    Request::get(uri).body(Full::default()).unwrap()
}

pub fn post(body: impl Into<Bytes>) -> Request<TestBody> {
    Request::post("/").body(Full::new(body.into())).unwrap()
}

pub fn promises<B>(request: &Request<B>) -> Promises {
    request.extensions().get::<Promises>().unwrap().clone()
}

pub fn text_response(text: impl Into<String>) -> Response<TestBody> {
    Response::new(Full::from(text.into()))
}

pub async fn text<B>(body: B) -> String
where
    B: Body<Error: Debug>,
{
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A counter of events.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Returns a guard that counts when it is dropped.
    pub fn on_drop(&self) -> DropGuard {
        DropGuard(self.clone())
    }
}

#[derive(Debug)]
pub struct DropGuard(Counter);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.add();
    }
}

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One note for each pass.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub fn push(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The log of the current thread, which runs a single test.
#[derive(Debug)]
pub struct Log(());

impl Log {
    /// Clears the log and starts recording.
    pub fn start() -> Self {
        subscribe();
        LOG.take();
        Self(())
    }

    pub fn text(&self) -> String {
        LOG.with_borrow(|log| String::from_utf8(log.clone()).unwrap())
    }
}

/// Installs one subscriber for the process, so that the log does not depend on other threads.
fn subscribe() {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let log = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(|| LogWriter);
        tracing_subscriber::registry()
            .with(log)
            .with(spans::Recorder)
            .init();
    });
}

struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs other tasks of this thread until a condition holds. Use [`eventually`](eventually::eventually) to wait for
/// other threads and processes.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what} never happens");
}

/// Returns the output of a future that should resolve soon.
pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(10_000), future)
        .await
        .expect("the future resolves soon")
}

/// Returns two handles that only share the backend, like two processes.
pub async fn two_processes() -> [Signals; 2] {
    let backend = Backend::memory();
    let processes = [Signals::new(backend.clone()), Signals::new(backend)];
    for process in &processes {
        process.listen().await.unwrap();
    }
    processes
}
