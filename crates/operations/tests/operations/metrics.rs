//! Metrics of operations.

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::away::Away;
use test_support::operation::{App, SECOND, memory, request, request_with, work};
use test_support::recorded::RecordedHere;
use test_support::stepping::{At, Stepping};
use test_support::until;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_promises_backend::memory::{MemoryQueue, MemoryStore};
use tower_promises_backend::{Backend, BackendError};
use tower_promises_operations::{OnDisconnect, OperationLayer};

const ASYNC: (&str, &str) = ("prefer", "respond-async");

#[tokio::test(start_paused = true)]
async fn replies_and_operations_are_counted() {
    let recorded = RecordedHere::start();
    let app = App::working(memory().idempotency_keys(true));
    // Answered within the wait, and never an operation.
    app.ask("POST /?ms=10", &[]).await;
    let path = app.start("POST /?ms=9000", &[]).await;
    assert_eq!(recorded.value("operations_in_flight"), 1.0);
    app.ended(&path).await;
    let path = app.start("POST /?ms=9000&code=500", &[]).await;
    app.ended(&path).await;
    let path = app.start("POST /?ms=900000", &[]).await;
    app.ask(&format!("DELETE {path}"), &[]).await;
    let key = ("idempotency-key", "7");
    app.ask("POST /?ms=10", &[key]).await;
    app.ask("POST /?ms=10", &[key]).await;
    // A request for an operation has no first reply.
    app.get(&path).await;
    until("the gauges are zero", || {
        ["operations_in_flight", "operation_requests_in_flight"]
            .iter()
            .all(|gauge| recorded.value(gauge) == 0.0)
    })
    .await;
    assert_eq!(
        recorded.values("operation"),
        [
            "operation_duration_seconds_count{outcome=\"cancelled\"} 1",
            "operation_duration_seconds_count{outcome=\"failed\"} 1",
            "operation_duration_seconds_count{outcome=\"succeeded\"} 2",
            "operation_replies_total{reply=\"accepted\"} 3",
            "operation_replies_total{reply=\"inline\"} 2",
            "operation_replies_total{reply=\"repeated\"} 1",
            "operations_started_total{kind=\"ordinary\"} 4",
            "operations_total{outcome=\"cancelled\"} 1",
            "operations_total{outcome=\"failed\"} 1",
            "operations_total{outcome=\"succeeded\"} 2",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn with_a_key_errors_and_accepted_requests_are_counted_by_their_reply() {
    let recorded = RecordedHere::start();
    let app = App::working(memory().idempotency_keys(true));
    app.start("POST /?ms=9000", &[("idempotency-key", "1")])
        .await;
    // Still running: the repeated request gets the same address.
    app.start("POST /?ms=9000", &[("idempotency-key", "1")])
        .await;
    // A refusal is not remembered, so it runs again.
    let layer = memory().idempotency_keys(true);
    let refusing = App::new(layer, async |_: Request| StatusCode::SERVICE_UNAVAILABLE);
    for _ in 0..2 {
        let answer = refusing.ask("POST /", &[("idempotency-key", "2")]).await;
        assert_eq!(answer.status, 503);
    }
    assert_eq!(
        recorded.values("operation_replies"),
        [
            "operation_replies_total{reply=\"accepted\"} 1",
            "operation_replies_total{reply=\"inline\"} 2",
            "operation_replies_total{reply=\"repeated\"} 1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn gauges_return_to_zero_after_a_disconnect_and_a_panic() {
    let recorded = RecordedHere::start();
    let gauges = || {
        ["operation_requests_in_flight", "operations_in_flight"].map(|name| recorded.value(name))
    };
    for on_disconnect in [OnDisconnect::Drop, OnDisconnect::Continue] {
        let app = App::working(memory().on_disconnect(on_disconnect));
        let asked = timeout(SECOND, app.ask("POST /?ms=9000", &[]));
        assert!(asked.await.is_err());
        let continues = f64::from(on_disconnect == OnDisconnect::Continue);
        until("the work continues or is dropped", || {
            gauges() == [continues; 2]
        })
        .await;
        sleep(SECOND * 10).await;
        assert_eq!(gauges(), [0.0; 2]);
    }

    let app = App::new(memory(), async |_: Request| -> String {
        sleep(SECOND).await;
        panic!("no tea")
    });
    let path = app.start("POST /", &[ASYNC]).await;
    assert_eq!(gauges(), [1.0; 2]);
    app.ended(&path).await;
    until("the gauges are zero", || gauges() == [0.0; 2]).await;
    assert_eq!(recorded.value("operations_total{outcome=\"failed\"}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_by_limit() {
    let recorded = RecordedHere::start();
    let layer = |principal: bool| {
        memory()
            .receive_timeout(SECOND)
            .principal(move |_| principal.then(|| "ada".to_owned()))
    };
    let endless = || {
        let body = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        request_with("POST /", &[ASYNC], Body::from_stream(body))
    };
    for (limit, layer, principal, is_endless) in [
        (
            "principal",
            layer(true).max_running_per_principal(0),
            true,
            false,
        ),
        (
            "principal_receiving",
            layer(true).max_receiving_per_principal(0),
            true,
            true,
        ),
        (
            "principal_stored",
            layer(true).max_stored_bytes_per_principal(0),
            true,
            false,
        ),
        ("total", layer(false).max_running(0), false, false),
        (
            "total_receiving",
            layer(false).max_receiving(0),
            false,
            true,
        ),
        ("receive_timeout", layer(false), false, true),
    ] {
        let app = App::new(layer, work);
        let asked = match is_endless {
            true => endless(),
            false => request("POST /", &[ASYNC]),
        };
        let status = app.send(asked).await.status;
        let wanted = match (limit, principal) {
            ("receive_timeout", _) => 408,
            (_, true) => 429,
            (_, false) => 503,
        };
        assert_eq!(status, wanted, "{limit}");
        let refused = format!("operation_refusals_total{{limit=\"{limit}\"}}");
        assert_eq!(recorded.value(&refused), 1.0, "{limit}");
    }
    assert_eq!(recorded.values("operation_requests"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn operations_that_a_drain_gives_up_are_counted() {
    let recorded = RecordedHere::start();
    let app = App::working(memory());
    app.start("POST /?ms=900000", &[ASYNC]).await;
    app.start("POST /?ms=1000", &[ASYNC]).await;
    assert_eq!(app.operations.drain(SECOND * 5).await, 1);
    assert_eq!(recorded.value("operations_given_up_total"), 1.0);
    assert_eq!(recorded.value("operations_total{outcome=\"failed\"}"), 1.0);
    assert_eq!(
        recorded.value("operations_total{outcome=\"succeeded\"}"),
        1.0
    );
    assert_eq!(recorded.value("operations_in_flight"), 0.0);
}

/// The store of a process that loses touch, and of one that does not.
fn out_of_touch() -> (Arc<AtomicBool>, Stepping) {
    let is_down = Arc::new(AtomicBool::new(false));
    let fails = is_down.clone();
    let store = Stepping::failing(move |at, _| {
        let fails = at == At::BeforeWrite && fails.load(Ordering::SeqCst);
        fails.then(|| BackendError::unavailable("it is away"))
    });
    (is_down, store)
}

#[tokio::test(start_paused = true)]
async fn a_lost_operation_is_counted_by_the_process_that_notices() {
    let recorded = RecordedHere::start();
    let (is_down, store) = out_of_touch();
    let [here, there] = [store.backend(), store.elsewhere().backend()]
        .map(|backend| App::working(OperationLayer::new(backend)));
    let path = here.start("POST /?ms=9000000", &[]).await;
    is_down.store(true, Ordering::SeqCst);
    let lost = there.ended(&path).await;
    assert_eq!(lost["error"]["code"], "Lost");
    assert_eq!(recorded.value("operations_total{outcome=\"lost\"}"), 1.0);
    assert_eq!(recorded.value("operations_total{outcome=\"failed\"}"), 0.0);
    assert!(recorded.value("operation_backend_errors_total{kind=\"call\"}") >= 1.0);

    // The process that has lost touch notices the end, and does not count it again.
    until("the work is dropped", || {
        recorded.value("operations_in_flight") == 0.0
    })
    .await;
    let ends = recorded.values("operations_total");
    assert_eq!(ends, ["operations_total{outcome=\"lost\"} 1"]);
}

#[tokio::test(start_paused = true)]
async fn an_end_whose_answer_is_lost_is_counted_once() {
    let recorded = RecordedHere::start();
    let has_failed = AtomicBool::new(false);
    let is_on = Arc::new(AtomicBool::new(false));
    let counts = is_on.clone();
    let store = Stepping::failing(move |at, _| {
        let fails = at == At::AfterWrite && counts.load(Ordering::SeqCst);
        let fails = fails && !has_failed.swap(true, Ordering::SeqCst);
        fails.then(|| BackendError::unavailable("the answer is lost"))
    });
    let app = App::new(OperationLayer::new(store.backend()), async |_: Request| {
        sleep(Duration::from_millis(3500)).await;
        "done"
    });
    let path = app.start("POST /", &[ASYNC]).await;
    sleep(SECOND * 3).await;
    is_on.store(true, Ordering::SeqCst);
    app.ended(&path).await;
    let ends = recorded.values("operations_total");
    assert_eq!(ends, ["operations_total{outcome=\"succeeded\"} 1"]);
}

#[tokio::test(start_paused = true)]
async fn labels_contain_no_input_of_a_client() {
    let recorded = RecordedHere::start();
    let layer = memory()
        .idempotency_keys(true)
        .principal(|_| Some("sesame".to_owned()));
    let app = App::new(layer, async |_: Request| "sesame".into_response());
    let headers = [("idempotency-key", "sesame"), ASYNC];
    let asked = request("POST /sesame", &headers);
    app.router.clone().oneshot(asked).await.unwrap();
    until("it has ended", || {
        recorded.value("operations_total{outcome=\"succeeded\"}") == 1.0
    })
    .await;
    assert!(!recorded.handle.render().contains("sesame"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_bus_is_counted() {
    let recorded = RecordedHere::start();
    let backend = Backend::new(MemoryStore::new(), Away, MemoryQueue::new());
    let app = App::working(OperationLayer::new(backend));
    app.ask("POST /?ms=10", &[]).await;
    until("the bus is lost", || {
        recorded.value("operation_backend_errors_total{kind=\"bus\"}") >= 1.0
    })
    .await;
}

#[test]
fn the_documentation_has_all_metrics_with_their_kinds_and_labels() {
    let code = include_str!("../../src/metrics.rs");
    test_support::described::assert_is_documented(
        code,
        tower_promises_operations::metrics::describe,
    );
}
