//! Promises that are settled from outside.

use crate::process::{Diary, Handle, Process, layer};
use std::time::Duration;
use test_support::Log;
use test_support::operation::{SECOND, request};
use tokio::time::sleep;
use tower_promises::PromiseError;
use tower_promises::backend::Backend;
use tower_promises_operations::durable::{Settlement, Settling};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Tells an address, and waits for a number.
fn approval(addresses: &Diary) -> impl Handle + use<> {
    let addresses = addresses.clone();
    move |promises| {
        let url = promises.outside_url("approval")?;
        let addresses = addresses.clone();
        promises.durable("mail", move || async move { addresses.note(url) })?;
        match promises.outside_with_timeout::<u32>("approval", HOUR) {
            Ok(number) => Ok(format!("approved: {number}")),
            Err(PromiseError::Failed { error, .. }) => Ok(format!("refused: {error}")),
            Err(PromiseError::TimedOut { .. }) => Ok("too late".to_owned()),
            Err(error) => Err(error),
        }
    }
}

async fn waiting() -> (Process, String, String) {
    let addresses = Diary::default();
    let process = Process::start(layer(&Backend::memory()), approval(&addresses));
    let path = process.begin("POST /").await;
    let document = process.suspended(&path).await;
    assert_eq!(document["waitingFor"][0]["kind"], "outside");
    assert_eq!(addresses.read().len(), 1);
    (process, path, addresses.read().remove(0))
}

// Contract: 8.2
#[tokio::test(start_paused = true)]
async fn a_promise_is_settled_over_http_once() {
    let (process, path, url) = waiting().await;
    let answer = process.settle(&url, r#"{"value": 7}"#).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (200, r#"{"settled":true}"#)
    );
    assert_eq!(process.result(&path).await.1, "approved: 7");
    // Also after the end.
    let answer = process.settle(&url, r#"{ "value":7 }"#).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (200, r#"{"settled":true}"#)
    );
    for other in [
        r#"{"value": 8}"#,
        r#"{"error": {"code": "No", "message": "no"}}"#,
    ] {
        assert_eq!(process.settle(&url, other).await.status, 409);
    }
}

// Contract: 8.2
#[tokio::test(start_paused = true)]
async fn a_promise_fails_from_outside() {
    let (process, path, url) = waiting().await;
    let body = r#"{"error": {"code": "Refused", "message": "not today"}}"#;
    assert_eq!(process.settle(&url, body).await.status, 200);
    assert_eq!(process.result(&path).await.1, "refused: not today");
    assert_eq!(process.settle(&url, body).await.status, 200);
}

// Contract: 8.6
#[tokio::test(start_paused = true)]
async fn an_unknown_token_is_as_any_other_404() {
    let (process, path, url) = waiting().await;
    let value = r#"{"value": 7}"#;
    let unknown = process
        .settle(&format!("{path}/promises/{}", "0".repeat(32)), value)
        .await;
    assert_eq!(unknown.status, 404);
    let token = url.rsplit('/').next().unwrap();
    let elsewhere = process
        .settle(&format!("/.operations/unknown/promises/{token}"), value)
        .await;
    assert_eq!(unknown, elsewhere);
    let nowhere = process.ask("GET /.operations/unknown").await;
    assert_eq!(
        (nowhere.status, nowhere.body),
        (unknown.status, unknown.body)
    );
    let other = process.begin("POST /").await;
    let answer = process
        .settle(&format!("{other}/promises/{token}"), value)
        .await;
    assert_eq!(answer.status, 404);
    // The address is a path below that of the operation.
    assert!(url.starts_with(&path), "{url}");
    assert_eq!(token.len(), 32);
}

// Contract: 8.7
#[tokio::test(start_paused = true)]
async fn malformed_settlements_are_refused() {
    let (process, path, url) = waiting().await;
    for line in [
        format!("GET {url}"),
        format!("HEAD {url}"),
        format!("PUT {url}"),
    ] {
        let answer = process.ask(&line).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("allow")),
            (405, "POST"),
            "{line}"
        );
    }
    for body in [
        "",
        "7",
        "{}",
        r#"{"value": 7, "error": {"code": "", "message": ""}}"#,
        r#"{"error": "no"}"#,
        r#"{"value": "seven"}"#,
        r#"{"value": null}"#,
    ] {
        assert_eq!(process.settle(&url, body).await.status, 422, "{body}");
    }
    let large = format!(r#"{{"value": "{}"}}"#, "x".repeat(100_000));
    assert_eq!(process.settle(&url, &large).await.status, 413);
    let form = request(&format!("POST {url}"), &[("content-type", "text/plain")]);
    assert_eq!(process.send(form).await.status, 415);
    assert!(process.document(&path).await["waitingFor"].is_array());
}

