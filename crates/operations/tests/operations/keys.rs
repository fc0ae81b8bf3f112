//! Operations, section 7 of their contract: the syntax of an `Idempotency-Key`, and responses that are not remembered.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::StatusCode;
use std::time::Duration;
use test_support::operation::{
    Answer, App, SECOND, memory, number, progress, read, request, request_with, work,
};
use test_support::{Counter, until};
use tokio::time::sleep;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_promises_backend::Backend;
use tower_promises_operations::{OperationLayer, OperationRequestBody};

const KEY: (&str, &str) = ("idempotency-key", "\"8e03978e-40d5-43dd-bc93\"");

fn keyed() -> OperationLayer {
    memory().idempotency_keys(true)
}

/// A service that counts its calls and answers with these statuses, and with the last one from then on.
fn answering(layer: OperationLayer, statuses: &'static [u16]) -> (App, Counter) {
    let calls = Counter::default();
    let counted = calls.clone();
    let app = App::new(layer, move |request: Request| {
        let call = counted.get();
        counted.add();
        let ms = number(&request, "ms").unwrap_or(0);
        let status = statuses[call.min(statuses.len() - 1)];
        async move {
            sleep(Duration::from_millis(ms)).await;
            (
                StatusCode::from_u16(status).unwrap(),
                format!("call {call}"),
            )
        }
    });
    (app, calls)
}

