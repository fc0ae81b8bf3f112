//! Operations, section 1 of their contract: the first reply.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use test_support::operation::{
    App, SECOND, memory, number, progress, read, request, request_with, work,
};
use test_support::{Counter, until};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};
use tower_promises_operations::{Escalate, OnDisconnect};

// Contract: 1.1
#[tokio::test(start_paused = true)]
async fn section_1_work_that_ends_within_the_wait_is_answered_as_without_the_layer() {
    let app = App::working(memory());
    let answer = app.ask("POST /work?ms=1900&code=201", &[]).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body, r#"{"answer":42}"#);
    let mut names: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "vary", "x-work"]);
    assert_eq!(answer.header("vary"), "Prefer, Accept");
}

// Contract: 1.1, 1.11
#[tokio::test(start_paused = true)]
async fn section_1_a_response_that_has_begun_streams_on() {
    let app = App::new(memory(), async |_: Request| {
        let parts = stream::iter(["a", "b", "c"]).then(async |part| {
            sleep(SECOND * 5).await;
            Ok::<_, Infallible>(part)
        });
        Body::from_stream(parts)
    });
    let response = app.router.oneshot(request("POST /", &[])).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for part in ["a", "b", "c"] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), part);
    }
    assert!(body.frame().await.is_none());
}

// Contract: 1.2
#[tokio::test(start_paused = true)]
async fn section_1_vary_is_appended_on_every_route_that_can_escalate() {
    let app = App::new(memory(), async |request: Request| {
        let vary = request.uri().query().unwrap_or_default().to_owned();
        if vary.is_empty() {
            return ().into_response();
        }
        ([("vary", vary)], "").into_response()
    });
    for (line, expected) in [
        ("POST /", "Prefer, Accept"),
        ("POST /?Accept-Encoding", "Accept-Encoding, Prefer, Accept"),
        ("POST /?accept", "accept, Prefer"),
        ("POST /?*", "*"),
        // `GET` escalates with `Prefer: respond-async`, so its response depends on that header.
        ("GET /", "Prefer, Accept"),
        // `HEAD` answers as `GET` does, although it never escalates.
        ("HEAD /", "Prefer, Accept"),
        ("HEAD /?accept", "accept, Prefer"),
        ("OPTIONS /?Origin", "Origin"),
    ] {
        assert_eq!(app.ask(line, &[]).await.header("vary"), expected, "{line}");
    }
    let upgrade = [("connection", "upgrade")];
    assert_eq!(app.ask("HEAD /", &upgrade).await.header("vary"), "");
    let never = App::working(memory().escalate(|_| Escalate::Never));
    assert_eq!(never.ask("HEAD /", &[]).await.header("vary"), "");
    let reports = memory().escalate(|request| match request.method {
        http::Method::GET => Escalate::Always,
        _ => Escalate::Never,
    });
    let answer = App::working(reports).ask("HEAD /?ms=9000", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("vary")),
        (200, "Prefer, Accept")
    );
    let slow = App::working(memory());
    let answer = slow.ask("POST /?ms=9000", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("vary")),
        (202, "Prefer, Accept")
    );
    let answer = slow.ask("POST /?ms=9000", &[("accept", "text/html")]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("vary")),
        (303, "Prefer, Accept")
    );
}

#[tokio::test(start_paused = true)]
async fn the_decision_is_asked_once_about_each_request() {
    for escalate in [Escalate::Never, Escalate::WhenPreferred, Escalate::Always] {
        let asked = Counter::default();
        let counted = asked.clone();
        let app = App::working(memory().escalate(move |_| {
            counted.add();
            escalate
        }));
        for (number, line) in (1..).zip(["GET /", "POST /", "PUT /", "OPTIONS /"]) {
            app.ask(line, &[]).await;
            assert_eq!(asked.get(), number, "{line}");
        }
        // `HEAD` asks again for `GET` if the response to `GET` could have another `Vary`.
        app.ask("HEAD /", &[]).await;
        let is_asked_again = escalate == Escalate::Never;
        assert_eq!(asked.get(), 5 + usize::from(is_asked_again));
    }
}

