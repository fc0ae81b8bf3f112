//! What of a request is stored, and how the first reply comes.

use crate::process::{Diary, Process, layer};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use http::header::{AUTHORIZATION, HeaderName};
use std::time::Duration;
use test_support::Log;
use test_support::operation::{SECOND, request_with};
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::{PromiseLayer, Promises};
use tower_promises_operations::Escalate;
use tower_promises_operations::durable::DurableRun;

#[tokio::test(start_paused = true)]
async fn a_fast_request_is_answered_as_if_it_were_not_durable() {
    let process = Process::start(layer(&Backend::memory()), |promises| {
        let name = promises.durable("name", async || "Ferris".to_owned())?;
        Ok(format!("Hello, {name}!"))
    });
    let answer = process.ask("POST /").await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (200, "Hello, Ferris!")
    );
    assert_eq!(answer.header("vary"), "Prefer, Accept");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_takes_up_no_runs_is_a_warning() {
    let log = Log::start();
    let backend = Backend::memory();
    let web = Process::idle(layer(&backend), Router::new());
    for _ in 0..2 {
        web.begin("POST /").await;
    }
    assert_eq!(log.text().matches("takes up none").count(), 1);
    // The wait is not long enough to tell.
    let log = Log::start();
    let web = Process::idle(layer(&backend).wait(Duration::ZERO), Router::new());
    web.begin("POST /").await;
    assert_eq!(log.text().matches("takes up none").count(), 0);
}

// Contract: 8.8
#[tokio::test(start_paused = true)]
async fn an_idempotency_key_counts_whatever_escalate_says() {
    let layer = layer(&Backend::memory())
        .escalate(|_| Escalate::Never)
        .idempotency_keys(true);
    let process = Process::start(layer, |promises| {
        promises.sleep("night", 60 * SECOND)?;
        Ok("good morning".to_owned())
    });
    let mut paths = Vec::new();
    for _ in 0..2 {
        let answer = process
            .send(request_with(
                "POST /",
                &[("idempotency-key", "\"one\"")],
                Body::empty(),
            ))
            .await;
        assert_eq!(answer.status, 202);
        paths.push(answer.header("operation-location").to_owned());
    }
    assert_eq!(paths[0], paths[1]);
}

// Contract: 8.12
#[tokio::test(start_paused = true)]
async fn requests_that_only_ask_about_a_resource_never_become_durable() {
    let layer = layer(&Backend::memory()).durable(|request| request.uri.path() == "/order");
    let process = Process::serving(layer, Router::new().fallback(show));
    for method in ["HEAD", "OPTIONS", "TRACE", "CONNECT"] {
        let line = format!("{method} /order");
        let answer = process
            .send(request_with(
                &line,
                &[("prefer", "respond-async")],
                Body::empty(),
            ))
            .await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(
            !answer.headers.contains_key("operation-location"),
            "{method}"
        );
    }
    let upgrade = |protocol| [("connection", "upgrade"), ("upgrade", protocol)];
    let web_socket = request_with("GET /order", &upgrade("websocket"), Body::empty());
    let answer = process.send(web_socket).await;
    assert!(answer.body.contains("upgrade"), "{answer:?}");
    // Proxies and clients add these headers to ordinary requests, which stay durable.
    for protocol in ["h2c", "websocket"] {
        let post = request_with("POST /order", &upgrade(protocol), Body::empty());
        let answer = process.send(post).await;
        assert!(
            !answer.body.contains("upgrade"),
            "stored without it: {answer:?}"
        );
    }
}

/// A service that shows its request.
async fn show(request: Request) -> String {
    let run = request.extensions().get::<DurableRun>().cloned();
    let principal = run.as_ref().and_then(|run| run.principal());
    let principal = principal.unwrap_or("nobody").to_owned();
    let tenant = request.extensions().get::<Tenant>().is_some();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let mut headers: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    headers.sort_unstable();
    format!(
        "{} {} {headers:?} {body} {principal} {tenant}",
        parts.method, parts.uri
    )
}

#[derive(Clone)]
struct Tenant;

#[tokio::test(start_paused = true)]
async fn the_request_is_stored_without_credentials_and_rebuilt() {
    let layer = layer(&Backend::memory())
        .principal(|request| {
            let user = request.headers.get(AUTHORIZATION)?;
            Some(user.to_str().ok()?.replace("Bearer ", ""))
        })
        .rebuild(|request| {
            request.extensions.insert(Tenant);
        });
    let process = Process::serving(layer, Router::new().fallback(show));
    let headers = [
        ("authorization", "Bearer ada"),
        ("cookie", "session=secret"),
        ("content-type", "text/plain"),
        ("x-request-id", "7"),
    ];
    let answer = process
        .send(request_with(
            "POST /order?number=7",
            &headers,
            Body::from("two apples"),
        ))
        .await;
    assert_eq!(
        answer.body,
        r#"POST /order?number=7 ["content-type"] two apples ada true"#
    );
}