// Contract: 8.2
#[tokio::test(start_paused = true)]
async fn a_settlement_after_the_deadline_is_too_late() {
    let (process, path, url) = waiting().await;
    sleep(HOUR).await;
    assert_eq!(process.settle(&url, r#"{"value": 7}"#).await.status, 410);
    assert_eq!(process.result(&path).await.1, "too late");
    assert_eq!(process.settle(&url, r#"{"value": 7}"#).await.status, 410);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_after_the_end_is_too_late() {
    let (process, path, url) = waiting().await;
    process.ask(&format!("DELETE {path}")).await;
    assert_eq!(process.settle(&url, r#"{"value": 7}"#).await.status, 410);
}

/// The operation has other work meanwhile, so it is not suspended.
#[tokio::test(start_paused = true)]
async fn a_running_operation_learns_of_a_settlement() {
    let (addresses, backend) = (Diary::default(), Backend::memory());
    let noted = addresses.clone();
    let handler = move |promises: &tower_promises::Promises| {
        noted.note(promises.outside_url("approval")?);
        let work = promises.durable("work", async || sleep(30 * SECOND).await);
        let approved = promises.outside::<u32>("approval");
        work.and(approved)
            .map(|number| format!("approved: {number}"))
    };
    let process = Process::start(layer(&backend), handler);
    let path = process.begin("POST /").await;
    while addresses.read().is_empty() {
        sleep(SECOND).await;
    }
    // Another process receives the settlement.
    let other = Process::idle(layer(&backend), axum::Router::new());
    let answer = other.settle(&addresses.read()[0], r#"{"value": 7}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(process.result(&path).await.1, "approved: 7");
    assert_eq!(
        process.document(&path).await["attempt"],
        serde_json::Value::Null
    );
}

#[tokio::test(start_paused = true)]
async fn the_application_settles_by_name() {
    let (process, path, _) = waiting().await;
    let document = process.document(&path).await;
    let id = document["id"].as_str().unwrap();
    let (seven, eight) = (
        Settlement::value(&7).unwrap(),
        Settlement::value(&8).unwrap(),
    );
    let settle = async |id, settlement| process.operations.settle(id, "approval", settlement).await;
    assert_eq!(settle("unknown", &seven).await.unwrap(), Settling::NotFound);
    assert_eq!(settle(id, &seven).await.unwrap(), Settling::Settled);
    assert_eq!(settle(id, &seven).await.unwrap(), Settling::Repeated);
    assert_eq!(settle(id, &eight).await.unwrap(), Settling::Conflict);
    assert_eq!(process.result(&path).await.1, "approved: 7");
}

/// With the secret of the application, the store alone does not tell the address.
#[tokio::test(start_paused = true)]
async fn the_secret_of_the_application_changes_the_address() {
    let (addresses, backend) = (Diary::default(), Backend::memory());
    let secret = || layer(&backend).durable_secret("of the application");
    let process = Process::start(secret(), approval(&addresses));
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let url = addresses.read().remove(0);
    let without = Process::idle(layer(&backend), axum::Router::new());
    assert_eq!(without.settle(&url, r#"{"value": 7}"#).await.status, 404);
    assert_eq!(process.settle(&url, r#"{"value": 7}"#).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_address_counts_as_a_promise_that_the_next_pass_reads() {
    let log = Log::start();
    let process = Process::start(layer(&Backend::memory()), |promises| {
        promises.outside_url("approval")?;
        promises.durable("reserve", async || ())?;
        Ok("reserved".to_owned())
    });
    let answer = process.ask("POST /").await;
    assert_eq!(answer.body, "reserved");
    let text = log.text();
    assert!(!text.contains("has read none of the promises"), "{text}");
}