// Contract: 1.3
#[tokio::test(start_paused = true)]
async fn section_1_a_client_that_accepts_html_is_redirected_to_the_page() {
    let app = App::working(memory());
    for accept in [
        "text/html",
        "application/xhtml+xml, text/html;q=0.5, */*;q=0.1",
        "application/json, TEXT/HTML;level=1",
        r#"text/plain;x="a,b", text/html"#,
    ] {
        let answer = app.ask("POST /?ms=9000", &[("accept", accept)]).await;
        assert_eq!(answer.status, 303, "{accept}");
        let location = answer.header("location").to_owned();
        assert!(location.starts_with("/.operations/"), "{location}");
        let page = app
            .ask(&format!("GET {location}"), &[("accept", "text/html")])
            .await;
        assert_eq!(page.status, 200);
    }
    for accept in [
        "application/json",
        "*/*",
        "text/*",
        "text/html;q=0",
        "text/html;q=0.000",
        "x-text/html",
    ] {
        let answer = app.ask("POST /?ms=9000", &[("accept", accept)]).await;
        assert_eq!(answer.status, 202, "{accept}");
    }
}

// Contract: 1.4
#[tokio::test(start_paused = true)]
async fn section_1_other_clients_get_202_with_the_status_document() {
    let app = App::working(memory());
    let answer = app.ask("POST /?ms=9000", &[]).await;
    assert_eq!(answer.status, 202);
    let document = answer.json();
    let id = document["id"].as_str().unwrap();
    let own = format!("/.operations/{id}");
    assert_eq!(document["status"], "Running");
    assert_eq!(document["links"]["self"], own);
    for (name, value) in [
        ("operation-location", own.clone()),
        ("location", format!("{own}/result")),
        ("retry-after", "1".into()),
        ("cache-control", "no-store".into()),
        ("link", format!("<{own}>; rel=\"monitor\"")),
        ("preference-applied", String::new()),
        ("content-type", "application/json".into()),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
}

// Contract: 1.5, 1.7
#[tokio::test(start_paused = true)]
async fn section_1_preferences_are_parsed_leniently_and_reported_if_applied() {
    let app = App::working(memory().wait(SECOND * 2).max_wait(SECOND * 30));
    for (prefer, wait, applied) in [
        (&[] as &[&str], 2, ""),
        (&["respond-async"], 0, "respond-async"),
        (&["Respond-ASYNC"], 0, "respond-async"),
        (&["respond-async, wait=5"], 5, "respond-async, wait=5"),
        (&["WAIT=5"], 5, "wait=5"),
        (&["wait=\"5\""], 5, "wait=5"),
        (&["wait = 5 ; x=y"], 5, "wait=5"),
        (&["wait=0"], 0, "wait=0"),
        (&["wait=30"], 30, "wait=30"),
        // A capped wait was not honoured, so it is not listed.
        (&["wait=31"], 30, ""),
        (
            &["wait=99999999999999999999999", "respond-async"],
            30,
            "respond-async",
        ),
        (
            &["wait=3", "respond-async, wait=7"],
            3,
            "respond-async, wait=3",
        ),
        (&["wait=3, wait=7"], 3, "wait=3"),
        // Invalid preferences are ignored.
        (&["wait"], 2, ""),
        (&["wait="], 2, ""),
        (&["wait=-1"], 2, ""),
        (&["wait=1.5"], 2, ""),
        (&["wait=soon"], 2, ""),
        (&["return=minimal, handling=lenient, wait=4"], 4, "wait=4"),
        (&["x=\"a, wait=9, respond-async\""], 2, ""),
        (&["; , =,, \"", "respond-async"], 0, "respond-async"),
    ] {
        let headers: Vec<_> = prefer.iter().map(|line| ("prefer", *line)).collect();
        let start = Instant::now();
        let answer = app.ask("POST /?ms=60000", &headers).await;
        assert_eq!(answer.status, 202, "{prefer:?}");
        assert_eq!(start.elapsed().as_secs(), wait, "{prefer:?}");
        assert_eq!(answer.header("preference-applied"), applied, "{prefer:?}");
    }
}

// Contract: 1.12
#[tokio::test(start_paused = true)]
async fn section_1_a_read_escalates_when_that_is_preferred() {
    let app = App::working(memory());
    assert_eq!(app.ask("GET /?ms=9000", &[]).await.status, 200);
    let waits = app.ask("GET /?ms=9000", &[("prefer", "wait=1")]).await;
    assert_eq!(waits.status, 200, "`wait` alone does not escalate a read");
    let asks = app
        .ask("GET /?ms=9000", &[("prefer", "respond-async")])
        .await;
    assert_eq!(asks.status, 202);

    let layer = memory().escalate(|_| Escalate::WhenPreferred);
    let app = App::working(layer);
    assert_eq!(app.ask("POST /?ms=9000", &[]).await.status, 200);
    let asks = app
        .ask("POST /?ms=9000", &[("prefer", "respond-async")])
        .await;
    assert_eq!(asks.status, 202);
}

// Contract: 1.6
#[tokio::test(start_paused = true)]
async fn section_1_completion_at_the_deadline_is_never_a_202_with_a_final_status() {
    let app = App::working(memory().max_running(10_000));
    let mut inline = 0;
    for round in 0..1000 {
        // The deadline itself most of the time, and one millisecond before and after it.
        let ms = 2000 + [0, 1, 0, -1, 0][round % 5];
        let answer = app.ask(&format!("POST /?ms={ms}"), &[]).await;
        if answer.status == 200 {
            inline += 1;
            assert_eq!(answer.body, r#"{"answer":42}"#);
        } else {
            assert_eq!(answer.status, 202);
            let status = answer.json()["status"].clone();
            assert!(status == "Running" || status == "NotStarted", "{status}");
            let path = answer.header("operation-location");
            assert_eq!(app.ended(path).await["status"], "Succeeded");
        }
    }
    assert!((200..=1000).contains(&inline), "{inline}");
    assert_eq!(app.operations.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_operation_without_a_reply_is_forgotten() {
    let app = App::working(memory().principal(|_| Some("user".into())));
    let mut escalated = 0;
    for round in 0..60 {
        let line = format!("POST /?ms={}", 1999 + round % 3);
        if round % 2 == 0 {
            let answer = app.ask(&line, &[]).await;
            escalated += usize::from(answer.status == 202);
        } else {
            // A client whose own timeout ends at the same time.
            let patience = Duration::from_millis(2000);
            if let Ok(answer) = timeout(patience, app.ask(&line, &[])).await {
                escalated += usize::from(answer.status == 202);
            }
        }
    }
    sleep(SECOND * 20).await;
    let listed = app.operations.list("user").await.unwrap();
    assert_eq!(listed.len(), escalated);
    assert!(
        listed
            .iter()
            .all(|operation| operation.status().as_str() == "Succeeded")
    );
}

// Contract: 1.8
#[tokio::test(start_paused = true)]
async fn section_1_addresses_come_from_the_public_origin_only() {
    let lies = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "gopher"),
        ("forwarded", "host=evil.example;proto=gopher"),
    ];
    let app = App::working(memory().public_origin("https://good.example/"));
    let answer = app.ask("POST /?ms=9000", &lies).await;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let own = format!("https://good.example/.operations/{id}");
    assert_eq!(answer.header("operation-location"), own);
    assert_eq!(answer.header("location"), format!("{own}/result"));
    assert_eq!(answer.header("link"), format!("<{own}>; rel=\"monitor\""));
    let links = answer.json()["links"].clone();
    assert_eq!(links["self"], own);
    assert_eq!(links["events"], format!("{own}/events"));
    let html = [("accept", "text/html"), ("host", "evil.example")];
    let answer = app.ask("POST /?ms=9000", &html).await;
    assert!(
        answer
            .header("location")
            .starts_with("https://good.example/")
    );

    let app = App::working(memory());
    let answer = app.ask("POST /?ms=9000", &lies).await;
    assert!(answer.header("location").starts_with("/.operations/"));
    assert!(!format!("{answer:?}").contains("evil"), "{answer:?}");
}

// Contract: 1.13
#[tokio::test(start_paused = true)]
async fn section_1_the_mount_path_can_be_chosen_and_never_reaches_the_service() {
    let calls = Counter::default();
    let counted = calls.clone();
    let app = App::new(memory().mount("jobs/"), move |request: Request| {
        counted.add();
        work(request)
    });
    let path = app.start("POST /?ms=9000", &[]).await;
    assert!(path.starts_with("/jobs/"), "{path}");
    for path in [
        &*path,
        "/jobs",
        "/jobs/",
        "/jobs/x/y/z",
        "/jobs/assets/none",
    ] {
        app.get(path).await;
    }
    assert_eq!(calls.get(), 1);
    assert_eq!(app.get("/jobsearch").await.status, 200);
    assert_eq!(calls.get(), 2);
}

/// A body that arrives in parts, with a pause before each.
fn slow_body(parts: usize, bytes: usize) -> Body {
    let parts = stream::iter(0..parts).then(move |_| async move {
        sleep(SECOND * 3).await;
        Ok::<_, Infallible>(Bytes::from(vec![b'x'; bytes]))
    });
    Body::from_stream(parts)
}

/// Reads the complete body, then works for `ms` milliseconds.
async fn swallow(request: Request) -> Response {
    let ms = number(&request, "ms").unwrap_or(0);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    sleep(Duration::from_millis(ms)).await;
    body.len().to_string().into_response()
}

// Contract: 1.9
#[tokio::test(start_paused = true)]
async fn section_1_the_body_is_read_in_full_before_the_first_reply() {
    let app = App::new(memory().max_body_bytes(3000), swallow);
    let start = Instant::now();
    let answer = app
        .send(request_with("POST /?ms=9000", &[], slow_body(3, 1000)))
        .await;
    assert_eq!(answer.status, 202);
    assert_eq!(
        start.elapsed(),
        SECOND * 11,
        "nine seconds for the body, then the wait"
    );
    let path = answer.header("operation-location");
    app.ended(path).await;
    assert_eq!(app.get(&format!("{path}/result")).await.body, "3000");
}

// Contract: 1.9
#[tokio::test(start_paused = true)]
async fn section_1_a_body_over_the_bound_stays_on_the_connection() {
    let app = App::new(memory().max_body_bytes(2999), swallow);
    for body in [slow_body(3, 1000), Body::from(vec![b'x'; 3000])] {
        let headers = [("prefer", "respond-async")];
        let answer = app
            .send(request_with("POST /?ms=9000", &headers, body))
            .await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "3000"));
        assert_eq!(answer.header("vary"), "Prefer, Accept");
    }
}