#[tokio::test(start_paused = true)]
async fn the_application_chooses_the_stored_headers() {
    let named = [HeaderName::from_static("x-request-id")];
    let layer = layer(&Backend::memory()).durable_headers(named);
    let process = Process::serving(layer, Router::new().fallback(show));
    let headers = [("content-type", "text/plain"), ("x-request-id", "7")];
    let answer = process
        .send(request_with("POST /", &headers, Body::empty()))
        .await;
    assert_eq!(answer.body, r#"POST / ["x-request-id"]  nobody false"#);
}

// Contract: 8.9
#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_stored_is_refused() {
    let layer = layer(&Backend::memory()).max_body_bytes(10);
    let process = Process::serving(layer, Router::new().fallback(show));
    let answer = process
        .send(request_with(
            "POST /",
            &[],
            Body::from("more than ten bytes"),
        ))
        .await;
    assert_eq!(answer.status, 413);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_process_that_takes_up_runs() {
    let backend = Backend::memory();
    let inner = Router::new().fallback(async || "done");
    let front = Process::idle(layer(&backend), inner.clone());
    let path = front.begin("POST /").await;
    sleep(10 * SECOND).await;
    assert_eq!(front.document(&path).await["status"], "NotStarted");
    let _back = Process::serving(layer(&backend), inner);
    assert_eq!(front.result(&path).await, (200, "done".to_owned()));
}

/// Without an address that works, the client waits for the end. The request is durable nevertheless.
#[tokio::test(start_paused = true)]
async fn a_request_whose_operation_cannot_be_reached_waits_for_its_end() {
    let backend = Backend::memory();
    let inner = Router::new().fallback(async |request: Request| {
        sleep(10 * SECOND).await;
        request
            .extensions()
            .get::<DurableRun>()
            .is_some()
            .to_string()
    });
    let process = Process::serving(layer(&backend), inner.clone());
    let elsewhere = process.operations.check_mount::<_, Body>(inner).await;
    assert!(elsewhere.is_err());
    let answer = process.ask("POST /").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "true"));
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_when_its_client_disconnects() {
    let diary = Diary::default();
    let noted = diary.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        let noted = noted.clone();
        promises.durable("slow", move || async move {
            sleep(10 * SECOND).await;
            noted.note("slow");
        })?;
        Ok(String::new())
    });
    let gone = tokio::time::timeout(SECOND / 2, process.ask("POST /")).await;
    assert!(gone.is_err());
    sleep(20 * SECOND).await;
    assert_eq!(diary.read(), ["slow"]);
}

// Contract: 8.8
#[tokio::test(start_paused = true)]
async fn a_repeated_request_with_a_key_is_the_same_operation() {
    let diary = Diary::default();
    let noted = diary.clone();
    let layer = layer(&Backend::memory()).idempotency_keys(true);
    let process = Process::start(layer, move |promises| {
        let noted = noted.clone();
        promises.durable("slow", move || async move {
            sleep(5 * SECOND).await;
            noted.note("slow");
        })?;
        Ok("done".to_owned())
    });
    let send = async |body: &'static str| {
        let headers = [("idempotency-key", "k")];
        let request = request_with("POST /", &headers, Body::from(body));
        process.send(request).await
    };
    let (first, second) = (send("").await, send("").await);
    assert_eq!(first.status, 202, "{first:?}");
    let location = "operation-location";
    assert_eq!(first.header(location), second.header(location));
    assert_eq!(send("other").await.status, 422);
    sleep(10 * SECOND).await;
    assert_eq!(send("").await.body, "done");
    assert_eq!(diary.read(), ["slow"]);
}

// Contract: 8.9
#[tokio::test(start_paused = true)]
async fn a_process_that_drains_refuses_durable_requests() {
    let process = Process::serving(layer(&Backend::memory()), Router::new().fallback(show));
    process.operations.drain(Duration::ZERO).await;
    let answer = process.ask("POST /").await;
    assert_eq!(answer.status, 503);
    assert_eq!(process.ask("GET /").await.status, 200);
}

/// Without the layer, and for other requests, the promises are ordinary ones.
#[tokio::test(start_paused = true)]
async fn promises_outside_of_a_durable_operation_are_ordinary() {
    let handler = |promises: &Promises| {
        assert_eq!(promises.idempotency_key("name"), None);
        let refused = promises.outside::<u32>("approval").unwrap_err();
        assert_eq!(
            std::error::Error::source(&refused).unwrap().to_string(),
            "promise `approval` can be settled from outside in a durable operation only"
        );
        assert!(promises.outside_url("approval").is_err());
        promises.sleep("pause", SECOND)?;
        promises.durable("name", async || "Ferris".to_owned())
    };
    let process = Process::with(layer(&Backend::memory()), PromiseLayer::new(), handler);
    let answer = process.ask("GET /").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "Ferris"));
}
