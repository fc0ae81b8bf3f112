//! Operations, section 7 of their contract: errors, principals, limits and log messages.

use axum::extract::Request;
use std::collections::HashSet;
use test_support::operation::{Answer, App, SECOND, memory, request, work};
use test_support::{Counter, Log, until};
use tokio::time::{sleep, timeout};
use tower::{BoxError, ServiceExt};
use tower_promises_operations::OperationLayer;
use tower_promises_operations::Progress;

/// A service whose requests name their user in a header.
fn with_users(layer: OperationLayer) -> App {
    App::working(layer.principal(|request| {
        let user = request.headers.get("user")?;
        Some(user.to_str().ok()?.to_owned())
    }))
}

const ANNA: (&str, &str) = ("user", "anna");
const BERT: (&str, &str) = ("user", "bert");

// Contract: 7.1
#[tokio::test(start_paused = true)]
async fn section_7_operations_of_other_principals_look_unknown() {
    let app = with_users(memory());
    let running = app.start("POST /?ms=600000", &[ANNA]).await;
    let ended = app.start("POST /?ms=3000", &[ANNA]).await;
    sleep(SECOND * 5).await;
    assert_eq!(
        app.ask(&format!("GET {ended}"), &[ANNA]).await.json()["status"],
        "Succeeded"
    );
    let unknown = "/.operations/00000000000000000000000000000000";
    for accept in ["*/*", "text/html"] {
        for part in ["", "/result", "/events", "/cancel"] {
            for method in ["GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "OPTIONS"] {
                let ask = async |path: &str, user: &[(&str, &str)]| -> Answer {
                    let headers = [user, &[("accept", accept)]].concat();
                    app.ask(&format!("{method} {path}{part}"), &headers).await
                };
                let expected = ask(unknown, &[BERT]).await;
                assert_eq!(expected.status, 404);
                for path in [&running, &ended] {
                    assert_eq!(ask(path, &[BERT]).await, expected, "{method} {part}");
                    assert_eq!(ask(path, &[]).await, expected, "{method} {part}");
                }
            }
        }
    }
    // None of these requests had an effect.
    assert_eq!(
        app.ask(&format!("GET {running}"), &[ANNA]).await.json()["status"],
        "Running"
    );
    assert_eq!(
        app.ask(&format!("GET {ended}/result"), &[ANNA])
            .await
            .status,
        200
    );
}

// Contract: 3.4, 7.1
#[tokio::test(start_paused = true)]
async fn section_7_an_expired_operation_is_gone_for_its_owner_only() {
    let app = with_users(memory().retention(SECOND * 10));
    let path = app.start("POST /?ms=3000", &[ANNA]).await;
    sleep(SECOND * 14).await;
    let line = format!("GET {path}");
    assert_eq!(app.ask(&line, &[ANNA]).await.status, 410);
    assert_eq!(app.ask(&line, &[BERT]).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn section_7_an_operation_without_a_principal_is_open_to_clients_that_know_its_id() {
    let app = with_users(memory());
    let path = app.start("POST /?ms=9000", &[]).await;
    for user in [&[ANNA] as &[_], &[]] {
        assert_eq!(app.ask(&format!("GET {path}"), user).await.status, 200);
    }
}

// Contract: 7.2
#[tokio::test(start_paused = true)]
async fn section_7_other_methods_are_405_with_allow() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=60000", &[]).await;
    for (part, allow) in [
        ("", "GET, HEAD, DELETE"),
        ("/result", "GET, HEAD"),
        ("/events", "GET, HEAD"),
        ("/cancel", "POST"),
    ] {
        for method in ["PUT", "PATCH", "OPTIONS", "BREW"] {
            let answer = app.ask(&format!("{method} {path}{part}"), &[]).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("allow")),
                (405, allow)
            );
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }
}