// Contract: 1.10
#[tokio::test(start_paused = true)]
async fn section_1_an_error_of_the_body_reaches_the_service() {
    let app = App::new(memory(), async |request: Request| {
        let mut body = request.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "begin");
        let error = body.frame().await.unwrap().unwrap_err();
        format!("{error:?}").contains("broken").to_string()
    });
    let parts = [Ok("begin"), Err("broken")];
    let body = Body::from_stream(stream::iter(parts));
    let answer = app.send(request_with("POST /", &[], body)).await;
    assert_eq!(answer.body, "true");
}

// Contract: 1.11
#[tokio::test(start_paused = true)]
async fn section_1_upgrades_and_connect_never_escalate() {
    let app = App::working(memory().escalate(|_| Escalate::Always));
    for headers in [
        &[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ] as &[_],
        &[("upgrade", "h2c")],
    ] {
        let answer = app.ask("GET /?ms=9000", headers).await;
        assert_eq!((answer.status.as_u16(), answer.header("vary")), (200, ""));
    }
    let answer = app.ask("CONNECT /?ms=9000", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.header("vary")), (200, ""));
}

// Contract: 1.11
#[tokio::test(start_paused = true)]
async fn section_1_grpc_never_escalates_by_default() {
    let app = App::working(memory());
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web-text; charset=utf-8",
        "Application/GRPC",
    ] {
        // A client that sends only after it has received something.
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let headers = [("content-type", content_type), ("prefer", "respond-async")];
        let asked = app.send(request_with("POST /?ms=9000", &headers, body));
        let answer = timeout(SECOND * 600, asked).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("vary")), (200, ""));
    }
    for content_type in ["application/json", "application/x-grpc", "text/plain"] {
        let headers = [("content-type", content_type)];
        let answer = app.ask("POST /?ms=9000", &headers).await;
        assert_eq!(answer.status, 202, "{content_type}");
    }
}

