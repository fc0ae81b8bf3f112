//! Log events about failures and rejections, and names that try to forge log lines.

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use std::future::pending;
use test_support::{Log, TestRequest, ask, ask_async, get, post, promises, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::promise::Start;
use tower_promises::{BoxError, OrPending, PromiseError, PromiseLayer};

/// Returns the only line of the log that contains `text`.
fn line(log: &Log, text: &str) -> String {
    let log = log.text();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(text)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    lines[0].to_owned()
}

/// Reads a body of 2000 bytes, of which at most 1000 may be kept, and submits `count` promises.
async fn outgrow(count: usize) -> u16 {
    let layer = PromiseLayer::new().max_body_bytes(1000);
    let service = layer.layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        request.into_body().collect().await?;
        for index in 0..count {
            promises.result_or_submit(index.to_string(), async || ())?;
        }
        Ok::<_, BoxError>(text_response(""))
    }));
    let response = service.oneshot(post(vec![b'x'; 2000])).await.unwrap();
    response.status().as_u16()
}

#[tokio::test]
async fn a_body_that_exceeds_the_limit_of_replay_is_warned_of_with_advice() {
    let log = Log::start();
    assert_eq!(outgrow(1).await, 413);
    let warning = line(&log, "WARN");
    assert!(
        warning.contains("tower_promises: rejected a request rejection=promises are pending"),
        "{warning}"
    );
    assert!(warning.contains("1000 bytes"), "{warning}");
    assert!(
        warning.contains("raise `PromiseLayer::max_body_bytes`"),
        "{warning}"
    );
}

#[tokio::test]
async fn a_body_that_is_not_read_again_may_exceed_the_limit_of_replay() {
    let log = Log::start();
    assert_eq!(outgrow(0).await, 200);
    assert_eq!(log.text(), "");
}

/// Contains a forged log line, an escape sequence for terminals, the same in its one-byte form, and characters that
/// reverse the text direction.
const FORGED: &str = "x\n2026-01-01 ERROR forged\r\n\u{1b}[2J\u{9b}31m\u{202e}\u{2067}";

#[tokio::test]
async fn names_and_panics_cannot_forge_log_lines() {
    let log = Log::start();
    let error = ask(PromiseLayer::new(), |promises| {
        let value = promises.result_or_submit(FORGED, async || -> u8 { panic!("{FORGED}") });
        Ok(value?.to_string())
    })
    .await
    .unwrap_err();
    let text = log.text();
    assert!(text.contains("promise panicked"), "{text}");
    for forged in text.lines() {
        assert!(!forged.starts_with("2026-01-01 ERROR forged"), "{text}");
    }
    assert!(
        !text.contains(['\r', '\u{1b}', '\u{9b}', '\u{202e}', '\u{2067}']),
        "{text}"
    );

    // Applications log the error that they receive.
    let error = error.downcast_ref::<PromiseError>().unwrap();
    let text = error.to_string();
    assert!(
        text.starts_with(
            r"promise `x\n2026-01-01 ERROR forged\r\n\u{1b}[2J\u{9b}31m\u{202e}\u{2067}`"
        ),
        "{text}"
    );
    assert_eq!(error.key(), &FORGED);
}

#[tokio::test]
async fn a_panic_is_logged_with_its_message() {
    let log = Log::start();
    ask(PromiseLayer::new(), |promises| {
        let value = promises.result_or_submit("bad", async || -> u8 { panic!("no tea") });
        Ok(value.or_pending(0).unwrap_or(1).to_string())
    })
    .await
    .unwrap();
    let error = line(&log, "ERROR");
    assert!(
        error.contains("tower_promises: promise panicked key=\"bad\" panic=\"no tea\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_panic_while_a_promise_is_dropped_is_logged_with_its_message() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("no tea");
        }
    }

    let log = Log::start();
    ask_async(PromiseLayer::new().start(Start::Eager), async |promises| {
        let bomb = Bomb;
        promises.submit("bad", async move {
            let _bomb = bomb;
            pending::<()>().await;
        })?;
        tokio::task::yield_now().await;
        promises.cancel("bad");
        Ok(String::new())
    })
    .await
    .unwrap();
    let error = line(&log, "ERROR");
    let wanted = "promise panicked when it was dropped key=\"bad\" panic=\"no tea\"";
    assert!(error.ends_with(wanted), "{error}");
}

