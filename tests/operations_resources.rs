//! Operations, sections 2 and 3 of their contract: status and result.
#![allow(clippy::unwrap_used)]

#[path = "support/operation.rs"]
mod operation;
mod support;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, header};
use http_body_util::BodyExt;
use operation::{App, SECOND, memory, number, progress, request};
use std::convert::Infallible;
use support::until;
use tokio::time::sleep;
use tower::ServiceExt;

/// Checks that a text is a time like `2026-01-02T03:04:05.678Z`.
fn assert_time(value: &serde_json::Value) {
    let text = value.as_str().unwrap();
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
}

#[tokio::test(start_paused = true)]
async fn section_2_the_status_document() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=10000&steps=4", &[]).await;
    sleep(SECOND * 4).await;
    let answer = app.get(&path).await;
    assert_eq!(answer.status, 200);
    for (name, value) in [
        ("content-type", "application/json"),
        ("vary", "Accept"),
        ("cache-control", "no-store"),
        ("retry-after", "1"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert!(answer.header("etag").starts_with('"'));
    assert!(answer.body.contains(r#""progress":50,"#), "{}", answer.body);
    let document = answer.json();
    assert_eq!(document["status"], "Running");
    assert_eq!(document["message"], "step 2 of 4");
    for time in ["created", "started", "updated", "expires"] {
        assert_time(&document[time]);
    }
    for absent in ["finished", "resourceLocation", "error"] {
        assert!(document.get(absent).is_none(), "{absent}");
    }
    let links = &document["links"];
    for (link, expected) in [
        ("self", path.clone()),
        ("events", format!("{path}/events")),
        ("result", format!("{path}/result")),
        ("cancel", format!("{path}/cancel")),
    ] {
        assert_eq!(links[link], expected);
    }

    let running = answer;
    app.ended(&path).await;
    let answer = app.get(&path).await;
    let document = answer.json();
    assert_eq!(document["status"], "Succeeded");
    assert_eq!(document["progress"], 100);
    assert_eq!(document["resourceLocation"], format!("{path}/result"));
    assert_time(&document["finished"]);
    assert!(document.get("error").is_none());
    assert_eq!(
        answer.header("retry-after"),
        "",
        "there is nothing to wait for"
    );
    assert_ne!(answer.header("etag"), running.header("etag"));
    // It stays for as long as it exists.
    assert_eq!(app.get(&path).await, answer);
}

#[tokio::test(start_paused = true)]
async fn section_2_a_client_that_knows_the_document_is_told_so() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=9000", &[]).await;
    let line = format!("GET {path}");
    let tag = app.get(&path).await.header("etag").to_owned();
    let answer = app.ask(&line, &[("if-none-match", &tag)]).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (304, ""));
    assert_eq!(answer.header("etag"), tag);
    // A proxy may have made it weak, and a client may know more than one.
    for known in ["*", &format!("W/{tag}"), &format!("\"x\", W/{tag} ,\"y\"")] {
        let answer = app.ask(&line, &[("if-none-match", known)]).await;
        assert_eq!(answer.status, 304, "{known}");
    }
    for known in ["", "W/", "\"x\"", "\"", &tag[1..]] {
        let answer = app.ask(&line, &[("if-none-match", known)]).await;
        assert_eq!(answer.status, 200, "{known}");
    }
    app.ended(&path).await;
    let answer = app.ask(&line, &[("if-none-match", &tag)]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(start_paused = true)]
async fn section_2_head_is_get_without_a_body() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=9000", &[]).await;
    let (get, head) = (
        app.get(&path).await,
        app.ask(&format!("HEAD {path}"), &[]).await,
    );
    assert_eq!((get.status, get.headers), (head.status, head.headers));
}

#[tokio::test(start_paused = true)]
async fn section_2_progress_is_null_or_a_number_from_0_to_100() {
    for (set, expected) in [
        (&[] as &[f64], "null"),
        (&[f64::NAN], "null"),
        (&[42.0], "42"),
        (&[42.5], "42.5"),
        (&[7.0, f64::NAN], "7"),
        (&[-5.0], "0"),
        (&[-0.0], "0"),
        (&[f64::NEG_INFINITY], "0"),
        (&[100.1], "100"),
        (&[f64::INFINITY], "100"),
        (&[100.0], "100"),
        (&[50.0, 30.0], "30"),
    ] {
        let app = App::new(memory(), move |request: Request| async move {
            for percent in set {
                progress(&request).set(*percent);
            }
            sleep(SECOND * 9).await;
        });
        let path = app.start("POST /", &[]).await;
        let answer = app.get(&path).await;
        let member = format!(r#""progress":{expected},"#);
        assert!(answer.body.contains(&member), "{set:?}: {}", answer.body);
        assert_eq!(answer.json()["status"], "Running", "100 does not mean done");
    }
}

#[tokio::test(start_paused = true)]
async fn section_2_a_message_is_cut_where_it_is_too_long() {
    let app = App::new(memory(), async |request: Request| {
        progress(&request).message("é".repeat(2000));
        sleep(SECOND * 9).await;
    });
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.document(&path).await["message"], "é".repeat(512));
}

#[tokio::test(start_paused = true)]
async fn section_2_an_inner_error_status_is_failed() {
    let app = App::working(memory());
    for (code, status, error) in [
        (200, "Succeeded", ""),
        (202, "Succeeded", ""),
        (204, "Succeeded", ""),
        (303, "Succeeded", ""),
        (404, "Failed", "NotFound"),
        (422, "Failed", "UnprocessableEntity"),
        (499, "Failed", "Unknown"),
        (500, "Failed", "InternalServerError"),
    ] {
        let path = app.start(&format!("POST /?ms=3000&code={code}"), &[]).await;
        let document = app.ended(&path).await;
        assert_eq!(document["status"], status, "{code}");
        if error.is_empty() {
            assert!(document.get("error").is_none());
            assert_eq!(document["resourceLocation"], format!("{path}/result"));
        } else {
            assert_eq!(document["error"]["code"], error);
            assert!(!document["error"]["message"].as_str().unwrap().is_empty());
            assert!(document.get("resourceLocation").is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn section_2_the_five_words() {
    use tower_promises::operation::Status;
    let words = [
        (Status::NotStarted, "NotStarted", false),
        (Status::Running, "Running", false),
        (Status::Succeeded, "Succeeded", true),
        (Status::Failed, "Failed", true),
        (Status::Canceled, "Canceled", true),
    ];
    for (status, word, is_terminal) in words {
        assert_eq!(status.to_string(), word);
        assert_eq!(serde_json::to_value(status).unwrap(), word);
        assert_eq!(status.is_terminal(), is_terminal);
    }
}

#[tokio::test(start_paused = true)]
async fn section_2_who_prefers_html_gets_the_page() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=60000", &[]).await;
    let line = format!("GET {path}");
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (accept, is_html) in [
        (browser, true),
        ("text/html", true),
        ("text/html, */*;q=0.01", true),
        ("application/json;q=0.5, text/html", true),
        ("*/*", false),
        ("application/json", false),
        ("application/json, text/html;q=0.9", false),
        ("text/html;q=0.1, application/json;q=0.2", false),
    ] {
        let answer = app.ask(&line, &[("accept", accept)]).await;
        assert_eq!(answer.status, 200);
        let content_type = answer.header("content-type").to_owned();
        assert_eq!(content_type.starts_with("text/html"), is_html, "{accept}");
        assert_eq!(answer.header("vary"), "Accept");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(!answer.header("etag").is_empty());
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
    }
}

#[tokio::test(start_paused = true)]
async fn section_3_a_result_that_is_not_there_is_202_every_time() {
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
        "it can be read again"
    );
}

#[tokio::test(start_paused = true)]
async fn section_3_no_cache_keeps_what_the_service_has_not_given_to_caches() {
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
        // From this, a cache would guess how long it may keep it.
        (&[MODIFIED, ("etag", "\"1\"")], "no-store"),
        // What the service says is its own business.
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
        // A cache would give it to others a second time.
        assert_eq!(
            cache_control(true, headers).await,
            "no-store",
            "{headers:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_layer_says_of_an_operation_is_kept_by_no_cache() {
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

#[tokio::test(start_paused = true)]
async fn section_3_a_large_result_comes_back_whole() {
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

#[tokio::test(start_paused = true)]
async fn section_3_a_result_to_be_read_once_is_gone_when_it_was_sent() {
    let app = App::working(memory().result_once(true));
    for code in [200_u16, 204] {
        let path = app.start(&format!("POST /?ms=9000&code={code}"), &[]).await;
        app.ended(&path).await;
        let result = format!("{path}/result");
        // Asking is not reading.
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

#[tokio::test(start_paused = true)]
async fn section_3_what_is_cancelled_or_expired_is_410() {
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
        "after some time nobody knows"
    );

    let cancelled = app.start("POST /?ms=9000", &[]).await;
    app.ask(&format!("DELETE {cancelled}"), &[]).await;
    let answer = app.get(&format!("{cancelled}/result")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["status"].as_u64()),
        (410, Some(410))
    );
}

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
    // In time it may have any size.
    let answer = app.ask("POST /?bytes=5000", &[("prefer", "wait=9")]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 5000));
}

#[tokio::test(start_paused = true)]
async fn section_7_an_endless_body_is_not_collected_without_end() {
    let app = App::new(memory().max_result_bytes(100_000), async |_: Request| {
        sleep(SECOND * 3).await;
        let endless = stream::repeat(Bytes::from_static(&[b'x'; 1000]));
        Body::from_stream(endless.map(Ok::<_, Infallible>)).into_response()
    });
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.ended(&path).await["error"]["code"], "ResultTooLarge");
    until("it is over", || app.operations.running() == 0).await;
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
    let request = operation::request_with("POST /", &[], Body::new(body));
    assert_eq!(app.send(request).await.body, "here");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_ends_nothing_is_a_failure() {
    let app = App::working(memory());
    for code in [100, 101, 103] {
        let path = app.start(&format!("POST /?ms=3000&code={code}"), &[]).await;
        let document = app.ended(&path).await;
        assert_eq!(document["error"]["code"], "ServiceError", "{code}");
        let result = app.get(&format!("{path}/result")).await;
        assert_eq!(result.status, 500);
    }
}