// Contract: 7.15
#[tokio::test(start_paused = true)]
async fn section_7_on_disconnect_decides_about_work_before_the_reply() {
    let (dropped, started) = (Counter::default(), Arc::new(Notify::new()));
    for on_disconnect in [OnDisconnect::Drop, OnDisconnect::Continue] {
        let (counter, has_started) = (dropped.clone(), started.clone());
        let layer = memory()
            .on_disconnect(on_disconnect)
            .principal(|_| Some("user".into()));
        let app = App::new(layer, move |request: Request| {
            let (counter, has_started) = (counter.clone(), has_started.clone());
            async move {
                let progress = progress(&request);
                let watched = progress.clone();
                let guard = counter.on_drop();
                tokio::spawn(async move {
                    watched.cancelled().await;
                    drop(guard);
                });
                has_started.notify_one();
                sleep(SECOND * 9).await;
                progress.set(100);
                "done"
            }
        });
        let before = dropped.get();
        let client = tokio::spawn(app.router.clone().oneshot(request("POST /", &[])));
        started.notified().await;
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        if on_disconnect == OnDisconnect::Drop {
            until("the work is dropped", || dropped.get() > before).await;
            assert_eq!(app.operations.list("user").await.unwrap().len(), 0);
        } else {
            sleep(SECOND * 10).await;
            assert_eq!(dropped.get(), before);
            let operations = app.operations.list("user").await.unwrap();
            assert_eq!(operations.len(), 1);
            assert_eq!(operations[0].status().as_str(), "Succeeded");
            assert_eq!(operations[0].progress(), Some(100.0));
        }
    }
}

