//! Operations, section 3 of their contract: results, including results that are too large or fail.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use std::convert::Infallible;
use test_support::operation::{App, SECOND, memory, number, request, request_with};
use test_support::until;
use tokio::time::sleep;
use tower::ServiceExt;

// Contract: 3.1
#[tokio::test(start_paused = true)]
async fn section_3_a_result_that_is_not_ready_is_202_every_time() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=9000", &[]).await;
    let result = format!("{path}/result");
    for accept in ["*/*", "text/html", "*/*"] {
        let answer = app
            .ask(&format!("GET {result}"), &[("accept", accept)])
            .await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.header("location"), result);
        assert_eq!(answer.header("retry-after"), "1");
        assert_eq!(answer.json()["status"], "Running");
    }
    assert_eq!(app.ask(&format!("HEAD {result}"), &[]).await.status, 202);
}

// Contract: 3.2
#[tokio::test(start_paused = true)]
async fn section_3_the_result_is_the_inner_response() {
    let app = App::new(memory(), async |_: Request| {
        sleep(SECOND * 9).await;
        let mut response = Response::new(Body::from("made"));
        *response.status_mut() = http::StatusCode::CREATED;
        for (name, value) in [
            (header::SET_COOKIE, "a=1"),
            (header::SET_COOKIE, "b=2"),
            (header::LOCATION, "/things/7"),
            (header::CONNECTION, "close, X-Hop"),
            (header::TRANSFER_ENCODING, "chunked"),
            (header::UPGRADE, "h2c"),
            (header::TRAILER, "x"),
        ] {
            response
                .headers_mut()
                .append(name, HeaderValue::from_static(value));
        }
        for name in ["x-hop", "keep-alive", "x-kept"] {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static("1"));
        }
        let latin = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        response.headers_mut().insert("x-latin", latin);
        response
    });
    let path = app.start("POST /", &[]).await;
    app.ended(&path).await;
    let answer = app.get(&format!("{path}/result")).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (201, "made"));
    assert_eq!(answer.header("asyncresult"), "201");
    assert_eq!(answer.header("location"), "/things/7");
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(answer.headers["x-latin"].as_bytes(), b"caf\xe9");
    assert_eq!(answer.header("x-kept"), "1");
    for hop in [
        "connection",
        "x-hop",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
        "trailer",
    ] {
        assert!(!answer.headers.contains_key(hop), "{hop}");
    }
    let head = app.ask(&format!("HEAD {path}/result"), &[]).await;
    assert_eq!(
        (head.status, &head.headers),
        (answer.status, &answer.headers)
    );
    assert_eq!(
        app.get(&format!("{path}/result")).await,
        answer,
        "the result can be read again"
    );
}

