//! Operations that wait without using memory.

use crate::process::{Diary, Process, layer};
use std::sync::Arc;
use std::time::Duration;
use test_support::Log;
use test_support::operation::{SECOND, request};
use tokio::time::{Instant, sleep};
use tower_promises::backend::Backend;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

// Contract: 8.1
#[tokio::test(start_paused = true)]
async fn an_operation_that_only_sleeps_keeps_nothing_in_memory() {
    let held = Arc::new(());
    let captured = held.clone();
    let layer = layer(&Backend::memory()).show_waiting(|name| name == "night");
    let process = Process::start(layer, move |promises| {
        let held = captured.clone();
        promises.on_discard(move || drop(held));
        let captured = captured.clone();
        promises.result_or_submit("holds", move || async move { drop(captured) })?;
        promises.sleep("night", DAY)?;
        Ok("good morning".to_owned())
    });
    let before = Arc::strong_count(&held);
    let began = Instant::now();
    let path = process.begin("POST /").await;
    let document = process.suspended(&path).await;
    assert_eq!(document["status"], "Running");
    assert_eq!(document["waitingFor"][0]["name"], "night");
    assert_eq!(document["waitingFor"][0]["kind"], "sleep");
    assert!(document["waitingFor"][0]["until"].is_string());
    let page = request(&format!("GET {path}"), &[("accept", "text/html")]);
    let page = process.send(page).await.body;
    assert!(page.contains("Waiting for: night"), "{page}");
    assert_eq!(Arc::strong_count(&held), before);
    assert_eq!(process.operations.running(), 0);
    sleep(DAY - 60 * SECOND).await;
    assert!(process.document(&path).await["waitingFor"].is_array());
    let (status, body) = process.result(&path).await;
    assert_eq!((status, &*body), (200, "good morning"));
    assert!(began.elapsed() >= DAY && began.elapsed() < DAY + 10 * SECOND);
    let document = process.document(&path).await;
    assert_eq!(document["attempt"], 2);
    assert_eq!(document["waitingFor"], serde_json::Value::Null);
}

#[tokio::test(start_paused = true)]
async fn names_are_hidden_by_default() {
    let process = Process::start(layer(&Backend::memory()), |promises| {
        promises.sleep("night", DAY)?;
        Ok(String::new())
    });
    let path = process.begin("POST /").await;
    let document = process.suspended(&path).await;
    assert_eq!(document["waitingFor"][0]["name"], serde_json::Value::Null);
    let page = request(&format!("GET {path}"), &[("accept", "text/html")]);
    let page = process.send(page).await.body;
    assert!(!page.contains("night"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn an_operation_with_other_work_is_not_suspended() {
    let diary = Diary::default();
    let noted = diary.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        let noted = noted.clone();
        let night = promises.sleep("night", 100 * SECOND);
        let work = promises.result_or_submit("work", move || async move {
            noted.note("begins");
            sleep(50 * SECOND).await;
            noted.note("ends");
        });
        night.and(work)?;
        Ok("done".to_owned())
    });
    let path = process.begin("POST /").await;
    sleep(40 * SECOND).await;
    assert_eq!(process.operations.running(), 1);
    sleep(20 * SECOND).await;
    assert_eq!(process.operations.running(), 0);
    assert_eq!(process.result(&path).await.1, "done");
    // It is not remembered, so it runs again after the suspension.
    assert_eq!(diary.read(), ["begins", "ends", "begins", "ends"]);
}

#[tokio::test(start_paused = true)]
async fn a_short_sleep_is_waited_for() {
    let process = Process::start(layer(&Backend::memory()), |promises| {
        promises.sleep("moment", Duration::from_millis(300))?;
        Ok("done".to_owned())
    });
    assert_eq!(process.ask("POST /").await.body, "done");
}

#[tokio::test(start_paused = true)]
async fn an_async_handler_that_awaits_is_not_suspended() {
    let inner = axum::Router::new()
        .fallback(async |promises: tower_promises::Promises| {
            let night = promises.sleep("night", 100 * SECOND);
            sleep(50 * SECOND).await;
            night.map_or_else(|error| error.status().to_string(), |()| "done".to_owned())
        })
        .layer(tower_promises::PromiseLayer::new());
    let process = Process::serving(layer(&Backend::memory()), inner);
    process.begin("POST /").await;
    sleep(40 * SECOND).await;
    assert_eq!(process.operations.running(), 1);
    sleep(20 * SECOND).await;
    assert_eq!(process.operations.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn another_process_continues_a_suspended_operation() {
    let backend = Backend::memory();
    let handler = |promises: &tower_promises::Promises| {
        promises.sleep("night", 50 * SECOND)?;
        Ok("done".to_owned())
    };
    let mut one = Process::start(layer(&backend), handler);
    let path = one.begin("POST /").await;
    one.suspended(&path).await;
    one.kill().await;
    let other = Process::start(layer(&backend), handler);
    assert_eq!(other.result(&path).await.1, "done");
}

#[tokio::test(start_paused = true)]
async fn the_application_lists_and_resumes_suspended_operations() {
    let diary = Diary::default();
    let noted = diary.clone();
    let layer = layer(&Backend::memory()).principal(|_| Some("ada".to_owned()));
    let process = Process::start(layer, move |promises| {
        noted.note("pass");
        promises.sleep("night", DAY)?;
        Ok(String::new())
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let passes = diary.count("pass");
    let suspended = process.operations.suspended("ada").await.unwrap();
    assert_eq!(suspended.len(), 1);
    assert_eq!(suspended[0].attempt(), 1);
    assert!(process.operations.resume(suspended[0].id()).await.unwrap());
    sleep(2 * SECOND).await;
    assert!(diary.count("pass") > passes);
    assert_eq!(process.document(&path).await["attempt"], 2);
    process.ask(&format!("DELETE {path}")).await;
    assert!(
        process
            .operations
            .suspended("ada")
            .await
            .unwrap()
            .is_empty()
    );
    assert!(!process.operations.resume(suspended[0].id()).await.unwrap());
    assert!(!process.operations.resume("unknown").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_operation_ends_with_its_lifetime() {
    let layer = layer(&Backend::memory()).lifetime(60 * SECOND);
    let process = Process::start(layer, |promises| {
        promises.outside::<()>("never")?;
        Ok(String::new())
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let document = process.ended(&path).await;
    assert_eq!(document["error"]["code"], "LifetimeExceeded");
    // The end begins no second run.
    assert_eq!(document["attempt"], serde_json::Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_operation_does_not_continue() {
    let diary = Diary::default();
    let noted = diary.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        noted.note("pass");
        promises.sleep("night", 100 * SECOND)?;
        Ok(String::new())
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let passes = diary.count("pass");
    process.ask(&format!("DELETE {path}")).await;
    sleep(1000 * SECOND).await;
    assert_eq!(diary.count("pass"), passes);
    assert_eq!(process.document(&path).await["status"], "Canceled");
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_waits_longer_than_the_lifetime_is_a_warning() {
    for (lifetime, expected) in [(30, 1), (90, 0)] {
        let log = Log::start();
        let layer = layer(&Backend::memory()).lifetime(lifetime * SECOND);
        let process = Process::start(layer, |promises| {
            promises.sleep("minute", 60 * SECOND)?;
            Ok("done".to_owned())
        });
        let path = process.begin("POST /").await;
        process.ended(&path).await;
        let text = log.text();
        let warnings = text.matches("waits longer than the lifetime").count();
        assert_eq!(warnings, expected, "{text}");
    }
}