// Contract: 7.9
#[tokio::test(start_paused = true)]
async fn section_7_a_key_is_a_string_with_or_without_quotes() {
    for [first, again, other] in [
        ["k", "\"k\"", "\"K\""],
        ["\"k\"", "  k ", "kk"],
        ["\"k\"", "\"k\";a;b=1; c=\"x;y\"", "\"k;a\""],
        [r#""a\"b\\c""#, r#""a\"b\\c" "#, r#""a\\\"b\\c""#],
        ["a/b:c=+7", "\"a/b:c=+7\"", "\"a b\""],
    ] {
        let (app, calls) = answering(keyed(), &[200]);
        for key in [first, again, first] {
            let answer = app.ask("POST /", &[("idempotency-key", key)]).await;
            assert_eq!(
                (answer.status.as_u16(), &*answer.body),
                (200, "call 0"),
                "{key}"
            );
        }
        let answer = app.ask("POST /", &[("idempotency-key", other)]).await;
        assert_eq!(answer.body, "call 1", "{other}");
        assert_eq!(calls.get(), 2);
    }
}

// Contract: 7.9
#[tokio::test(start_paused = true)]
async fn section_7_a_malformed_key_is_400() {
    let (app, calls) = answering(keyed(), &[200]);
    let longest = format!("\"{}\"", "x".repeat(255));
    let too_long = format!("\"{}\"", "x".repeat(256));
    for key in [
        "",
        "\"\"",
        "\"k",
        "k\"",
        "\"k\"k",
        "\"k\" k",
        "\"k\\\"",
        "\"a\\b\"",
        "a b",
        "a, b",
        "a;b",
        "a\\b",
        "\"a\", \"b\"",
        "\"k\";",
        "\"k\";A",
        "\"k\";a=",
        "\"a\tb\"",
        &too_long,
    ] {
        let answer = app.ask("POST /", &[("idempotency-key", key)]).await;
        assert_eq!(answer.status, 400, "{key}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    for key in [&b"\"\xc3\xa4\""[..], b"\xff"] {
        let mut request = request("POST /", &[]);
        let key = http::HeaderValue::from_bytes(key).unwrap();
        request.headers_mut().insert("idempotency-key", key);
        assert_eq!(app.send(request).await.status, 400);
    }
    assert_eq!(calls.get(), 0);
    let longest = [("idempotency-key", &*longest)];
    assert_eq!(app.ask("POST /", &longest).await.status, 200);
}

// Contract: 7.12
#[tokio::test(start_paused = true)]
async fn section_7_a_repeated_form_may_have_another_boundary() {
    let form = |boundary: &str, content: &str| {
        format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n{content}\r\n--{boundary}\r\n\
             content-disposition: form-data; name=\"b\"\r\n\r\n\r\n--{boundary}--\r\n"
        )
    };
    let (app, calls) = answering(keyed(), &[200]);
    let send = async |content_type: &str, body: String| {
        let headers = [KEY, ("content-type", content_type)];
        let request = request_with("POST /", &headers, Body::from(body));
        app.send(request).await.status.as_u16()
    };
    let first = "multipart/form-data; boundary=----WebKitFormBoundaryq";
    assert_eq!(send(first, form("----WebKitFormBoundaryq", "1")).await, 200);
    for (content_type, body, status) in [
        (
            "multipart/form-data; boundary=other",
            form("other", "1"),
            200,
        ),
        (
            "multipart/form-data; boundary=\"a b\"",
            form("a b", "1"),
            422,
        ),
        (
            "multipart/form-data; boundary=other",
            form("other", "2"),
            422,
        ),
        (
            "multipart/form-data; boundary=other",
            form("others", "1"),
            422,
        ),
        (
            "multipart/form-data; boundary=other",
            form("another", "1"),
            422,
        ),
        ("multipart/mixed; boundary=other", form("other", "1"), 422),
        (
            "multipart/form-data; x=y; boundary=other",
            form("other", "1"),
            422,
        ),
        ("multipart/form-data; boundary=", form("other", "1"), 422),
        ("text/plain", form("other", "1"), 422),
        // A line that only resembles a boundary is content.
        (
            "multipart/form-data; boundary=other",
            form("other", "--other"),
            422,
        ),
    ] {
        assert_eq!(send(content_type, body).await, status, "{content_type}");
    }
    assert_eq!(calls.get(), 1);
}

/// A service with an outer layer that answers panics.
fn panicking(layer: OperationLayer) -> (App, Counter) {
    let (mut app, calls) = {
        let calls = Counter::default();
        let counted = calls.clone();
        let app = App::new(layer, move |request: Request| {
            counted.add();
            let ms = number(&request, "ms");
            async move {
                if let Some(ms) = ms {
                    sleep(Duration::from_millis(ms)).await;
                }
                panic!("on purpose");
                #[expect(unreachable_code, reason = "a handler has a response")]
                ""
            }
        });
        (app, calls)
    };
    let outside = |_| (StatusCode::IM_A_TEAPOT, "caught outside").into_response();
    app.router = app.router.layer(CatchPanicLayer::custom(outside));
    (app, calls)
}

// Contract: 7.11
#[tokio::test(start_paused = true)]
async fn section_7_a_panic_reaches_the_layers_outside_as_without_a_key() {
    for line in ["POST /", "POST /?ms=1000"] {
        let (app, _) = panicking(keyed());
        let without = app.ask(line, &[]).await;
        assert_eq!(
            (without.status.as_u16(), &*without.body),
            (418, "caught outside")
        );
        assert_eq!(app.ask(line, &[KEY]).await, without, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_panicking_request_runs_once() {
    // A handler that panics in its first poll may already have had all its effects.
    for line in ["POST /", "POST /?ms=1000"] {
        let (app, calls) = panicking(keyed());
        assert_eq!(app.ask(line, &[KEY]).await.status, 418);
        let again = app.ask(line, &[KEY]).await;
        assert_eq!((again.status.as_u16(), calls.get()), (500, 1), "{line}");
        assert_eq!(again.header("content-type"), "application/problem+json");
        assert_eq!(app.operations.running(), 0);
    }
    // After the first reply, no outer layer sees the panic.
    let (app, _) = panicking(keyed());
    let path = app.start("POST /?ms=9000", &[]).await;
    assert_eq!(app.ended(&path).await["error"]["code"], "Panicked");
}

type Reply = Result<Response, BoxError>;

/// Sends a request to a service that returns errors.
async fn send<S>(service: &S, line: &str, headers: &[(&str, &str)]) -> Result<Answer, BoxError>
where
    S: tower::Service<Request, Error = BoxError> + Clone,
    S::Response: IntoResponse,
{
    let response = service.clone().oneshot(request(line, headers)).await?;
    Ok(read(response.into_response()).await)
}

/// The request of the inner services in these tests.
type Inner = http::Request<OperationRequestBody<Body>>;

// Contract: 7.10
#[tokio::test(start_paused = true)]
async fn section_7_a_shed_request_is_not_remembered() {
    let calls = Counter::default();
    let counted = calls.clone();
    let service = ServiceBuilder::new()
        .layer(keyed().wait(SECOND * 20))
        .load_shed()
        .concurrency_limit(1)
        .service_fn(move |request: Inner| {
            counted.add();
            async move { Ok::<_, BoxError>(work(request.map(Body::new)).await) }
        });
    let busy = tokio::spawn(service.clone().oneshot(request("POST /?ms=9000", &[])));
    until("the service is busy", || calls.get() == 1).await;
    for headers in [&[] as &[_], &[KEY], &[KEY]] {
        let error = send(&service, "POST /", headers).await.unwrap_err();
        assert!(error.is::<tower::load_shed::error::Overloaded>(), "{error}");
    }
    assert_eq!(busy.await.unwrap().unwrap().status(), 200);
    for _ in 0..2 {
        let answer = send(&service, "POST /", &[KEY]).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    assert_eq!(calls.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn section_7_an_error_of_work_that_has_begun_is_remembered() {
    let calls = Counter::default();
    let counted = calls.clone();
    let service = ServiceBuilder::new()
        .layer(keyed())
        .timeout(SECOND)
        .service_fn(move |request: Inner| {
            counted.add();
            async move { Ok::<_, BoxError>(work(request.map(Body::new)).await) }
        });
    let error = send(&service, "POST /?ms=9000", &[KEY]).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    let again = send(&service, "POST /?ms=9000", &[KEY]).await.unwrap();
    assert_eq!(again.status, 500);
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn section_7_work_begins_when_it_reads_its_body_or_reports() {
    for line in ["POST /read", "POST /report"] {
        let calls = Counter::default();
        let counted = calls.clone();
        let inner = service_fn(move |request: Inner| {
            counted.add();
            async move {
                let request = request.map(Body::new);
                if request.uri().path() == "/report" {
                    progress(&request).set(1);
                } else {
                    axum::body::to_bytes(request.into_body(), 100)
                        .await
                        .unwrap();
                }
                Reply::Err("broken".into())
            }
        });
        let service = ServiceBuilder::new().layer(keyed()).service(inner);
        assert!(send(&service, line, &[KEY]).await.is_err());
        let again = send(&service, line, &[KEY]).await.unwrap();
        assert_eq!((again.status.as_u16(), calls.get()), (500, 1), "{line}");
    }
}

/// A service that is never ready: polling it returns an error, or panics.
#[derive(Clone)]
struct Closed {
    polls: Counter,
    panics: bool,
}

impl tower::Service<Inner> for Closed {
    type Response = Response;
    type Error = BoxError;
    type Future = std::future::Ready<Reply>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        self.polls.add();
        assert!(!self.panics, "on purpose");
        std::task::Poll::Ready(Err("closed".into()))
    }

    fn call(&mut self, _: Inner) -> Self::Future {
        unreachable!("the service is not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_failure_before_the_service_is_ready_is_not_remembered() {
    for panics in [false, true] {
        let polls = Counter::default();
        let service = ServiceBuilder::new().layer(keyed()).service(Closed {
            polls: polls.clone(),
            panics,
        });
        for poll in 1..=3 {
            let sent = send(&service, "POST /", &[KEY]);
            match std::panic::AssertUnwindSafe(sent).catch_unwind().await {
                Ok(answer) => assert_eq!(answer.unwrap_err().to_string(), "closed"),
                Err(_) => assert!(panics),
            }
            assert_eq!(polls.get(), poll);
        }
    }
}

// Contract: 7.10
#[tokio::test(start_paused = true)]
async fn section_7_temporary_refusals_are_not_remembered() {
    for (statuses, refusal) in [(&[503, 503, 201], 503), (&[429, 429, 201], 429)] {
        for line in ["POST /", "POST /?ms=1000"] {
            let (app, calls) = answering(keyed().principal(|_| Some("anna".into())), statuses);
            for call in 0..2 {
                let answer = app.ask(line, &[KEY]).await;
                assert_eq!(answer.status, refusal);
                assert_eq!(answer.body, format!("call {call}"));
                assert_eq!(answer.header("vary"), "Prefer, Accept");
            }
            for _ in 0..2 {
                let answer = app.ask(line, &[KEY]).await;
                assert_eq!((answer.status.as_u16(), &*answer.body), (201, "call 2"));
            }
            assert_eq!(calls.get(), 3);
            // The refused requests have left nothing behind.
            assert_eq!(app.operations.list("anna").await.unwrap().len(), 1);
            assert_eq!(app.operations.running(), 0);
        }
    }
    // Other failures are remembered.
    for status in [&[400, 200], &[404, 200], &[500, 200], &[502, 200]] {
        let (app, calls) = answering(keyed(), status);
        for _ in 0..2 {
            assert_eq!(app.ask("POST /", &[KEY]).await.status, status[0]);
        }
        assert_eq!(calls.get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_refusal_after_the_first_reply_is_a_result_and_remembered() {
    let backend = Backend::memory();
    let layer = || OperationLayer::new(backend.clone()).idempotency_keys(true);
    // The first client got the reply, or another client after the first has gone away.
    for (number, goes_away) in [false, true].into_iter().enumerate() {
        let key = [("idempotency-key", ["a", "b"][number])];
        let (here, _) = answering(layer(), &[503]);
        let (there, calls) = answering(layer(), &[201]);
        if goes_away {
            let first = request("POST /?ms=9000", &key);
            let first = tokio::spawn(here.router.clone().oneshot(first));
            sleep(SECOND).await;
            first.abort();
            assert!(first.await.unwrap_err().is_cancelled());
            sleep(SECOND).await;
        } else {
            here.start("POST /?ms=9000", &key).await;
        }
        let path = there.start("POST /?ms=9000", &key).await;
        assert_eq!(here.ended(&path).await["status"], "Failed");
        let result = there.get(&format!("{path}/result")).await;
        for app in [&here, &there] {
            let again = app.ask("POST /?ms=9000", &key).await;
            assert_eq!((again.status.as_u16(), &again.body), (503, &result.body));
        }
        assert_eq!((calls.get(), result.body.as_str()), (0, "call 0"));
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_refusal_of_work_that_has_reported_is_remembered() {
    for reports_a_message in [false, true] {
        let calls = Counter::default();
        let counted = calls.clone();
        let app = App::new(keyed(), move |request: Request| {
            counted.add();
            if reports_a_message {
                progress(&request).set_message("charging the card");
            } else {
                progress(&request).set(0);
            }
            async { StatusCode::SERVICE_UNAVAILABLE }
        });
        for _ in 0..3 {
            assert_eq!(app.ask("POST /", &[KEY]).await.status, 503);
        }
        assert_eq!(calls.get(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_client_that_waits_for_an_earlier_request_gets_its_refusal() {
    let (app, calls) = answering(keyed(), &[503, 201]);
    let first = request("POST /?ms=5000", &[KEY]);
    let first = tokio::spawn(app.router.clone().oneshot(first));
    sleep(SECOND).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    sleep(SECOND).await;
    let headers = [KEY, ("prefer", "wait=30")];
    let refused = app.ask("POST /?ms=5000", &headers).await;
    assert_eq!((refused.status.as_u16(), calls.get()), (503, 1));
    assert_eq!(refused.header("retry-after"), "1");
    let again = app.ask("POST /?ms=5000", &headers).await;
    assert_eq!((again.status.as_u16(), calls.get()), (201, 2));
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_takes_no_place_in_the_list_of_its_principal() {
    let layer = keyed().principal(|_| Some("anna".into()));
    let app = App::new(layer, async |request: Request| {
        if request.uri().path() == "/slow" {
            sleep(SECOND * 1000).await;
        }
        StatusCode::SERVICE_UNAVAILABLE
    });
    app.start("POST /slow", &[]).await;
    for _ in 0..300 {
        assert_eq!(app.ask("POST /", &[KEY]).await.status, 503);
    }
    let listed = app.operations.list("anna").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].status().to_string(), "Running");
    // The same applies when the list is full.
    for number in 0..300 {
        let path = app.start("POST /slow", &[]).await;
        if number >= 5 {
            assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 200);
        }
    }
    let listed = async || {
        let listed = app.operations.list("anna").await.unwrap();
        listed
            .iter()
            .map(|it| it.id().to_owned())
            .collect::<Vec<_>>()
    };
    let full = listed().await;
    assert_eq!(full.len(), 256);
    assert_eq!(app.ask("POST /", &[KEY]).await.status, 503);
    assert_eq!(listed().await, full);
}

#[tokio::test(start_paused = true)]
async fn section_7_a_client_that_is_gone_when_its_request_is_refused_can_send_it_again() {
    let (app, calls) = answering(keyed(), &[503, 200]);
    let first = app.router.clone();
    let client = tokio::spawn(first.oneshot(request("POST /?ms=1000", &[KEY])));
    until("the request is in flight", || calls.get() == 1).await;
    client.abort();
    sleep(SECOND * 2).await;
    let answer = app.ask("POST /?ms=1000", &[KEY]).await;
    assert_eq!((answer.status.as_u16(), calls.get()), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn section_7_a_refusal_at_the_deadline_gives_out_no_unknown_address() {
    for round in 0..200 {
        let ms = 2000 + [0, 1, 0, -1, 0][round % 5];
        let (app, _) = answering(keyed(), &[503]);
        let answer = app.ask(&format!("POST /?ms={ms}"), &[KEY]).await;
        if answer.status == 202 {
            let path = answer.header("operation-location");
            assert_eq!(app.ended(path).await["status"], "Failed");
        } else {
            assert_eq!(answer.status, 503);
        }
    }
}
