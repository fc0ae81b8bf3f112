//! Slow requests continue without their connection. Browsers show a page with progress; other clients poll, follow
//! events or fetch the result later. Every client can cancel.
//!
//! Start it with `cargo run -p example-operations`. `PUBLIC_ORIGIN=https://example.com` makes addresses absolute.
//! `STORE=sqlite:operations.db` keeps operations over restarts and shares them between processes. `LEASE_MS=2000` lets
//! the processes notice the end of a killed process after 2 seconds instead of 15.

mod report;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::operations::Escalate;
use tower_promises::operations::{OperationLayer, Progress};
use tower_promises::{BoxError, PromiseLayer};
use tower_promises_sqlite::SqliteDatabase;

const HOME: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Operations</title>
<h1>Operations</h1>
<p><a href="/form">A form</a> that takes 2.5 seconds, and <a href="/report">a report</a> that takes about 4.</p>
</html>
"#;

const FORM: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Work</title>
<h1>Work</h1>
<form method="post" action="/work?ms=2500&amp;steps=5"><button>Start</button></form>
</html>
"#;

/// The parameters of a request.
#[derive(Deserialize)]
struct Work {
    /// The total time in milliseconds.
    #[serde(default)]
    ms: u64,
    /// The number of steps.
    #[serde(default = "one")]
    steps: u32,
    /// `1` makes the work fail.
    #[serde(default)]
    fail: u8,
    /// The status of the answer.
    code: Option<u16>,
}

fn one() -> u32 {
    1
}

/// Works for some time, and reports its progress.
async fn work(Query(work): Query<Work>, progress: Progress) -> Result<Response, StatusCode> {
    let steps = work.steps.clamp(1, 10_000);
    let pause = Duration::from_millis(work.ms) / steps;
    for step in 1..=steps {
        sleep(pause).await;
        progress.set(100.0 * f64::from(step) / f64::from(steps));
        progress.set_message(format!("step {step} of {steps}"));
    }
    let code = work.code.unwrap_or(if work.fail == 1 { 422 } else { 200 });
    let status = StatusCode::from_u16(code).map_err(|_| StatusCode::BAD_REQUEST)?;
    // A handler cannot answer with a status of 1xx.
    if status.is_informational() {
        return Err(StatusCode::BAD_REQUEST);
    }
    if work.fail == 1 {
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Failed"),
            "status": code,
            "detail": "The work has failed, as it was asked to.",
        });
        let problem_json = [(header::CONTENT_TYPE, "application/problem+json")];
        return Ok((status, problem_json, problem.to_string()).into_response());
    }
    Ok((status, Json(json!({ "answer": 42 }))).into_response())
}

/// Opens the store that `STORE` names: `memory`, or `sqlite:` and a path.
async fn backend() -> Result<Backend, BoxError> {
    let store = std::env::var("STORE").unwrap_or_else(|_| "memory".into());
    match store.split_once(':') {
        None if store == "memory" => Ok(Backend::memory()),
        Some(("sqlite", path)) => Ok(SqliteDatabase::open(path).await?.backend()),
        _ => Err(format!("unknown store `{store}`: it is `memory` or `sqlite:path`").into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut operations = OperationLayer::new(backend().await?)
        .wait(Duration::from_millis(200))
        .mount("/.operations")
        // A report is a `GET` request. By default it becomes an operation only if the client prefers so.
        .escalate(|request| match request.uri.path() {
            "/work" | "/report" => Escalate::Always,
            _ => Escalate::Never,
        });
    if let Ok(origin) = std::env::var("PUBLIC_ORIGIN") {
        operations = operations.public_origin(&origin);
    }
    if let Ok(lease) = std::env::var("LEASE_MS") {
        let milliseconds = lease
            .parse::<u64>()
            .map_err(|error| format!("LEASE_MS is `{lease}`, not milliseconds: {error}"))?;
        operations = operations.lease(Duration::from_millis(milliseconds));
    }

    let app = Router::new()
        .route("/", get(async || Html(HOME)))
        .route("/form", get(async || Html(FORM)))
        .route("/work", post(work).put(work))
        .route("/report", get(report::report).layer(PromiseLayer::new()))
        .layer(operations.clone());

    // Fails if the layer is on a part of the router only, because its addresses would lead nowhere.
    let mounted = operations.operations();
    mounted.check_mount::<_, Body>(app.clone()).await?;

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try it in a browser, or");
    println!(
        "  curl -i -X POST 'http://{address}/work?ms=5000&steps=10'     # 202, and where to ask"
    );
    println!("  curl -i -X POST -H 'Prefer: wait=10' 'http://{address}/work?ms=5000'");
    println!(
        "  curl -N http://{address}/.operations/<id>/events            # progress as it happens"
    );
    println!("  curl -i -X DELETE http://{address}/.operations/<id>         # cancel, or remove");
    let stopping = operations.operations();
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                let given_up = stopping.drain(Duration::from_secs(10)).await;
                println!("{given_up} operations were given up");
            }
        })
        .await?;
    Ok(())
}
