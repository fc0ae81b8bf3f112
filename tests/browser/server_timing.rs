//! The `Server-Timing` header in a real browser: `PerformanceServerTiming` contains the values that were sent.

use axum::Router;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use serde::Deserialize;
use std::time::Duration;
use test_support::browser::Browser;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower_promises::observe::ServerTimingLayer;
use tower_promises::promise::Passes;
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

/// An entry, as JavaScript sees it.
#[derive(Debug, Deserialize, PartialEq)]
struct Entry {
    name: String,
    description: String,
    /// In milliseconds.
    duration: f64,
}

/// Names that are not tokens, including one with quotes and a backslash that must be escaped.
const KEYS: [&str; 5] = [
    "user:7",
    "say \"hi\", \\o/; dur=9",
    "größe, 😀\r\nx: y",
    "",
    "not there",
];

async fn page(promises: Promises) -> Result<Html<&'static str>, StatusCode> {
    for (key, milliseconds) in KEYS.into_iter().zip([12, 2, 6, 4, 1]) {
        let result = promises.result_or_try_submit(key, async move || {
            sleep(Duration::from_millis(milliseconds)).await;
            match key {
                "not there" => Err("no luck"),
                _ => Ok(()),
            }
        });
        match result.or_pending(()) {
            Ok(()) | Err(PromiseError::Failed { .. }) => {}
            Err(error) => return Err(error.status()),
        }
    }
    Ok(Html("<!doctype html><title>timed</title>"))
}

/// Serves the page. The channel receives its `Passes` and its header.
async fn serve() -> (String, mpsc::Receiver<(Passes, String)>) {
    let (sender, sent) = mpsc::channel(1);
    let layers = ServiceBuilder::new()
        .map_response(move |response: axum::response::Response| {
            let passes = response.extensions().get::<Passes>().unwrap().clone();
            let header = response.headers()["server-timing"].to_str().unwrap();
            sender.try_send((passes, header.to_owned())).unwrap();
            response
        })
        .layer(ServerTimingLayer::new(|_| true))
        .layer(PromiseLayer::new());
    let app = Router::new()
        .route("/", get(page))
        .layer(layers)
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (url, sent)
}

#[tokio::test]
async fn a_browser_reads_what_was_sent() {
    let (url, mut sent) = serve().await;
    let browser = Browser::start().await;
    browser.open(&url).await;
    let entries =
        "JSON.parse(JSON.stringify(performance.getEntriesByType('navigation')[0].serverTiming))";
    let entries: Vec<Entry> = browser.evaluate(entries).await;
    let (passes, header) = sent.recv().await.unwrap();

    // The browser has parsed each entry correctly, in the same order.
    let entry = |name: &str, description: &str, duration: Duration| Entry {
        name: name.to_owned(),
        description: description.to_owned(),
        // Rounded like the header.
        duration: format!("{:.3}", duration.as_secs_f64() * 1000.0)
            .parse()
            .unwrap(),
    };
    let mut wanted = Vec::new();
    for (index, pass) in passes.passes().iter().enumerate() {
        wanted.push(entry(&format!("pass-{}", index + 1), "", pass.duration()));
    }
    for promise in passes.promises() {
        let (name, description) = match promise.key().as_str() {
            "user:7" => ("user_7", "user:7"),
            "say \"hi\", \\o/; dur=9" => ("say__hi____o___dur_9", "say \"hi\", \\o/; dur=9"),
            "größe, 😀\r\nx: y" => ("gr__e_____x__y", "gr??e, ???x: y"),
            "" => ("_", ""),
            "not there" => ("not_there", "not there (failed)"),
            key => panic!("{key} is none of them"),
        };
        wanted.push(entry(name, description, promise.duration()));
    }
    assert_eq!(wanted.len(), 2 + KEYS.len());
    assert_eq!(entries, wanted, "{header}");

    // The slow promise is shown with its duration.
    let slowest = entries.iter().find(|entry| entry.name == "user_7");
    assert!(slowest.unwrap().duration >= 12.0, "{entries:?}");
}