// Contract: 7.1
#[tokio::test(start_paused = true)]
async fn section_7_problems_have_a_type_and_a_status() {
    let app = App::working(memory());
    for path in [
        "/.operations",
        "/.operations/",
        "/.operations/x",
        "/.operations//",
        "/.operations/x/",
        "/.operations/x/y",
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.header("cache-control"), "no-store");
        let problem = answer.json();
        assert_eq!(
            (problem["status"].as_u64(), problem["type"].as_str()),
            (Some(404), Some("about:blank"))
        );
    }
    // A browser gets a page.
    let answer = app
        .ask("GET /.operations/x", &[("accept", "text/html,*/*;q=0.8")])
        .await;
    assert_eq!(answer.status, 404);
    assert!(answer.header("content-type").starts_with("text/html"));
    assert!(
        answer.body.starts_with("<!doctype html>"),
        "{}",
        answer.body
    );
}

// Contract: 7.3
#[tokio::test(start_paused = true)]
async fn section_7_limits_are_429_and_503_and_the_service_is_not_called() {
    let calls = Counter::default();
    let counted = calls.clone();
    let layer = memory()
        .max_running_per_principal(2)
        .max_running(3)
        .retry_after(SECOND * 7)
        .principal(|request| request.uri.path().strip_prefix("/").map(str::to_owned));
    let app = App::new(layer, move |request: Request| {
        counted.add();
        work(request)
    });
    let first = app.ask("POST /anna?ms=9000", &[]).await;
    assert_eq!(first.status, 202);
    assert_eq!(app.ask("POST /anna?ms=9000", &[]).await.status, 202);
    let refused = app.ask("POST /anna?ms=9000", &[]).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), "7");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.json()["status"], 429);
    assert_eq!(refused.header("vary"), "Accept, Prefer");
    let page = app
        .ask("POST /anna?ms=9000", &[("accept", "text/html")])
        .await;
    assert_eq!(
        (page.status.as_u16(), page.header("retry-after")),
        (429, "7")
    );
    assert!(page.body.starts_with("<!doctype html>"));

    assert_eq!(app.ask("POST /bert?ms=9000", &[]).await.status, 202);
    let refused = app.ask("POST /carl?ms=9000", &[]).await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("retry-after")),
        (503, "7")
    );
    assert_eq!(
        calls.get(),
        3,
        "a refused request does not reach the service"
    );
    // Requests that cannot escalate are not counted.
    assert_eq!(app.ask("GET /carl", &[]).await.status, 200);
    // There is room again once an operation has ended.
    sleep(SECOND * 9).await;
    until("the operations end", || app.operations.running() == 0).await;
    assert_eq!(app.ask("POST /anna?ms=0", &[]).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn section_7_stored_results_are_bounded() {
    let app = App::new(
        memory().max_stored_bytes(6000).retention(SECOND * 100),
        async |_: Request| {
            sleep(SECOND * 3).await;
            vec![b'x'; 1500]
        },
    );
    let first = app.start("POST /", &[]).await;
    app.ended(&first).await;
    let second = app.start("POST /", &[]).await;
    let third = app.start("POST /", &[]).await;
    // There is no room for both results.
    let mut codes = Vec::new();
    for path in [&second, &third] {
        codes.push(app.ended(path).await["error"]["code"].clone());
    }
    let failed = codes.iter().filter(|code| **code == "StorageFull").count();
    assert_eq!(failed, 1, "{codes:?}");
    assert_eq!(app.ask("POST /", &[]).await.status, 503);
    // A removed result makes room.
    app.ask(&format!("DELETE {first}"), &[]).await;
    assert_eq!(app.ask("POST /", &[]).await.status, 202);
    // An expired result makes room too.
    sleep(SECOND * 110).await;
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
}

/// A service whose results have 1500 bytes.
fn storing(layer: OperationLayer) -> App {
    let layer = layer.retention(SECOND * 100).principal(|request| {
        let user = request.headers.get("user")?;
        Some(user.to_str().ok()?.to_owned())
    });
    App::new(layer, async |_: Request| {
        sleep(SECOND * 3).await;
        vec![b'x'; 1500]
    })
}

/// Starts an operation and waits for its end. Returns its address and its error.
async fn stored(app: &App, user: &[(&str, &str)]) -> (String, serde_json::Value) {
    let path = app.start("POST /", user).await;
    sleep(SECOND * 4).await;
    let document = app.ask(&format!("GET {path}"), user).await.json();
    (path, document["error"]["code"].clone())
}

#[tokio::test(start_paused = true)]
async fn section_7_one_principal_cannot_fill_the_store() {
    let none = serde_json::Value::Null;
    let app = storing(memory().max_stored_bytes_per_principal(6000));
    let (first, error) = stored(&app, &[ANNA]).await;
    assert_eq!(error, none);
    assert_eq!(stored(&app, &[ANNA]).await.1, none);
    let (failed, error) = stored(&app, &[ANNA]).await;
    assert_eq!(error, "StorageFull");
    let refused = app.ask("POST /", &[ANNA]).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    // Other principals are not affected.
    assert_eq!(stored(&app, &[BERT]).await.1, none);
    for _ in 0..4 {
        assert_eq!(stored(&app, &[]).await.1, none);
    }
    // A removed result makes room, and so does an expired one.
    for path in [first, failed] {
        let line = format!("DELETE {path}");
        assert_eq!(app.ask(&line, &[ANNA]).await.status, 204);
    }
    assert_eq!(stored(&app, &[ANNA]).await.1, none);
    assert_eq!(stored(&app, &[ANNA]).await.1, "StorageFull");
    sleep(SECOND * 110).await;
    assert_eq!(stored(&app, &[ANNA]).await.1, none);
}

#[tokio::test(start_paused = true)]
async fn section_7_by_default_a_principal_has_a_quarter_of_the_store() {
    let none = serde_json::Value::Null;
    let app = storing(memory().max_stored_bytes(24_000).max_result_bytes(2000));
    for _ in 0..2 {
        assert_eq!(stored(&app, &[ANNA]).await.1, none);
    }
    assert_eq!(stored(&app, &[ANNA]).await.1, "StorageFull");
    assert_eq!(stored(&app, &[BERT]).await.1, none);
    // Any result up to the maximum size still has room.
    let app = storing(memory().max_stored_bytes(6000).max_result_bytes(2000));
    assert_eq!(stored(&app, &[ANNA]).await.1, none);
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_result_that_was_read_counts_until_it_expires() {
    let app = storing(memory().max_stored_bytes(5000).result_once(true));
    for _ in 0..3 {
        let path = stored(&app, &[]).await.0;
        assert_eq!(app.get(&format!("{path}/result")).await.status, 200);
        sleep(SECOND).await;
        assert_eq!(app.get(&format!("{path}/result")).await.status, 410);
    }
    // Three documents take a kilobyte each.
    assert_eq!(stored(&app, &[]).await.1, "StorageFull");
    sleep(SECOND * 110).await;
    assert_eq!(stored(&app, &[]).await.1, serde_json::Value::Null);
}

// Contract: 7.7
#[tokio::test(start_paused = true)]
async fn section_7_past_its_lifetime_an_operation_is_cancelled_and_then_expires() {
    let app = App::working(memory().lifetime(SECOND * 10).retention(SECOND * 20));
    let path = app.start("POST /?ms=600000", &[]).await;
    sleep(SECOND * 9).await;
    assert_eq!(app.document(&path).await["status"], "Running");
    sleep(SECOND * 2).await;
    let document = app.document(&path).await;
    assert_eq!(document["status"], "Canceled");
    assert_eq!(document["error"]["code"], "LifetimeExceeded");
    assert_eq!(app.get(&format!("{path}/result")).await.status, 410);
    sleep(SECOND * 22).await;
    assert_eq!(app.get(&path).await.status, 410);
}

// Contract: 7.4
#[tokio::test(start_paused = true)]
async fn section_7_ids_have_128_random_bits() {
    let app = App::working(memory());
    let mut seen = HashSet::new();
    let mut bits = [0_u32; 128];
    for _ in 0..500 {
        let path = app
            .start("POST /?ms=3000", &[("prefer", "respond-async")])
            .await;
        let id = path.rsplit('/').next().unwrap();
        assert_eq!(id.len(), 32);
        let number = u128::from_str_radix(id, 16).unwrap();
        for (bit, count) in bits.iter_mut().enumerate() {
            *count += u32::from(number >> bit & 1 == 1);
        }
        assert!(seen.insert(number));
    }
    // No bit is constant.
    assert!(
        bits.iter().all(|count| (150..350).contains(count)),
        "{bits:?}"
    );
}

// Contract: 7.4
#[tokio::test(start_paused = true)]
async fn section_7_the_log_never_has_an_id() {
    let log = Log::start();
    let app = App::new(memory(), async |request: Request| {
        if request.uri().path() == "/panic" {
            sleep(SECOND * 3).await;
            panic!("on purpose");
        }
        sleep(SECOND * 9).await;
    });
    for line in ["POST /", "POST /panic"] {
        let path = app.start(line, &[]).await;
        sleep(SECOND * 4).await;
        app.ask(&format!("DELETE {path}"), &[]).await;
        let id = path.rsplit('/').next().unwrap();
        let important = log
            .text()
            .lines()
            .filter(|line| {
                ["INFO", "WARN", "ERROR"]
                    .iter()
                    .any(|level| line.contains(level))
            })
            .collect::<Vec<_>>()
            .join("\n");
        assert!(important.contains("operation="), "{important}");
        assert!(!important.contains(id), "{important}");
    }
    let log = log.text();
    let panic = log
        .lines()
        .find(|line| line.contains("panic=\"on purpose\""));
    let panic = panic.unwrap_or_else(|| panic!("the log has the panic: {log}"));
    assert!(
        panic.contains("the work of an operation panicked"),
        "{panic}"
    );
}

// Contract: 7.5
#[tokio::test(start_paused = true)]
async fn section_7_a_panic_in_the_work_is_a_failure_without_its_text() {
    let app = App::new(memory(), async |request: Request| {
        if request.uri().path() == "/panic" {
            sleep(SECOND * 3).await;
            panic!("on purpose");
        }
    });
    let path = app.start("POST /panic", &[]).await;
    let document = app.ended(&path).await;
    assert_eq!(document["status"], "Failed");
    assert_eq!(document["error"]["code"], "Panicked");
    assert!(!document.to_string().contains("on purpose"));
    let answer = app.get(&format!("{path}/result")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("asyncresult")),
        (500, "500")
    );
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert!(!answer.body.contains("on purpose"));
    assert_eq!(
        app.ask("POST /", &[]).await.status,
        200,
        "the server still works"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_after_the_reply_is_a_failure() {
    let layer = memory();
    let service = tower::ServiceBuilder::new().layer(layer).service_fn(
        async |request: Request<
            tower_promises_operations::OperationRequestBody<axum::body::Body>,
        >| {
            sleep(SECOND * 3 * u32::from(request.uri().path() == "/slow")).await;
            Err::<axum::response::Response, BoxError>("the secret".into())
        },
    );
    let error = service
        .clone()
        .oneshot(request("POST /", &[]))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the secret",
        "before the reply, the service's error is returned"
    );
    let response = service
        .clone()
        .oneshot(request("POST /slow", &[]))
        .await
        .unwrap();
    let path = response.headers()["operation-location"]
        .to_str()
        .unwrap()
        .to_owned();
    sleep(SECOND * 5).await;
    let ask = async |path: &str| {
        let response = service
            .clone()
            .oneshot(request(&format!("GET {path}"), &[]))
            .await
            .unwrap();
        test_support::operation::read(response.map(axum::body::Body::new)).await
    };
    let document = ask(&path).await.json();
    assert_eq!(document["error"]["code"], "ServiceError");
    let result = ask(&format!("{path}/result")).await;
    assert_eq!(result.status, 500);
    assert!(!format!("{document}{}", result.body).contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn a_handle_lists_gets_and_cancels() {
    let app = with_users(memory());
    let mut paths = Vec::new();
    for ms in [3000, 600_000] {
        paths.push(app.start(&format!("POST /?ms={ms}"), &[ANNA]).await);
    }
    app.start("POST /?ms=600000", &[BERT]).await;
    sleep(SECOND * 5).await;
    let listed = app.operations.list("anna").await.unwrap();
    let states: Vec<_> = listed
        .iter()
        .map(|operation| operation.status().as_str())
        .collect();
    assert_eq!(states, ["Running", "Succeeded"], "newest first");
    assert_eq!(listed[1].progress(), Some(100.0));
    assert_eq!(listed[1].message(), Some("step 1 of 1"));
    assert!(listed[1].finished().unwrap() >= listed[1].created());
    assert!(paths[1].ends_with(listed[0].id()));
    let id = listed[0].id();
    assert!(!format!("{:?}", listed[0]).contains(id));
    assert_eq!(app.operations.running(), 2);
    assert!(app.operations.cancel(id).await.unwrap());
    assert!(!app.operations.cancel(id).await.unwrap());
    assert!(!app.operations.cancel("unknown").await.unwrap());
    let operation = app.operations.get(id).await.unwrap().unwrap();
    assert_eq!(operation.error_code(), Some("Canceled"));
    assert!(app.operations.get("unknown").await.unwrap().is_none());
    assert!(app.operations.list("nobody").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn progress_is_found_deep_in_the_handler() {
    fn deep() {
        Progress::current().unwrap().set(25);
    }
    let app = App::new(memory(), async |_: Request| {
        deep();
        sleep(SECOND * 9).await;
    });
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.document(&path).await["progress"], 25);
    // Requests that cannot escalate have a progress handle too, without a receiver.
    assert_eq!(app.ask("GET /", &[]).await.status, 200);
    assert!(Progress::current().is_none());
    let detached = Progress::detached();
    detached.set(50);
    assert!(!detached.is_cancelled());
    timeout(SECOND, detached.cancelled()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn each_setting_accepts_the_longest_duration() {
    let forever = std::time::Duration::MAX;
    let layer = memory()
        .max_wait(forever)
        .lifetime(forever)
        .retention(forever)
        .progress_interval(forever)
        .lease(forever)
        .retry_after(forever)
        .heartbeat(forever)
        .backend_timeout(forever);
    let app = with_users(layer);
    let path = app.start("POST /?ms=9000&steps=3", &[ANNA]).await;
    let path = format!("GET {path}");
    sleep(SECOND * 9).await;
    let document = app.ask(&path, &[ANNA]).await.json();
    assert_eq!(document["status"], "Succeeded");
    let result = app.ask(&format!("{path}/result"), &[ANNA]).await;
    assert_eq!(result.body, r#"{"answer":42}"#);
    let wait = ("prefer", "wait=99999999999999999999");
    assert_eq!(app.ask("POST /?ms=600000", &[wait]).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn no_request_causes_a_server_error() {
    let app = App::working(memory().idempotency_keys(true));
    let path = app.start("POST /?ms=600000", &[]).await;
    let id = path.rsplit('/').next().unwrap();
    let long = "a".repeat(8000);
    let strange = [
        &b""[..],
        b"\xff\xfe",
        b"\"",
        b"\\",
        b",;=,\"\\",
        b"-1",
        long.as_bytes(),
    ];
    for name in [
        "accept",
        "prefer",
        "last-event-id",
        "if-none-match",
        "origin",
        "sec-fetch-site",
        "content-type",
        "host",
        "connection",
        "idempotency-key",
    ] {
        for value in strange {
            for line in [
                "POST /".to_owned(),
                format!("GET {path}"),
                format!("HEAD {path}/events"),
                format!("GET {path}/result"),
                format!("POST {path}/cancel?{name}"),
            ] {
                let mut request = request(&line, &[]);
                let value = http::HeaderValue::from_bytes(value).unwrap();
                request.headers_mut().insert(name, value);
                let status = app.send(request).await.status;
                assert!(!status.is_server_error(), "{line} {name}");
            }
        }
    }
    for strange in [
        "".to_owned(),
        "/".into(),
        "//".into(),
        format!("/{id}/"),
        format!("//{id}"),
        format!("/{id}//"),
        format!("/{id}/result/"),
        format!("/{id}/RESULT"),
        format!("/{id}/events/x"),
        format!("/{}", &id[1..]),
        format!("/{id}0"),
        format!("/{}", id.to_uppercase() + "A"),
        format!("/%{:02x}{}", id.as_bytes()[0], &id[1..]),
        "/assets".into(),
        "/assets/".into(),
        "/assets/../../secret".into(),
        format!("/assets/{id}"),
        format!("/{long}"),
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS"] {
            let line = format!("{method} /.operations{strange}");
            assert_eq!(app.ask(&line, &[]).await.status, 404, "{line}");
        }
    }
}
