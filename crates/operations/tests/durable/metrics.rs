//! Metrics of durable operations.

use crate::process::{Diary, Process, layer};
use std::time::Duration;
use test_support::operation::{SECOND, request};
use test_support::recorded::RecordedHere;
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::{PromiseError, Promises};
use tower_promises_operations::durable::{Settlement, Settling};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sleeps for a day, and waits for a number from outside.
fn order(promises: &Promises) -> Result<String, PromiseError> {
    promises.sleep("cool off", DAY)?;
    let number: u32 = promises.outside("number")?;
    Ok(number.to_string())
}

#[tokio::test(start_paused = true)]
async fn runs_suspensions_and_settlements_are_counted() {
    let recorded = RecordedHere::start();
    let process = Process::start(layer(&Backend::memory()), order);
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    assert_eq!(recorded.value("durable_runs_in_flight"), 0.0);
    assert_eq!(recorded.value("operations_in_flight"), 0.0);
    sleep(DAY + 60 * SECOND).await;
    let document = process.suspended(&path).await;
    assert_eq!(document["waitingFor"][0]["kind"], "outside");
    let id = path.rsplit('/').next().unwrap();
    let settle = |number| {
        let settlement = Settlement::value(&number).unwrap();
        let operations = process.operations.clone();
        async move { operations.settle(id, "number", &settlement).await.unwrap() }
    };
    assert_eq!(settle(7).await, Settling::Settled);
    assert_eq!(settle(7).await, Settling::Repeated);
    assert_eq!(settle(8).await, Settling::Conflict);
    let unknown = Settlement::value(&7).unwrap();
    let unknown = process.operations.settle("another", "number", &unknown);
    assert_eq!(unknown.await.unwrap(), Settling::NotFound);
    assert_eq!(process.result(&path).await.1, "7");
    assert_eq!(
        recorded.values("durable"),
        [
            "durable_run_duration_seconds_count{outcome=\"ended\"} 1",
            "durable_run_duration_seconds_count{outcome=\"suspended\"} 2",
            "durable_runs_started_total{reason=\"begin\"} 1",
            "durable_runs_started_total{reason=\"due\"} 1",
            "durable_runs_started_total{reason=\"settled\"} 1",
            "durable_runs_total{outcome=\"ended\"} 1",
            "durable_runs_total{outcome=\"suspended\"} 2",
            "durable_settlements_total{result=\"conflict\"} 1",
            "durable_settlements_total{result=\"not_found\"} 1",
            "durable_settlements_total{result=\"repeated\"} 1",
            "durable_settlements_total{result=\"settled\"} 1",
        ]
    );
    assert_eq!(
        recorded.values("operation"),
        [
            "operation_duration_seconds_count{outcome=\"succeeded\"} 1",
            "operation_replies_total{reply=\"accepted\"} 1",
            "operations_started_total{kind=\"durable\"} 1",
            "operations_total{outcome=\"succeeded\"} 1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn recoveries_and_lost_operations_are_counted() {
    let recorded = RecordedHere::start();
    let backend = Backend::memory();
    let hangs = |promises: &Promises| {
        promises.result_or_submit("hangs", std::future::pending::<()>)?;
        Ok(String::new())
    };
    let process = || Process::start(layer(&backend).max_recoveries(1), hangs);
    let mut first = process();
    let path = first.begin("POST /").await;
    assert_eq!(recorded.value("durable_runs_in_flight"), 1.0);
    first.kill().await;
    for _ in 0..2 {
        let mut next = process();
        sleep(10 * SECOND).await;
        next.kill().await;
    }
    let lost = first.ended(&path).await;
    assert_eq!(lost["error"]["code"], "Lost");
    assert_eq!(
        recorded.values("durable"),
        [
            "durable_recoveries_total 1",
            "durable_run_duration_seconds_count{outcome=\"aborted\"} 2",
            "durable_runs_started_total{reason=\"begin\"} 2",
            "durable_runs_total{outcome=\"aborted\"} 2",
        ]
    );
    let ends = recorded.values("operations_total");
    assert_eq!(ends, ["operations_total{outcome=\"lost\"} 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_drain_gives_back_is_counted() {
    let recorded = RecordedHere::start();
    let process = Process::start(layer(&Backend::memory()), |promises| {
        promises.result_or_submit("hangs", std::future::pending::<()>)?;
        Ok(String::new())
    });
    process.begin("POST /").await;
    assert_eq!(process.operations.drain(SECOND).await, 1);
    let runs = recorded.values("durable_runs");
    let [started, given_back] = &runs[..] else {
        panic!("{runs:?}");
    };
    assert_eq!(started, "durable_runs_started_total{reason=\"begin\"} 1");
    assert_eq!(given_back, "durable_runs_total{outcome=\"given_back\"} 1");
    assert_eq!(recorded.value("operations_given_up_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn cancelled_refused_and_repeated_durable_operations_are_counted() {
    let recorded = RecordedHere::start();
    let layer = layer(&Backend::memory())
        .idempotency_keys(true)
        .max_open_per_principal(1)
        .principal(|_| Some("sesame".to_owned()));
    let process = Process::start(layer, order);
    let ask = |key| process.send(request("POST /", &[("idempotency-key", key)]));
    let answer = ask("1").await;
    assert_eq!(answer.status, 202);
    let path = answer.header("operation-location").to_owned();
    assert_eq!(ask("1").await.status, 202);
    assert_eq!(ask("2").await.status, 429);
    process.suspended(&path).await;
    let cancelled = process.ask(&format!("DELETE {path}")).await;
    assert!(cancelled.status.is_success(), "{cancelled:?}");
    assert_eq!(
        recorded.values("operation"),
        [
            "operation_duration_seconds_count{outcome=\"cancelled\"} 1",
            "operation_refusals_total{limit=\"principal_open\"} 1",
            "operation_replies_total{reply=\"accepted\"} 1",
            "operation_replies_total{reply=\"repeated\"} 1",
            "operations_started_total{kind=\"durable\"} 1",
            "operations_total{outcome=\"cancelled\"} 1",
        ]
    );
    assert!(!recorded.handle.render().contains("sesame"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_because_of_all_durable_operations_is_counted() {
    let recorded = RecordedHere::start();
    let process = Process::start(layer(&Backend::memory()).max_open(1), order);
    process.begin("POST /").await;
    assert_eq!(process.ask("POST /").await.status, 503);
    assert_eq!(
        recorded.values("operation_refusals_total"),
        ["operation_refusals_total{limit=\"total_open\"} 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_a_run() {
    let recorded = RecordedHere::start();
    let diary = Diary::default();
    let noted = diary.clone();
    let process = Process::start(layer(&Backend::memory()), move |_| {
        noted.note("runs");
        panic!("no tea")
    });
    let path = process.ask("POST /").await;
    assert_eq!(path.status, 500, "{path:?}");
    assert_eq!(diary.read(), ["runs"]);
    let runs = recorded.values("durable_runs_total");
    assert_eq!(runs, ["durable_runs_total{outcome=\"ended\"} 1"]);
    assert_eq!(recorded.value("durable_runs_in_flight"), 0.0);
}