// Contract: 7.15
#[tokio::test(start_paused = true)]
async fn section_7_after_the_reply_the_work_goes_on_without_its_client() {
    let app = App::working(memory());
    let client = app.clone();
    let path = tokio::spawn(async move { client.start("POST /?ms=9000", &[]).await });
    let path = path.await.unwrap();
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
}

// Contract: 7.11
#[tokio::test(start_paused = true)]
async fn errors_and_panics_before_the_first_reply_are_those_of_the_service() {
    let app = App::new(memory(), async |_: Request| -> String {
        panic!("on purpose")
    });
    let answer = tokio::spawn(async move { app.ask("POST /", &[]).await });
    let panic = answer.await.unwrap_err().into_panic();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "on purpose");
}

#[tokio::test(start_paused = true)]
async fn the_service_is_polled_ready_before_each_call_and_status_does_not_wait_for_it() {
    let limit = tower::limit::ConcurrencyLimitLayer::new(1);
    let layer = memory();
    let service = tower::ServiceBuilder::new()
        .layer(layer)
        .layer(limit)
        .service_fn(async |request: Request<_>| {
            let request: Request<tower_promises_operations::OperationRequestBody<Body>> = request;
            Ok::<_, Infallible>(work(request.map(Body::new)).await)
        });
    let send = |line: &str| {
        let mut service = service.clone();
        let request = request(line, &[]);
        async move {
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            read(response.map(Body::new)).await
        }
    };
    let first = send("POST /?ms=9000").await;
    assert_eq!(first.json()["status"], "Running");
    // The limit is reached, so this request waits. Status requests do not wait.
    let second = send("POST /?ms=9000").await;
    assert_eq!(second.json()["status"], "NotStarted");
    assert!(second.json().get("started").is_none());
    let path = second.header("operation-location");
    let document = timeout(SECOND, send(&format!("GET {path}"))).await.unwrap();
    assert_eq!(document.json()["status"], "NotStarted");
    sleep(SECOND * 8).await;
    assert_eq!(
        send(&format!("GET {path}")).await.json()["status"],
        "Running"
    );
    sleep(SECOND * 9).await;
    assert_eq!(
        send(&format!("GET {path}")).await.json()["status"],
        "Succeeded"
    );
}
