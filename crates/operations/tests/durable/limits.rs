//! Limits on the number of durable operations that have not ended.

use crate::mortal::{Death, Mortal};
use crate::process::{Diary, Process, layer};
use axum::Router;
use std::time::Duration;
use test_support::operation::{SECOND, request};
use tokio::time::{sleep, timeout};
use tower_promises::backend::Backend;
use tower_promises::{PromiseError, Promises};

fn night(promises: &Promises) -> Result<String, PromiseError> {
    promises.sleep("night", 1000 * SECOND)?;
    Ok(String::new())
}

// Contract: 8.10
#[tokio::test(start_paused = true)]
async fn the_operations_of_a_principal_are_limited() {
    let layer = layer(&Backend::memory())
        .principal(|_| Some("ada".to_owned()))
        .max_open_per_principal(2);
    let process = Process::start(layer, night);
    let first = process.begin("POST /").await;
    let second = process.begin("POST /").await;
    assert_eq!(process.ask("POST /").await.status, 429);
    // A cancelled operation makes room, and so does one that has ended.
    process.ask(&format!("DELETE {first}")).await;
    process.begin("POST /").await;
    assert_eq!(process.ask("POST /").await.status, 429);
    sleep(2000 * SECOND).await;
    assert_eq!(process.document(&second).await["status"], "Succeeded");
    process.begin("POST /").await;
    process.begin("POST /").await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_operations_of_a_principal_make_room_behind_many_that_wait() {
    let layer = layer(&Backend::memory())
        .principal(|_| Some("ada".to_owned()))
        .max_open_per_principal(30);
    let process = Process::start(layer, night);
    for _ in 0..20 {
        process.begin("POST /").await;
    }
    for _ in 0..50 {
        let path = process.begin("POST /").await;
        process.suspended(&path).await;
        process.ask(&format!("DELETE {path}")).await;
    }
}

// Contract: 8.10
#[tokio::test(start_paused = true)]
async fn the_operations_of_all_processes_are_limited() {
    let backend = Backend::memory();
    let diary = Diary::default();
    let start = || {
        let noted = diary.clone();
        Process::start(layer(&backend).max_open(2), move |promises| {
            noted.note("pass");
            night(promises)
        })
    };
    let (one, other) = (start(), start());
    let first = one.begin("POST /").await;
    let second = other.begin("POST /").await;
    let passes = diary.count("pass");
    for process in [&one, &other] {
        let answer = process.ask("POST /").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), "1");
    }
    sleep(100 * SECOND).await;
    assert_eq!(
        diary.count("pass"),
        passes,
        "a refused request does not run"
    );
    one.ask(&format!("DELETE {first}")).await;
    one.begin("POST /").await;
    assert_eq!(one.ask("POST /").await.status, 503);
    sleep(2000 * SECOND).await;
    assert_eq!(one.document(&second).await["status"], "Succeeded");
    one.begin("POST /").await;
    one.begin("POST /").await;
    assert_eq!(one.ask("POST /").await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_takes_no_place_of_its_principal() {
    let layer = layer(&Backend::memory())
        .principal(|request| Some(request.uri.path().to_owned()))
        .max_open_per_principal(1)
        .max_open(1);
    let process = Process::start(layer, night);
    let first = process.begin("POST /ada").await;
    assert_eq!(process.ask("POST /grace").await.status, 503);
    let id = first.rsplit('/').next().unwrap();
    assert!(process.operations.cancel(id).await.unwrap());
    process.begin("POST /grace").await;
    assert_eq!(process.ask("POST /grace").await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn most_of_a_large_limit_can_be_used() {
    let backend = Backend::memory();
    let process = Process::idle(layer(&backend).max_open(500), axum::Router::new());
    let mut accepted = 0;
    while process.ask("POST /").await.status == 202 {
        accepted += 1;
    }
    assert!((450..=500).contains(&accepted), "{accepted}");
}

// Contract: 8.11
#[tokio::test(start_paused = true)]
async fn an_operation_that_was_accepted_keeps_its_result() {
    let layer = layer(&Backend::memory())
        .idempotency_keys(true)
        .max_stored_bytes(4000)
        .retention(100 * SECOND);
    let process = Process::start(layer, |promises| {
        promises.sleep("moment", 10 * SECOND)?;
        Ok("x".repeat(1500))
    });
    let mut paths = Vec::new();
    for _ in 0..4 {
        paths.push(process.begin("POST /").await);
    }
    for path in &paths {
        assert_eq!(process.result(path).await, (200, "x".repeat(1500)));
    }
    // There is no room for another result, with and without a key.
    for headers in [&[][..], &[("idempotency-key", "new")]] {
        let answer = process.send(request("POST /", headers)).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), "1");
    }
    process.ask(&format!("DELETE {}", paths[0])).await;
    process.ask(&format!("DELETE {}", paths[1])).await;
    assert_eq!(process.ask("POST /").await.status, 503);
    process.ask(&format!("DELETE {}", paths[2])).await;
    process.begin("POST /").await;
}

// Contract: 8.11
#[tokio::test(start_paused = true)]
async fn a_repeated_request_needs_no_room() {
    let layer = layer(&Backend::memory())
        .idempotency_keys(true)
        .max_stored_bytes(1000);
    let process = Process::start(layer, |_| Ok("done".to_owned()));
    for _ in 0..2 {
        let answer = process
            .send(request("POST /", &[("idempotency-key", "7")]))
            .await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "done"));
    }
}

