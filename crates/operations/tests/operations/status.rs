//! Operations, section 2 of their contract: status.

use axum::extract::Request;
use test_support::operation::{App, SECOND, memory, progress};
use tokio::time::sleep;

/// Checks that a text has the format `2026-01-02T03:04:05.678Z`.
fn assert_time(value: &serde_json::Value) {
    let text = value.as_str().unwrap();
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
}

// Contract: 2.1, 2.2
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
        "a final status has no `retry-after`"
    );
    assert_ne!(answer.header("etag"), running.header("etag"));
    // The answer stays the same as long as the operation exists.
    assert_eq!(app.get(&path).await, answer);
}

// Contract: 2.1, 2.7
#[tokio::test(start_paused = true)]
async fn section_2_a_client_that_knows_the_document_gets_304() {
    let app = App::working(memory());
    let path = app.start("POST /?ms=9000", &[]).await;
    let line = format!("GET {path}");
    let tag = app.get(&path).await.header("etag").to_owned();
    let answer = app.ask(&line, &[("if-none-match", &tag)]).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (304, ""));
    assert_eq!(answer.header("etag"), tag);
    // A proxy may have made the tag weak, and a client may send more than one tag.
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

// Contract: 2.7
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

// Contract: 2.4
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
async fn section_2_a_long_message_is_truncated() {
    let app = App::new(memory(), async |request: Request| {
        progress(&request).set_message("é".repeat(2000));
        sleep(SECOND * 9).await;
    });
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.document(&path).await["message"], "é".repeat(512));
}

// Contract: 2.5, 2.6
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

// Contract: 2.3, 2.5
#[tokio::test(start_paused = true)]
async fn section_2_the_names_of_the_five_states() {
    use tower_promises_operations::OperationStatus;
    let words = [
        (OperationStatus::NotStarted, "NotStarted", false),
        (OperationStatus::Running, "Running", false),
        (OperationStatus::Succeeded, "Succeeded", true),
        (OperationStatus::Failed, "Failed", true),
        (OperationStatus::Cancelled, "Canceled", true),
    ];
    for (status, word, is_terminal) in words {
        assert_eq!(status.to_string(), word);
        assert_eq!(serde_json::to_value(status).unwrap(), word);
        assert_eq!(status.is_terminal(), is_terminal);
    }
}

// Contract: 2.8
#[tokio::test(start_paused = true)]
async fn section_2_a_client_that_prefers_html_gets_the_page() {
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