// Contract: 3.6
#[tokio::test(start_paused = true)]
async fn section_3_no_cache_stores_a_result_without_permission_of_the_service() {
    const MODIFIED: (&str, &str) = ("last-modified", "Fri, 01 Mar 2024 00:00:00 GMT");
    const EXPIRES: (&str, &str) = ("expires", "Fri, 01 Mar 2030 00:00:00 GMT");
    let cache_control = async |once: bool, headers: &'static [(&'static str, &'static str)]| {
        let app = App::new(memory().result_once(once), move |_: Request| async move {
            sleep(SECOND * 9).await;
            let mut response = "made".into_response();
            for (name, value) in headers {
                let value = HeaderValue::from_static(value);
                response.headers_mut().append(*name, value);
            }
            response
        });
        let path = app.start("POST /", &[]).await;
        app.ended(&path).await;
        let line = format!("HEAD {path}/result");
        let head = app.ask(&line, &[]).await.headers;
        let answer = app.get(&format!("{path}/result")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "made"));
        assert_eq!(answer.headers, head);
        let lines = answer.headers.get_all("cache-control").iter();
        let lines: Vec<_> = lines.map(|line| line.to_str().unwrap()).collect();
        lines.join(" | ")
    };
    for (headers, expected) in [
        (&[] as &[_], "no-store"),
        // With this header alone, a cache may choose a lifetime by itself.
        (&[MODIFIED, ("etag", "\"1\"")], "no-store"),
        // The headers of the service are not changed.
        (
            &[("cache-control", "private, max-age=60")],
            "private, max-age=60",
        ),
        (
            &[("cache-control", "public"), ("cache-control", "max-age=9")],
            "public | max-age=9",
        ),
        (&[("cache-control", "")], ""),
        (&[EXPIRES], ""),
    ] {
        assert_eq!(cache_control(false, headers).await, expected, "{headers:?}");
        // A cache could serve the result a second time.
        assert_eq!(
            cache_control(true, headers).await,
            "no-store",
            "{headers:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_cache_stores_an_answer_of_the_layer() {
    let app = App::working(memory().retention(SECOND * 100));
    let path = app.start("POST /?ms=9000", &[]).await;
    let (status, result) = (format!("GET {path}"), format!("GET {path}/result"));
    let [events, cancel] = ["events", "cancel"].map(|part| format!("GET {path}/{part}"));
    let delete = format!("DELETE {path}");
    for accept in ["*/*", "text/html"] {
        let check = async |line: &str, status: u16| {
            let answer = app.ask(line, &[("accept", accept)]).await;
            assert_eq!(answer.status, status, "{line}");
            assert_eq!(answer.header("cache-control"), "no-store", "{line}");
            assert_eq!(answer.header("referrer-policy"), "no-referrer", "{line}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{line}");
            answer.header("operation-location").to_owned()
        };
        let own = app.start("POST /?ms=60000", &[]).await;
        check("POST /?ms=9000", if accept == "*/*" { 202 } else { 303 }).await;
        check("GET /.operations/unknown", 404).await;
        check(&cancel, 405).await;
        check(&format!("GET {own}"), 200).await;
        check(&format!("GET {own}/result"), 202).await;
        check(
            &format!("POST {own}/cancel"),
            if accept == "*/*" { 200 } else { 303 },
        )
        .await;
        check(&format!("POST {own}/cancel"), 409).await;
        check(&format!("GET {own}/result"), 410).await;
        check(&format!("DELETE {own}"), 204).await;
    }
    let answer = app.get(&events[4..]).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    app.ended(&path).await;
    let page = app.ask(&status, &[("accept", "text/html")]).await;
    assert_eq!(
        (page.status.as_u16(), page.header("cache-control")),
        (303, "no-store")
    );
    sleep(SECOND * 110).await;
    for line in [&status, &result, &events, &delete] {
        let answer = app.ask(line, &[]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("cache-control")),
            (410, "no-store")
        );
    }
}

// Contract: 3.3
#[tokio::test(start_paused = true)]
async fn section_3_an_inner_202_is_sent_as_200() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=9000&code=202", &[]).await;
    app.ended(&path).await;
    let answer = app.get(&format!("{path}/result")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("asyncresult")),
        (200, "202")
    );
    assert_eq!(answer.body, r#"{"answer":42}"#);
}

// Contract: 2.6, 3.2
#[tokio::test(start_paused = true)]
async fn section_3_an_inner_error_is_the_result() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=9000&code=422", &[]).await;
    app.ended(&path).await;
    let answer = app.get(&format!("{path}/result")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("asyncresult")),
        (422, "422")
    );
    assert_eq!(answer.body, r#"{"answer":42}"#);
}

// Contract: 3.2
#[tokio::test(start_paused = true)]
async fn section_3_a_large_result_is_returned_completely() {
    let app = App::new(memory(), async |request: Request| {
        let bytes = number(&request, "bytes").unwrap();
        sleep(SECOND * 9).await;
        (0..bytes)
            .map(|n| char::from(b'a' + (n % 26) as u8))
            .collect::<String>()
    });
    for bytes in [0, 1, 65_536, 65_537, 1_000_000] {
        let path = app.start(&format!("POST /?bytes={bytes}"), &[]).await;
        app.ended(&path).await;
        let answer = app.get(&format!("{path}/result")).await;
        assert_eq!(answer.header("content-length"), bytes.to_string());
        let expected = (0..bytes).map(|n| b'a' + (n % 26) as u8);
        assert!(answer.body.bytes().eq(expected), "{bytes}");
    }
}

// Contract: 3.4, 3.7
#[tokio::test(start_paused = true)]
async fn section_3_a_result_to_be_read_once_is_gone_after_it_was_sent() {
    let app = App::working(memory().result_once(true));
    for code in [200_u16, 204] {
        let path = app.start(&format!("POST /?ms=9000&code={code}"), &[]).await;
        app.ended(&path).await;
        let result = format!("{path}/result");
        // A `HEAD` request, or a response that is not read, does not count as reading.
        for _ in 0..2 {
            let line = format!("HEAD {result}");
            assert_eq!(app.ask(&line, &[]).await.status, code);
        }
        if code == 200 {
            let get = app
                .router
                .clone()
                .oneshot(request(&format!("GET {result}"), &[]));
            drop(get.await.unwrap());
            sleep(SECOND).await;
        }
        assert_eq!(app.get(&result).await.status, code);
        sleep(SECOND).await;
        let answer = app.get(&result).await;
        assert_eq!(answer.status, 410);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(app.document(&path).await["status"], "Succeeded");
    }
}