#[tokio::test]
async fn a_request_cannot_fill_the_log_with_names() {
    let log = Log::start();
    let long = "ü".repeat(1000);
    ask(PromiseLayer::new().max_promises(5000), |promises| {
        if promises.pass() == 1 {
            for index in 0..1000 {
                promises.submit(format!("wasted{index}:{long}"), async { 1_u8 })?;
            }
        }
        Ok(String::new())
    })
    .await
    .unwrap();
    let warning = line(&log, "WARN");
    assert!(warning.contains("\"wasted0:ü"), "{}", warning.len());
    assert!(warning.contains("and 992 more"), "{}", warning.len());
    assert!(!warning.contains("wasted8:"), "{}", warning.len());
    assert!(log.text().len() < 50_000, "{}", log.text().len());
}

#[tokio::test]
async fn long_names_are_truncated_in_the_log() {
    let log = Log::start();
    let error = ask(PromiseLayer::new(), |promises| {
        let key = format!("a{}", "ü".repeat(1_000_000));
        promises.result_or_try_submit(key, async || Err::<(), _>("no luck"))?;
        Ok(String::new())
    })
    .await
    .unwrap_err();
    assert!(log.text().contains("promise failed"));
    assert!(log.text().len() < 10_000, "{}", log.text().len());
    assert_eq!(
        error.to_string(),
        format!("promise `a{}…` failed", "ü".repeat(127))
    );
}

#[tokio::test]
async fn too_many_passes_are_logged_with_some_of_their_names() {
    let log = Log::start();
    ask(PromiseLayer::new().max_passes(1), |promises| {
        for index in 0..100 {
            let value = promises.result_or_submit(format!("p{index}"), async || ());
            value.or_pending(())?;
        }
        Ok(String::new())
    })
    .await
    .unwrap();
    let error = line(&log, "ERROR");
    assert!(error.contains("pending=[\"p0\", \"p1\""), "{error}");
    assert!(error.ends_with("\"p7\", and 92 more]"), "{error}");
}

#[tokio::test]
async fn a_discarded_response_is_logged_without_header_values() {
    let log = Log::start();
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let value = promises(&request).result_or_submit("a", async || ());
        let mut response = text_response("a page");
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        let cookie = HeaderValue::from_static("session=secret");
        response.headers_mut().insert("set-cookie", cookie);
        value.or_pending(())?;
        Ok::<_, BoxError>(response)
    }));
    service.oneshot(get("/")).await.unwrap();
    let debug = line(&log, "discarded the response of a pass");
    assert!(debug.contains("DEBUG promises:pass{pass=1"), "{debug}");
    assert!(
        debug.ends_with("pass=1 status=418 headers=[\"set-cookie\"]"),
        "{debug}"
    );
    assert!(!log.text().contains("secret"), "{}", log.text());
}

#[tokio::test]
async fn events_of_a_request_are_in_its_span() {
    let log = Log::start();
    // Advice on names at the end of pass 2, and the rejection of pass 3.
    ask(PromiseLayer::new().max_passes(3), |promises| {
        let key = format!("a{}", promises.pass());
        Ok(promises.result_or_submit(key, async || 1_u8)?.to_string())
    })
    .await
    .unwrap();
    let advice = line(&log, "has read none of the promises");
    assert!(advice.contains("promises:pass{pass=2"), "{advice}");
    let rejection = line(&log, "rejected a request");
    assert!(rejection.contains("promises:pass{pass=3"), "{rejection}");

    // Advice on the response.
    let log = Log::start();
    ask(PromiseLayer::new(), |promises| {
        if promises.pass() == 1 {
            promises.submit("a", async { 1_u8 }).unwrap();
        }
        Ok(String::new())
    })
    .await
    .unwrap();
    let advice = line(&log, "never read");
    assert!(advice.contains("promises:pass{pass=2"), "{advice}");
}
