//! A service with operations, and a client for it.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use std::time::Duration;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_promises::backend::Backend;
use tower_promises::operations::{OperationLayer, Operations, Progress};

pub const SECOND: Duration = Duration::from_secs(1);

/// A service behind the layer.
#[derive(Clone)]
pub struct App {
    pub router: Router,
    pub operations: Operations,
}

/// A response that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl App {
    /// Creates a service with a handler for all requests.
    pub fn new<F, T>(
        layer: OperationLayer,
        handler: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
        T: IntoResponse + 'static,
    {
        Self {
            operations: layer.operations(),
            router: Router::new().fallback(handler).layer(layer),
        }
    }

    /// Creates a service with work that takes the time given in the request.
    pub fn working(layer: OperationLayer) -> Self {
        Self::new(layer, work)
    }

    pub async fn send(&self, request: Request) -> Answer {
        read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    /// Sends a request without a body. The first word of `line` is the method.
    pub async fn ask(&self, line: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(request(line, headers)).await
    }

    /// Starts an operation and returns its path.
    pub async fn start(&self, line: &str, headers: &[(&str, &str)]) -> String {
        let answer = self.ask(line, headers).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("operation-location").to_owned()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[]).await
    }

    /// Returns the status document.
    pub async fn document(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until the operation has ended. Returns its status document.
    pub async fn ended(&self, path: &str) -> Value {
        loop {
            let document = self.document(path).await;
            if !matches!(document["status"].as_str(), Some("NotStarted" | "Running")) {
                return document;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

pub fn request(line: &str, headers: &[(&str, &str)]) -> Request {
    request_with(line, headers, Body::empty())
}

pub fn request_with(line: &str, headers: &[(&str, &str)], body: Body) -> Request {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// Returns a number from the query.
pub fn number(request: &Request, name: &str) -> Option<u64> {
    let query = request.uri().query().unwrap_or_default();
    let mut fields = query.split('&').filter_map(|field| field.split_once('='));
    fields.find(|field| field.0 == name)?.1.parse().ok()
}

pub fn progress(request: &Request) -> Progress {
    request.extensions().get::<Progress>().unwrap().clone()
}

/// Works for `ms` milliseconds in `steps` steps and answers with the status `code`.
pub async fn work(request: Request) -> Response {
    let [steps, ms, code] = ["steps", "ms", "code"].map(|name| number(&request, name));
    let (steps, progress) = (steps.unwrap_or(1), progress(&request));
    drop(request);
    let pause = Duration::from_millis(ms.unwrap_or(0)) / u32::try_from(steps).unwrap();
    for step in 1..=steps {
        sleep(pause).await;
        progress.set(100.0 * step as f64 / steps as f64);
        progress.set_message(format!("step {step} of {steps}"));
    }
    let code = code.unwrap_or(200).try_into().unwrap();
    let status = StatusCode::from_u16(code).unwrap();
    (status, [("x-work", "done")], r#"{"answer":42}"#).into_response()
}

pub fn memory() -> OperationLayer {
    OperationLayer::memory()
}

/// Returns two services that only share the backend, like two machines.
pub fn two_machines(settings: impl Fn(OperationLayer) -> OperationLayer) -> [App; 2] {
    let backend = Backend::memory();
    [(); 2].map(|()| App::working(settings(OperationLayer::new(backend.clone()))))
}
