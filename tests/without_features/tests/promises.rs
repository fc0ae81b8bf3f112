//! `tower-promises` without its features: no logs, no metrics, no blocking work, no files for bodies.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::body::ReplayBody;
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

type TestRequest = Request<ReplayBody<Full<Bytes>>>;

/// Sends a request to a handler that is called with the handle of each pass. Returns the status and the text.
async fn ask(
    layer: PromiseLayer,
    handler: impl Fn(&Promises) -> Result<String, PromiseError>,
) -> (StatusCode, String) {
    let service = layer.layer(service_fn(|request: TestRequest| {
        let promises = request.extensions().get::<Promises>().unwrap();
        let (status, text) = match handler(promises) {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (error.status(), error.to_string()),
        };
        let mut response = Response::new(Full::<Bytes>::from(text));
        *response.status_mut() = status;
        ready(Ok::<_, Infallible>(response))
    }));
    let response = service.oneshot(Request::new(Full::default())).await;
    let response = response.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_handler_runs_again_with_its_results() {
    let passes = AtomicUsize::new(0);
    let answer = ask(PromiseLayer::new(), |promises| {
        passes.fetch_add(1, Ordering::Relaxed);
        let one = promises.result_or_submit("one", async || 1)?;
        let two = promises.result_or_submit("two", async move || one + 1)?;
        Ok(format!("{one} {two}"))
    });
    assert_eq!(answer.await, (StatusCode::OK, "1 2".into()));
    assert_eq!(passes.into_inner(), 3);
}

#[tokio::test]
async fn a_placeholder_stands_for_a_pending_promise() {
    let seen = std::sync::Mutex::new(Vec::new());
    let answer = ask(PromiseLayer::new(), |promises| {
        let name = promises.result_or_submit("name", async || "Ferris".to_owned());
        let name = name.or_pending("…".to_owned())?;
        seen.lock().unwrap().push(name.clone());
        Ok(name)
    });
    assert_eq!(answer.await.1, "Ferris");
    assert_eq!(*seen.lock().unwrap(), ["…", "Ferris"]);
}

#[tokio::test]
async fn a_panic_of_a_promise_is_an_error() {
    let answer = ask(PromiseLayer::new(), |promises| {
        promises.result_or_submit("broken", async || -> u8 { panic!("it broke") })?;
        Ok(String::new())
    });
    let (status, text) = answer.await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
}

#[tokio::test(start_paused = true)]
async fn promises_and_requests_time_out() {
    let layer = PromiseLayer::new().promise_timeout(Duration::from_secs(1));
    let slow = |promises: &Promises| {
        promises.result_or_submit("slow", pending::<u8>)?;
        Ok(String::new())
    };
    assert_eq!(ask(layer, slow).await.0, StatusCode::GATEWAY_TIMEOUT);
    let layer = PromiseLayer::new().timeout(Duration::from_secs(1));
    assert_eq!(ask(layer, slow).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn too_many_passes_are_rejected() {
    let names = AtomicUsize::new(0);
    let answer = ask(PromiseLayer::new().max_passes(3), |promises| {
        let name = names.fetch_add(1, Ordering::Relaxed).to_string();
        promises.result_or_submit(name, async || 1)?;
        Ok(String::new())
    });
    assert!(answer.await.0.is_server_error());
}

#[tokio::test]
async fn each_pass_reads_the_body_from_its_start() {
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = request.extensions().get::<Promises>().unwrap().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let length = promises.result_or_submit("length", {
            let body = body.clone();
            async move || body.len()
        });
        let length = length.or_pending(0).unwrap();
        let text = format!("{length} {}", String::from_utf8_lossy(&body));
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
    }));
    let request = Request::new(Full::<Bytes>::from("body"));
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "4 body");
}