// Contract: 3.4
#[tokio::test(start_paused = true)]
async fn section_3_a_cancelled_or_expired_operation_is_410() {
    let app = App::working(memory().retention(SECOND * 100));
    let cancelled = app.start("POST /?ms=9000", &[]).await;
    app.ask(&format!("DELETE {cancelled}"), &[]).await;
    let expired = app.start("POST /?ms=3000", &[]).await;
    app.ended(&expired).await;
    sleep(SECOND * 105).await;
    for path in [&expired, &format!("{expired}/result")] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, 410, "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.json()["status"], 410);
    }
    sleep(SECOND * 105).await;
    assert_eq!(
        app.get(&expired).await.status,
        404,
        "later the operation is unknown"
    );

    let cancelled = app.start("POST /?ms=9000", &[]).await;
    app.ask(&format!("DELETE {cancelled}"), &[]).await;
    let answer = app.get(&format!("{cancelled}/result")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["status"].as_u64()),
        (410, Some(410))
    );
}

// Contract: 7.6
#[tokio::test(start_paused = true)]
async fn section_7_a_result_over_the_bound_fails() {
    let app = App::new(memory().max_result_bytes(1000), async |request: Request| {
        let bytes = usize::try_from(number(&request, "bytes").unwrap()).unwrap();
        sleep(SECOND * 3).await;
        vec![b'x'; bytes]
    });
    let path = app.start("POST /?bytes=900", &[]).await;
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
    let path = app.start("POST /?bytes=1001", &[]).await;
    let document = app.ended(&path).await;
    assert_eq!(document["status"], "Failed");
    assert_eq!(document["error"]["code"], "ResultTooLarge");
    let answer = app.get(&format!("{path}/result")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("asyncresult")),
        (500, "500")
    );
    assert_eq!(answer.header("content-type"), "application/problem+json");
    // A response before the first reply may have any size.
    let answer = app.ask("POST /?bytes=5000", &[("prefer", "wait=9")]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 5000));
}

#[tokio::test(start_paused = true)]
async fn section_7_an_operation_with_an_endless_body_fails() {
    let app = App::new(memory().max_result_bytes(100_000), async |_: Request| {
        sleep(SECOND * 3).await;
        let endless = stream::repeat(Bytes::from_static(&[b'x'; 1000]));
        Body::from_stream(endless.map(Ok::<_, Infallible>)).into_response()
    });
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.ended(&path).await["error"]["code"], "ResultTooLarge");
    until("the operation has ended", || app.operations.running() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_or_panics_fails_the_operation() {
    let app = App::new(memory(), async |request: Request| {
        sleep(SECOND * 3).await;
        let panics = request.uri().path() == "/panic";
        let body = stream::iter(0..3).map(move |number| match number {
            1 if panics => panic!("on purpose"),
            1 => Err("broken"),
            _ => Ok("data"),
        });
        Body::from_stream(body).into_response()
    });
    for (line, code) in [("POST /", "ServiceError"), ("POST /panic", "Panicked")] {
        let path = app.start(line, &[]).await;
        let document = app.ended(&path).await;
        assert_eq!(document["error"]["code"], code);
        assert!(!document.to_string().contains("on purpose"));
        let result = app.get(&format!("{path}/result")).await;
        assert_eq!(result.status, 500);
        assert!(!result.body.contains("on purpose"));
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_of_a_request_reach_the_service() {
    let app = App::new(memory(), async |request: Request| {
        let collected = request.into_body().collect().await.unwrap();
        let trailer = collected.trailers().unwrap()["x-end"].clone();
        trailer.to_str().unwrap().to_owned()
    });
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-end"),
        HeaderValue::from_static("here"),
    )]);
    let frames = [
        http_body::Frame::data(Bytes::from("data")),
        http_body::Frame::trailers(trailers),
    ];
    let body = http_body_util::StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = request_with("POST /", &[], Body::new(body));
    assert_eq!(app.send(request).await.body, "here");
}

#[tokio::test(start_paused = true)]
async fn an_informational_status_is_a_failure() {
    let app = App::working(memory());
    for code in [100, 101, 103] {
        let path = app.start(&format!("POST /?ms=3000&code={code}"), &[]).await;
        let document = app.ended(&path).await;
        assert_eq!(document["error"]["code"], "ServiceError", "{code}");
        let result = app.get(&format!("{path}/result")).await;
        assert_eq!(result.status, 500);
    }
}

