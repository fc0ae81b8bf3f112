//! Operations, section 7 of their contract: requests whose body has not been received yet.


use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use test_support::operation::{Answer, App, SECOND, memory, request_with};
use std::convert::Infallible;
use test_support::Counter;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// A request whose body continues when the returned sender is used or dropped.
fn upload(
    app: &App,
    line: &str,
    headers: &[(&str, &str)],
) -> (JoinHandle<Answer>, oneshot::Sender<()>) {
    let (go_on, goes_on) = oneshot::channel::<()>();
    let rest = stream::once(async {
        let _ = goes_on.await;
        Ok::<_, Infallible>(Bytes::from_static(b"rest"))
    });
    let begin = stream::iter([Ok(Bytes::from_static(b"begin"))]);
    let request = request_with(line, headers, Body::from_stream(begin.chain(rest)));
    let app = app.clone();
    (tokio::spawn(async move { app.send(request).await }), go_on)
}

// Contract: 7.14
#[tokio::test(start_paused = true)]
async fn section_7_an_upload_takes_no_place_of_running_work() {
    let app = App::working(memory().max_running(5));
    let uploads: Vec<_> = (0..5).map(|_| upload(&app, "POST /?ms=10", &[])).collect();
    sleep(SECOND).await;
    for _ in 0..5 {
        assert_eq!(app.ask("POST /?ms=10", &[]).await.status, 200);
    }
    for (client, go_on) in uploads {
        go_on.send(()).unwrap();
        assert_eq!(client.await.unwrap().status, 200);
    }
}

// Contract: 7.14
#[tokio::test(start_paused = true)]
async fn section_7_uploads_have_a_limit_of_their_own() {
    let layer = memory()
        .max_receiving(3)
        .max_receiving_per_principal(2)
        .retry_after(SECOND * 7)
        .principal(|request| request.uri.path().strip_prefix("/").map(str::to_owned));
    let app = App::working(layer);
    let mut uploads = Vec::new();
    for (line, status) in [
        ("POST /anna", 0),
        ("POST /anna", 0),
        ("POST /anna", 429),
        ("POST /bert", 0),
        ("POST /bert", 503),
        ("POST /", 503),
    ] {
        let (client, go_on) = upload(&app, line, &[]);
        sleep(SECOND).await;
        assert_eq!(client.is_finished(), status != 0, "{line}");
        if status == 0 {
            uploads.push((client, go_on));
            continue;
        }
        let refused = client.await.unwrap();
        assert_eq!(refused.status, status);
        assert_eq!(refused.header("retry-after"), "7");
        assert_eq!(refused.header("vary"), "Accept, Prefer");
        assert_eq!(refused.header("content-type"), "application/problem+json");
    }
    // A complete body need not be received.
    assert_eq!(app.ask("POST /anna", &[]).await.status, 200);
    // A client that disconnects, or has sent its complete body, makes room.
    let (client, _) = uploads.remove(0);
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    let (client, go_on) = upload(&app, "POST /anna", &[]);
    sleep(SECOND).await;
    uploads.push((client, go_on));
    for (client, go_on) in uploads {
        go_on.send(()).unwrap();
        assert_eq!(client.await.unwrap().status, 200);
        let (client, go_on) = upload(&app, "POST /anna", &[]);
        drop(go_on);
        assert_eq!(client.await.unwrap().status, 200);
    }
}

// Contract: 7.14
#[tokio::test(start_paused = true)]
async fn section_7_uploads_have_a_timeout_of_their_own() {
    for (layer, seconds) in [
        (memory(), 60),
        (memory().receive_timeout(SECOND * 5).wait(SECOND), 5),
    ] {
        let calls = Counter::default();
        let counted = calls.clone();
        let app = App::new(layer.idempotency_keys(true), move |request| {
            counted.add();
            test_support::operation::work(request)
        });
        let start = Instant::now();
        for headers in [&[] as &[_], &[("idempotency-key", "k")]] {
            let (client, _go_on) = upload(&app, "POST /", headers);
            let refused = client.await.unwrap();
            assert_eq!(refused.status, 408);
            assert_eq!(refused.header("vary"), "Accept, Prefer");
            assert_eq!(refused.header("content-type"), "application/problem+json");
        }
        assert_eq!(start.elapsed(), SECOND * 2 * seconds);
        assert_eq!(calls.get(), 0);
        // The key is free.
        let key = [("idempotency-key", "k")];
        assert_eq!(app.ask("POST /", &key).await.status, 200);
        // The form that cancels has the same timeout.
        let path = app.start("POST /?ms=600000", &[]).await;
        let line = format!("POST {path}/cancel");
        let (client, _go_on) = upload(
            &app,
            &line,
            &[("content-type", "application/x-www-form-urlencoded")],
        );
        assert_eq!(client.await.unwrap().status, 408);
        assert_eq!(app.document(&path).await["status"], "Running");
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_request_beyond_the_limit_is_not_received() {
    let app = App::working(memory().max_running(1));
    app.start("POST /?ms=600000", &[]).await;
    let (client, _go_on) = upload(&app, "POST /", &[]);
    let start = Instant::now();
    assert_eq!(client.await.unwrap().status, 503);
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn section_7_a_body_that_breaks_claims_no_key_and_calls_no_service() {
    let calls = Counter::default();
    let counted = calls.clone();
    let layer = memory().idempotency_keys(true).max_body_bytes(8);
    let app = App::new(layer, move |request| {
        counted.add();
        test_support::operation::work(request)
    });
    let key = ("idempotency-key", "k");
    let send = async |headers: &[(&str, &str)], begin: &'static str, breaks: bool| {
        let begin = stream::iter([Ok(Bytes::from_static(begin.as_bytes()))]);
        let end = breaks.then(|| Err(std::io::Error::other("reset by the peer")));
        let body = Body::from_stream(begin.chain(stream::iter(end)));
        app.send(request_with("POST /", headers, body)).await
    };
    for _ in 0..2 {
        let refused = send(&[key], "begin", true).await;
        assert_eq!(refused.status, 400);
        assert_eq!(refused.header("vary"), "Accept, Prefer");
        assert_eq!(refused.header("content-type"), "application/problem+json");
        assert!(!refused.body.contains("reset"), "{}", refused.body);
        assert_eq!(send(&[key], "more than eight", true).await.status, 413);
    }
    assert_eq!(calls.get(), 0);
    for _ in 0..2 {
        assert_eq!(send(&[key], "begin", false).await.status, 200);
    }
    assert_eq!(calls.get(), 1);
    // Without a key the service gets the error, as it does without the layer.
    assert_eq!(send(&[], "begin", true).await.status, 200);
    assert_eq!(calls.get(), 2);
}
