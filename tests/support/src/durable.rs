//! A durable operation on a real backend, in real time.

use crate::operation::{Answer, SECOND, read, request, request_with};
use axum::Router;
use axum::body::Body;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_promises::backend::Backend;
use tower_promises::operations::OperationLayer;
use tower_promises::{PromiseError, PromiseLayer, Promises};

/// The longest time of the scenario, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Long enough for a busy machine to renew the lease.
const LEASE: Duration = Duration::from_secs(5);

/// What happens outside of the processes.
#[derive(Clone, Default)]
struct World {
    first: Arc<AtomicUsize>,
    /// The second step has begun, so the value of the first one is stored.
    is_second: Arc<AtomicBool>,
    /// The second step ends from now on.
    is_healthy: Arc<AtomicBool>,
    address: Arc<Mutex<Option<String>>>,
}

impl World {
    fn handle(&self, promises: &Promises) -> Result<String, PromiseError> {
        let (first, is_healthy) = (self.first.clone(), self.is_healthy.clone());
        let first = promises.durable("first", move || async move {
            first.fetch_add(1, Ordering::SeqCst);
            "x".repeat(100_000)
        })?;
        let is_second = self.is_second.clone();
        let second = promises.durable("second", move || async move {
            is_second.store(true, Ordering::SeqCst);
            if !is_healthy.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            2
        })?;
        promises.sleep("pause", 2 * SECOND)?;
        *self.address.lock().expect("no panic") = Some(promises.outside_url("approval")?);
        let approval: String = promises.outside("approval")?;
        Ok(format!("{} {second} {approval}", first.len()))
    }

    fn process(&self, backend: Backend) -> (Router, JoinHandle<()>) {
        let layer = OperationLayer::new(backend)
            .durable(|request| request.method == http::Method::POST)
            .lease(LEASE)
            .wait(Duration::ZERO);
        let operations = layer.operations();
        let world = self.clone();
        let answer = async move |promises: Promises| match world.handle(&promises) {
            Ok(text) => (http::StatusCode::OK, text),
            Err(error) => (error.status(), error.to_string()),
        };
        let inner = Router::new().fallback(answer).layer(PromiseLayer::new());
        let app = inner.clone().layer(layer);
        let worker = tokio::spawn(async move {
            let worked = operations.work::<_, Body, _>(inner).await;
            worked.expect("the name of the queue is valid");
        });
        (app, worker)
    }
}

async fn send(app: &Router, request: axum::extract::Request) -> Answer {
    let response = app.clone().oneshot(request).await;
    read(response.unwrap_or_else(|never| match never {})).await
}

/// Begins an operation in one process, loses that process, and ends the operation in another one, after a suspension
/// and with a settlement from outside. The two backends are connections to the same one.
///
/// # Panics
///
/// Panics if the operation does not survive, or if a remembered promise runs again.
pub async fn survives_the_loss_of_its_process(one: Backend, other: Backend) {
    let world = World::default();
    let scenario = async {
        let (app, worker) = world.process(one);
        let answer = send(&app, request("POST /order", &[])).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let path = answer.header("operation-location").to_owned();
        while !world.is_second.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(20)).await;
        }
        worker.abort();
        let _ = worker.await;
        world.is_healthy.store(true, Ordering::SeqCst);
        let (app, worker) = world.process(other);
        let url = loop {
            let address = world.address.lock().expect("no panic").clone();
            let document = send(&app, request(&format!("GET {path}"), &[]))
                .await
                .json();
            let waits = document["waitingFor"][0]["kind"] == "outside";
            if let Some(address) = address.filter(|_| waits) {
                break address;
            }
            sleep(Duration::from_millis(50)).await;
        };
        let headers = [("content-type", "application/json")];
        let settle = request_with(
            &format!("POST {url}"),
            &headers,
            Body::from(r#"{"value": "yes"}"#),
        );
        let answer = send(&app, settle).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let result = loop {
            let result = send(&app, request(&format!("GET {path}/result"), &[])).await;
            if result.status != 202 {
                break result;
            }
            sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(result.body, "100000 2 yes", "{result:?}");
        assert_eq!(world.first.load(Ordering::SeqCst), 1, "it is remembered");
        worker.abort();
    };
    let ended = timeout(PATIENCE, scenario).await;
    assert!(ended.is_ok(), "the operation ends");
}
