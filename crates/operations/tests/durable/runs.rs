//! Runs that are lost, given back, cancelled and too many.

use crate::process::{Diary, Handle, LEASE, Process, layer};
use test_support::Log;
use test_support::operation::SECOND;
use tokio::time::{Instant, sleep};
use tower_promises::backend::Backend;
use tower_promises_operations::durable::DurableRun;

/// Two steps, of which the second takes ten seconds.
fn steps(diary: &Diary, process: &'static str) -> impl Handle + use<> {
    let diary = diary.clone();
    move |promises| {
        let (one, two) = (diary.clone(), diary.clone());
        let first = promises.durable("first", move || async move {
            one.note("first");
            1
        })?;
        let second = promises.durable("second", move || async move {
            two.note(format!("second on {process}"));
            sleep(10 * SECOND).await;
            2
        })?;
        Ok(format!("{first} {second}"))
    }
}

// Contract: 8.3
#[tokio::test(start_paused = true)]
async fn another_process_continues_where_a_lost_one_stood() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let mut one = Process::start(layer(&backend), steps(&diary, "one"));
    let path = one.begin("POST /").await;
    sleep(SECOND).await;
    assert_eq!(diary.read(), ["first", "second on one"]);
    assert_eq!(
        one.document(&path).await["attempt"],
        serde_json::Value::Null
    );
    one.kill().await;
    let other = Process::start(layer(&backend), steps(&diary, "the other"));
    let lost = Instant::now();
    while diary.read().len() < 3 {
        sleep(SECOND / 10).await;
    }
    assert!(lost.elapsed() <= LEASE + SECOND, "{:?}", lost.elapsed());
    let document = other.document(&path).await;
    assert_eq!(
        (&document["status"], &document["attempt"]),
        (&"Running".into(), &2.into())
    );
    assert_eq!(other.result(&path).await, (200, "1 2".to_owned()));
    assert_eq!(
        diary.read(),
        ["first", "second on one", "second on the other"]
    );
}

/// A step that never ends, which stands for a step that ends its process.
fn deadly(diary: &Diary) -> impl Handle + use<> {
    let diary = diary.clone();
    move |promises| {
        let (one, two) = (diary.clone(), diary.clone());
        promises.durable("harmless", move || async move { one.note("harmless") })?;
        promises.durable("deadly", move || async move {
            two.note("deadly");
            if two.count("deadly") < 5 {
                std::future::pending::<()>().await;
            }
        })?;
        Ok("alive".to_owned())
    }
}

// Contract: 8.4
#[tokio::test(start_paused = true)]
async fn a_request_that_loses_every_process_is_lost_and_can_be_sent_again() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let mut process = Process::start(layer(&backend), deadly(&diary));
    let path = process.begin("POST /").await;
    for runs in 1..=4 {
        while diary.count("deadly") < runs {
            sleep(SECOND / 10).await;
        }
        assert_eq!(process.document(&path).await["status"], "Running");
        process.kill().await;
        process = Process::start(layer(&backend), deadly(&diary));
    }
    let document = process.ended(&path).await;
    assert_eq!(document["status"], "Failed");
    assert_eq!(document["error"]["code"], "Lost");
    assert_eq!(document["attempt"], 4);
    let id = document["id"].as_str().unwrap();
    let lost = process.operations.lost().await.unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].id(), id);
    assert!(process.operations.send_again(id).await.unwrap());
    assert!(process.operations.lost().await.unwrap().is_empty());
    assert!(!process.operations.send_again(id).await.unwrap());
    assert_eq!(process.result(&path).await, (200, "alive".to_owned()));
    assert_eq!((diary.count("harmless"), diary.count("deadly")), (1, 5));
    assert!(!process.operations.send_again(id).await.unwrap());
    assert!(!process.operations.send_again("unknown").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_remembers_something_starts_the_count_again() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let handler = {
        let diary = diary.clone();
        move |promises: &tower_promises::Promises| {
            for step in 0..10 {
                let diary = diary.clone();
                promises.durable(format!("step {step}"), move || async move {
                    sleep(SECOND).await;
                    diary.note("step");
                })?;
            }
            Ok("done".to_owned())
        }
    };
    let layer = || layer(&backend).max_recoveries(1);
    let mut process = Process::start(layer(), handler.clone());
    let path = process.begin("POST /").await;
    for step in 1..10 {
        while diary.count("step") < step {
            sleep(SECOND / 10).await;
        }
        process.kill().await;
        process = Process::start(layer(), handler.clone());
    }
    assert_eq!(process.result(&path).await, (200, "done".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_drains_gives_its_runs_back() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let layer = || layer(&backend).max_recoveries(0);
    let one = Process::start(layer(), steps(&diary, "one"));
    let path = one.begin("POST /").await;
    sleep(SECOND).await;
    assert_eq!(one.operations.drain(SECOND).await, 1);
    let other = Process::start(layer(), steps(&diary, "the other"));
    assert_eq!(other.result(&path).await, (200, "1 2".to_owned()));
    assert_eq!(diary.count("first"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_operation_drops_its_run() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let process = Process::start(layer(&backend), steps(&diary, "one"));
    let path = process.begin("POST /").await;
    sleep(SECOND).await;
    let answer = process.ask(&format!("DELETE {path}")).await;
    assert_eq!(answer.json()["status"], "Canceled");
    assert_eq!(process.operations.running(), 0);
    sleep(60 * SECOND).await;
    assert_eq!(diary.read(), ["first", "second on one"]);
}

#[tokio::test(start_paused = true)]
async fn an_operation_past_its_lifetime_is_cancelled() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let layer = layer(&backend).lifetime(5 * SECOND);
    let process = Process::start(layer, steps(&diary, "one"));
    let path = process.begin("POST /").await;
    let document = process.ended(&path).await;
    assert_eq!(document["error"]["code"], "LifetimeExceeded");
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_an_error_of_the_handler_end_the_operation() {
    let process = Process::start(layer(&Backend::memory()), |promises| {
        promises.durable("pause", async || sleep(2 * SECOND).await)?;
        panic!("on purpose")
    });
    let path = process.begin("POST /").await;
    let document = process.ended(&path).await;
    assert_eq!(document["error"]["code"], "Panicked");
}

/// An async handler uses the run without promises.
#[tokio::test(start_paused = true)]
async fn an_async_handler_finds_its_run() {
    let inner = axum::Router::new().fallback(async |request: axum::extract::Request| {
        let run = request.extensions().get::<DurableRun>().unwrap().clone();
        format!("{} {}", run.attempt(), run.idempotency_key("a").len())
    });
    let process = Process::serving(layer(&Backend::memory()), inner);
    assert_eq!(process.ask("POST /").await.body, "1 32");
}

#[tokio::test(start_paused = true)]
async fn a_run_has_a_span_with_the_operation_and_its_number() {
    let log = Log::start();
    let process = Process::start(layer(&Backend::memory()), |promises| {
        promises.sleep("pause", 10 * SECOND)?;
        tracing::info!("after the pause");
        Ok("done".into())
    });
    let path = process.begin("POST /").await;
    process.result(&path).await;
    let text = log.text();
    let line = text.lines().find(|line| line.contains("after the pause"));
    let line = line.unwrap();
    for part in ["operation{operation=", "attempt=2}"] {
        assert!(line.contains(part), "{line}");
    }
    let id = path.rsplit('/').next().unwrap();
    assert!(!text.contains(id), "the id is a capability");
}
