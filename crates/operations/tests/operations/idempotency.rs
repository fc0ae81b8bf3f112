//! Operations, section 7 of their contract: requests with an `Idempotency-Key`.

use axum::body::Body;
use axum::extract::Request;
use futures_util::future;
use test_support::operation::{App, SECOND, memory, request, request_with, work};
use test_support::{Counter, until};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_promises_backend::Backend;
use tower_promises_operations::OperationLayer;

const KEY: (&str, &str) = ("idempotency-key", "8e03978e-40d5-43dd-bc93-6894a57f9324");

/// A service that counts its calls.
fn counting(layer: OperationLayer) -> (App, Counter) {
    let calls = Counter::default();
    let counted = calls.clone();
    let layer = layer.idempotency_keys(true).principal(|request| {
        let user = request.headers.get("user")?;
        Some(user.to_str().ok()?.to_owned())
    });
    let app = App::new(layer, move |request: Request| {
        counted.add();
        work(request)
    });
    (app, calls)
}

// Contract: 7.8
#[tokio::test(start_paused = true)]
async fn section_7_the_same_key_is_the_same_operation_run_once() {
    let (app, calls) = counting(memory());
    let first = app.start("POST /?ms=9000", &[KEY]).await;
    assert_eq!(app.start("POST /?ms=9000", &[KEY]).await, first);
    let page = app
        .ask("POST /?ms=9000", &[KEY, ("accept", "text/html")])
        .await;
    assert_eq!(
        (page.status.as_u16(), page.header("location")),
        (303, &*first)
    );
    app.ended(&first).await;
    let answer = app.ask("POST /?ms=9000", &[KEY]).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (200, r#"{"answer":42}"#)
    );
    assert_eq!(answer.header("x-work"), "done");
    assert_eq!(answer.header("vary"), "Prefer, Accept");
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn section_7_an_immediate_answer_is_repeated() {
    let (app, calls) = counting(memory());
    let first = app.ask("POST /?ms=10&code=201", &[KEY]).await;
    assert_eq!(first.status, 201);
    assert_eq!(app.ask("POST /?ms=10&code=201", &[KEY]).await, first);
    assert_eq!(calls.get(), 1);
    // Without the key, this is another request.
    app.ask("POST /?ms=10&code=201", &[]).await;
    assert_eq!(calls.get(), 2);
}

// Contract: 7.8
#[tokio::test(start_paused = true)]
async fn section_7_another_request_with_the_key_is_422() {
    let (app, calls) = counting(memory());
    app.start("POST /?ms=9000", &[KEY]).await;
    for (line, headers, body) in [
        ("POST /?ms=9001", &[KEY] as &[_], ""),
        ("PUT /?ms=9000", &[KEY], ""),
        ("POST /?ms=9000", &[KEY], "body"),
        ("POST /?ms=9000", &[KEY, ("content-type", "text/plain")], ""),
    ] {
        let answer = app
            .send(request_with(line, headers, Body::from(body)))
            .await;
        assert_eq!(answer.status, 422, "{line}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(calls.get(), 1);
}

// Contract: 7.8
#[tokio::test(start_paused = true)]
async fn section_7_a_key_in_flight_is_409() {
    let backend = Backend::memory();
    let (here, calls) = counting(OperationLayer::new(backend.clone()));
    let (there, _) = counting(OperationLayer::new(backend));
    let first = tokio::spawn({
        let here = here.clone();
        async move { here.ask("POST /?ms=1000", &[KEY]).await }
    });
    until("the request is in flight", || calls.get() == 1).await;
    for app in [&here, &there] {
        let answer = app.ask("POST /?ms=1000", &[KEY]).await;
        assert_eq!(answer.status, 409);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(there.ask("POST /?ms=1000", &[KEY]).await.status, 200);
    assert_eq!(calls.get(), 1);
}

// Contract: 7.8
#[tokio::test]
async fn section_7_one_of_many_concurrent_requests_runs() {
    for _ in 0..20 {
        let backend = Backend::memory();
        let (here, calls) = counting(OperationLayer::new(backend.clone()));
        let (there, more_calls) = counting(OperationLayer::new(backend));
        let asks = (0..8).map(|number| {
            let app = if number % 2 == 0 {
                here.clone()
            } else {
                there.clone()
            };
            tokio::spawn(async move { app.ask("POST /?ms=5", &[KEY]).await.status.as_u16() })
        });
        let statuses = future::join_all(asks).await;
        let statuses: Vec<_> = statuses.into_iter().map(Result::unwrap).collect();
        assert!(
            statuses.iter().all(|status| matches!(status, 200 | 409)),
            "{statuses:?}"
        );
        assert!(statuses.contains(&200));
        assert_eq!(calls.get() + more_calls.get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_keys_of_two_principals_are_two_keys() {
    let (app, calls) = counting(memory());
    for user in ["anna", "bert"] {
        app.start("POST /?ms=9000", &[KEY, ("user", user)]).await;
    }
    assert_eq!(calls.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_comes_back_for_the_result() {
    let (app, calls) = counting(memory());
    let client = tokio::spawn(
        app.router
            .clone()
            .oneshot(request("POST /?ms=1000", &[KEY])),
    );
    until("the request is in flight", || calls.get() == 1).await;
    client.abort();
    sleep(SECOND * 2).await;
    let answer = app.ask("POST /?ms=1000", &[KEY]).await;
    assert_eq!((answer.status.as_u16(), calls.get()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn section_7_a_request_without_its_client_is_not_in_flight() {
    let backend = Backend::memory();
    let (here, calls) = counting(OperationLayer::new(backend.clone()));
    let (there, _) = counting(OperationLayer::new(backend));
    let first = here.router.clone();
    let client = tokio::spawn(first.oneshot(request("POST /?ms=9000", &[KEY])));
    until("the request is in flight", || calls.get() == 1).await;
    assert_eq!(there.ask("POST /?ms=9000", &[KEY]).await.status, 409);
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    sleep(SECOND).await;
    for app in [&there, &here] {
        let path = app.start("POST /?ms=9000", &[KEY]).await;
        assert_eq!(app.document(&path).await["status"], "Running");
    }
    assert_eq!(calls.get(), 1);
}

// Contract: 1.5, 7.8
#[tokio::test(start_paused = true)]
async fn section_1_a_repeated_request_waits_as_its_client_prefers() {
    let backend = Backend::memory();
    let (here, calls) = counting(OperationLayer::new(backend.clone()));
    let (there, _) = counting(OperationLayer::new(backend));
    let path = here.start("POST /?ms=20000", &[KEY]).await;
    for app in [&here, &there] {
        for (prefer, wait) in [("wait=4", 4), ("respond-async", 0)] {
            let start = Instant::now();
            let answer = app.ask("POST /?ms=20000", &[KEY, ("prefer", prefer)]).await;
            assert_eq!(answer.header("operation-location"), path);
            assert_eq!(answer.header("preference-applied"), prefer);
            assert_eq!(start.elapsed().as_secs(), wait);
        }
    }
    // Both machines see the end of the operation at once.
    let start = Instant::now();
    let headers = [KEY, ("prefer", "wait=30")];
    let answers = [&here, &there].map(|app| app.ask("POST /?ms=20000", &headers));
    for answer in future::join_all(answers).await {
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (200, r#"{"answer":42}"#)
        );
    }
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_that_waits_counts_as_a_request() {
    let (app, _) = counting(memory().max_running(2));
    app.start("POST /?ms=9000", &[KEY]).await;
    let waiting = app.clone();
    let waiting = tokio::spawn(async move { waiting.ask("POST /?ms=9000", &[KEY]).await });
    sleep(SECOND).await;
    assert_eq!(app.ask("POST /", &[]).await.status, 503);
    assert_eq!(waiting.await.unwrap().status, 202);
    assert_eq!(app.ask("POST /", &[]).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn section_7_a_repeated_request_needs_no_room_for_another_result() {
    let user = ("user", "anna");
    for (layer, refused) in [
        (memory().max_stored_bytes_per_principal(2048), 429),
        (memory().max_stored_bytes(2048), 503),
    ] {
        let (app, calls) = counting(layer);
        let first = app.ask("POST /?ms=10", &[KEY, user]).await;
        assert_eq!(first.status, 200);
        let full = app.start("POST /?ms=9000", &[user]).await;
        sleep(SECOND * 10).await;
        let document = app.ask(&format!("GET {full}"), &[user]).await.json();
        assert_eq!(document["error"]["code"], "StorageFull");
        let other = ("idempotency-key", "another");
        for headers in [&[user] as &[_], &[other, user]] {
            let answer = app.ask("POST /?ms=10", headers).await;
            assert_eq!(answer.status, refused);
            assert_eq!(answer.header("vary"), "Accept, Prefer");
        }
        assert_eq!(app.ask("POST /?ms=10", &[KEY, user]).await, first);
        assert_eq!(calls.get(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_request_to_another_host_is_another_request() {
    let (app, calls) = counting(memory());
    let to = |host: &'static str| [KEY, ("host", host)];
    let first = app.start("POST /?ms=9000", &to("One.example")).await;
    assert_eq!(
        app.ask("POST /?ms=9000", &to("two.example")).await.status,
        422
    );
    // HTTP/2 has the host in the URI.
    for line in ["POST /?ms=9000", "POST https://one.example/?ms=9000"] {
        assert_eq!(app.start(line, &to("one.example")).await, first, "{line}");
    }
    assert_eq!(
        app.start("POST https://one.example/?ms=9000", &[KEY]).await,
        first
    );
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_free_again_when_its_operation_is_gone() {
    let (app, calls) = counting(memory().retention(SECOND * 10));
    let path = app.start("POST /?ms=3000", &[KEY]).await;
    app.ended(&path).await;
    assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 204);
    let again = app.start("POST /?ms=3000", &[KEY]).await;
    assert_ne!(again, path);
    sleep(SECOND * 20).await;
    app.start("POST /?ms=3000", &[KEY]).await;
    assert_eq!(calls.get(), 3);
}

// Contract: 7.13
#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_guaranteed_to_run_once_does_not_run() {
    let (app, calls) = counting(memory().max_body_bytes(3));
    let large = app
        .send(request_with("POST /", &[KEY], Body::from("1234")))
        .await;
    assert_eq!(large.status, 413);
    app.operations.drain(SECOND).await;
    assert_eq!(app.ask("POST /", &[KEY]).await.status, 503);
    assert_eq!(calls.get(), 0);
    assert_eq!(app.ask("POST /", &[]).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_key_applies_to_a_request_that_does_not_escalate() {
    let layer = memory().escalate(|_| tower_promises_operations::Escalate::WhenPreferred);
    let (app, calls) = counting(layer);
    for _ in 0..2 {
        let answer = app.ask("POST /?ms=600000", &[KEY]).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (200, r#"{"answer":42}"#)
        );
    }
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_are_opt_in_and_checked() {
    let app = App::working(memory());
    let first = app.start("POST /?ms=9000", &[KEY]).await;
    assert_ne!(app.start("POST /?ms=9000", &[KEY]).await, first);
    let (app, calls) = counting(memory());
    let long = "x".repeat(256);
    for headers in [
        &[("idempotency-key", "")] as &[_],
        &[("idempotency-key", &*long)],
        &[KEY, KEY],
    ] {
        assert_eq!(app.ask("POST /", headers).await.status, 400);
    }
    assert_eq!(calls.get(), 0);
}

// Contract: 1.2
#[tokio::test(start_paused = true)]
async fn section_1_vary_is_on_refusals_too() {
    let (app, _) = counting(memory().max_body_bytes(3));
    let vary = async |headers: &[(&str, &str)], body: &'static str| {
        let request = request_with("POST /", headers, Body::from(body));
        let answer = app.send(request).await;
        assert!(answer.status.is_client_error() || answer.status.is_server_error());
        answer.header("vary").to_owned()
    };
    assert_eq!(vary(&[KEY, KEY], "").await, "Accept, Prefer");
    assert_eq!(vary(&[KEY], "1234").await, "Accept, Prefer");
    app.operations.drain(SECOND).await;
    assert_eq!(vary(&[KEY], "").await, "Accept, Prefer");
}
