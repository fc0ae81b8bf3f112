//! A server with durable requests, without sockets.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use tower_promises::backend::Backend;
use tower_promises::operations::{OperationLayer, Operations};
use tower_promises::{PromiseError, PromiseLayer, Promises};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A process with the layer, and a worker that takes up runs.
pub(crate) struct Server {
    router: Router,
    pub(crate) operations: Operations,
    worker: JoinHandle<()>,
}

/// A layer whose requests are all durable.
pub(crate) fn layer(backend: Backend) -> OperationLayer {
    OperationLayer::new(backend)
        .durable(|request| request.method == axum::http::Method::POST)
        .lifetime(DAY)
        .wait(Duration::ZERO)
        .max_open(10_000_000)
        .max_stored_bytes(usize::MAX)
}

/// The service behind the layer.
pub(crate) fn service(
    handle: impl Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static,
) -> Router {
    let answer = move |promises: Promises| {
        let outcome = handle(&promises);
        async move {
            match outcome {
                Ok(text) => text.into_response(),
                Err(error) => error.status().into_response(),
            }
        }
    };
    // As many passes as a chain of promises needs.
    let promises = PromiseLayer::new().max_passes(1000);
    Router::new().fallback(answer).layer(promises)
}

impl Server {
    pub(crate) fn start(
        layer: OperationLayer,
        handle: impl Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static,
    ) -> Self {
        let inner = service(handle);
        let operations = layer.operations();
        let worker = {
            let (operations, inner) = (operations.clone(), inner.clone());
            tokio::spawn(async move { operations.work::<_, Body, _>(inner).await.unwrap() })
        };
        let router = inner.layer(layer);
        Self {
            router,
            operations,
            worker,
        }
    }

    pub(crate) async fn send(&self, request: Request) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Begins an operation and returns its id.
    pub(crate) async fn begin(&self) -> String {
        let response = self
            .send(Request::post("/").body(Body::empty()).unwrap())
            .await;
        assert_eq!(response.status(), 202);
        let path = response.headers()["operation-location"].to_str().unwrap();
        path.rsplit('/').next().unwrap().to_owned()
    }

    /// Returns the status document of an operation.
    pub(crate) async fn document(&self, id: &str) -> String {
        let request = Request::get(format!("/.operations/{id}"));
        let response = self.send(request.body(Body::empty()).unwrap()).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// Ends the process in order. Nothing of it stays in memory.
    pub(crate) async fn end(self) {
        self.operations.drain(Duration::from_secs(10)).await;
        self.worker.await.unwrap();
    }
}