/// A process may die between any two calls to the backend when it accepts a request.
#[tokio::test(start_paused = true)]
async fn a_place_becomes_free_if_a_process_dies_with_it() {
    for number in 0..20 {
        let backend = Backend::memory();
        let (mortal, _life) = Mortal::backend(&backend, Death::After(number));
        let front = Process::idle(layer(&mortal).max_open(1), axum::Router::new());
        let _ = timeout(SECOND / 2, front.ask("POST /")).await;
        drop(front);
        let back = Process::start(layer(&backend).max_open(1), night);
        sleep(Duration::from_secs(2000)).await;
        let answer = back.ask("POST /").await;
        assert_eq!(answer.status, 202, "death after call {number}");
        assert_eq!(back.ask("POST /").await.status, 503);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_is_sent_again_is_counted_again() {
    let backend = Backend::memory();
    let layer = || layer(&backend).max_open(1).max_recoveries(0);
    let mut one = Process::start(layer(), |promises| {
        promises.durable("endless", std::future::pending::<String>)
    });
    let lost = one.begin("POST /").await;
    sleep(SECOND).await;
    one.kill().await;
    let other = Process::start(layer(), night);
    assert_eq!(other.ended(&lost).await["error"]["code"], "Lost");
    let second = other.begin("POST /").await;
    let id = lost.rsplit('/').next().unwrap();
    assert!(other.operations.send_again(id).await.unwrap());
    other.suspended(&lost).await;
    other.ask(&format!("DELETE {second}")).await;
    assert_eq!(other.ask("POST /").await.status, 503);
    other.ask(&format!("DELETE {lost}")).await;
    other.begin("POST /").await;
}

// Contract: 8.11
#[tokio::test(start_paused = true)]
async fn a_worker_begins_no_run_while_it_has_no_room_for_the_result() {
    let backend = Backend::memory();
    let layer = || {
        let layer = layer(&backend).retention(60 * SECOND);
        layer.max_stored_bytes(1).max_runs(1)
    };
    // A web process counts no results, because it runs nothing.
    let web = Process::idle(layer(), Router::new());
    let first = web.begin("POST /").await;
    let second = web.begin("POST /").await;
    let worker = Process::start(layer(), |_| Ok("result".to_owned()));
    worker.ended(&first).await;
    sleep(30 * SECOND).await;
    let document = worker.document(&second).await;
    assert_eq!(document["status"], "NotStarted");
    let document = worker.ended(&second).await;
    assert_eq!(document["status"], "Succeeded");
}