/// A handler that honours conditions and ranges, like a file server.
async fn conditional(request: Request) -> Response {
    let headers = request.headers();
    let is_read = matches!(request.method().as_str(), "GET" | "HEAD" | "QUERY");
    let is_known = headers.contains_key(header::IF_NONE_MATCH);
    let status = if is_known && !is_read {
        StatusCode::PRECONDITION_FAILED
    } else if is_read && (is_known || headers.contains_key(header::IF_MODIFIED_SINCE)) {
        StatusCode::NOT_MODIFIED
    } else if headers.contains_key(header::RANGE) {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let ms = number(&request, "ms").unwrap_or(0);
    drop(request);
    sleep(std::time::Duration::from_millis(ms)).await;
    let whole = if status == StatusCode::OK {
        "whole"
    } else {
        ""
    };
    (status, whole).into_response()
}

const CONDITIONS: [&[(&str, &str)]; 4] = [
    &[("if-none-match", "\"v1\"")],
    &[("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT")],
    &[("range", "bytes=0-1")],
    &[("range", "bytes=0-1"), ("if-range", "\"v1\"")],
];

// Contract: 3.5
#[tokio::test(start_paused = true)]
async fn section_3_the_result_ignores_conditions_and_ranges() {
    let app = App::new(memory().idempotency_keys(true), conditional);
    let prefer = ("prefer", "respond-async");
    for condition in CONDITIONS {
        for line in ["GET /?ms=9000", "QUERY /?ms=9000", "POST /?ms=9000"] {
            if line.starts_with("POST") && condition[0].0 == "if-none-match" {
                // For `POST`, `if-none-match` is a precondition, rather than a question whether the client has the newest
                // version.
                continue;
            }
            let path = app.start(line, &[condition, &[prefer]].concat()).await;
            app.ended(&path).await;
            let result = app.get(&format!("{path}/result")).await;
            let result = (result.status.as_u16(), &*result.body);
            assert_eq!(result, (200, "whole"), "{line} {condition:?}");
        }
        // A response before the first reply is remembered for the key.
        let key = ("idempotency-key", condition[0].0);
        for headers in [
            &[condition, &[key, prefer, ("prefer", "wait=2")]].concat(),
            &vec![key],
        ] {
            let answer = app.ask("QUERY /", headers).await;
            let answer = (answer.status.as_u16(), &*answer.body);
            assert_eq!(answer, (200, "whole"), "{condition:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn section_3_a_write_with_a_failed_precondition_is_412() {
    let app = App::new(memory(), conditional);
    let condition = [("if-none-match", "\"v7\", W/\"v8\"")];
    for method in ["PUT", "POST", "PATCH", "DELETE", "MKCOL"] {
        let headers = [condition[0], ("prefer", "respond-async, wait=2")];
        let answer = app.ask(&format!("{method} /"), &headers).await;
        assert_eq!(answer.status, 412, "{method}");
        let path = app.start(&format!("{method} /?ms=9000"), &headers).await;
        app.ended(&path).await;
        let result = app.get(&format!("{path}/result")).await;
        assert_eq!(result.status, 412, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn section_3_a_request_that_stays_on_its_connection_keeps_its_conditions() {
    let app = App::new(memory().max_body_bytes(3), conditional);
    let statuses = [(304, 412), (304, 200), (206, 206), (206, 206)];
    for (condition, (read, written)) in CONDITIONS.into_iter().zip(statuses) {
        assert_eq!(app.ask("GET /", condition).await.status, read);
        let large = request_with("POST /", condition, Body::from("1234"));
        assert_eq!(app.send(large).await.status, written);
    }
}

#[tokio::test(start_paused = true)]
async fn section_3_conditions_that_protect_from_lost_updates_reach_the_service() {
    let app = App::new(memory(), async |request: Request| {
        let names = ["if-match", "if-unmodified-since", "if-none-match"];
        names
            .map(|name| request.headers().contains_key(name).to_string())
            .join(" ")
    });
    let headers = [
        ("if-match", "\"v1\""),
        ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT"),
        // `*` allows to create, not to replace.
        ("if-none-match", "*"),
    ];
    for method in ["PUT", "POST", "PATCH", "DELETE"] {
        let answer = app.ask(&format!("{method} /"), &headers).await;
        assert_eq!(answer.body, "true true true", "{method}");
    }
}
