//! Operations whose backend is slow, unsure or refuses at the worst moment, and work that cannot be dropped.
#![allow(clippy::unwrap_used)]

#[path = "support/operation.rs"]
mod operation;
#[path = "support/stepping.rs"]
mod stepping;
mod support;

use axum::extract::Request;
use operation::{App, SECOND, request};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use stepping::{At, Gate, KEY, Stepping, counting};
use support::eventually::{self, soon};
use support::until;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_promises::OperationLayer;
use tower_promises::backend::BackendError;

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_its_key_is_taken_comes_back_for_the_result() {
    let gate = Gate::new();
    let store = Stepping::gated(&gate, |at, key| {
        at == At::AfterWrite && key.starts_with("operation/key/")
    });
    let (app, calls) = counting(&store);
    let line = "POST /?ms=1000";
    let client = tokio::spawn(app.router.clone().oneshot(request(line, &[KEY])));
    until("the key is taken", || gate.arrivals.get() == 1).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    gate.open();
    sleep(SECOND * 30).await;
    let answer = app.ask(line, &[KEY]).await;
    assert_eq!((answer.status.as_u16(), calls.get()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_of_which_it_is_not_known_whether_it_was_taken_is_free() {
    let has_failed = AtomicBool::new(false);
    let store = Stepping::failing(move |at, key| {
        let fails = at == At::AfterWrite
            && key.starts_with("operation/key/")
            && !has_failed.swap(true, Ordering::SeqCst);
        fails.then(|| BackendError::unavailable("it has not answered"))
    });
    let (app, calls) = counting(&store);
    assert_eq!(app.ask("POST /", &[KEY]).await.status, 503);
    assert_eq!(calls.get(), 0);
    let answer = app.ask("POST /", &[KEY]).await;
    assert_eq!((answer.status.as_u16(), calls.get()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn what_takes_a_key_again_keeps_it() {
    let store = Stepping::plain();
    let (app, calls) = counting(&store);
    for count in 1..=3 {
        let path = app.start("POST /?ms=600000", &[KEY]).await;
        assert_eq!(app.start("POST /?ms=600000", &[KEY]).await, path);
        assert_eq!(calls.get(), count);
        for _ in 0..2 {
            app.ask(&format!("DELETE {path}"), &[]).await;
        }
    }
    let path = app.start("POST /?ms=600000", &[KEY]).await;
    sleep(SECOND * 10).await;
    assert_eq!(app.start("POST /?ms=600000", &[KEY]).await, path);
}

/// A store that changes no record while this says so.
fn refusing(refuses: &Arc<AtomicBool>) -> Stepping {
    let refuses = refuses.clone();
    Stepping::failing(move |at, key| {
        let fails = at == At::BeforeWrite
            && key.starts_with("operation/record/")
            && refuses.load(Ordering::SeqCst);
        fails.then(|| BackendError::unavailable("it does not answer"))
    })
}

#[tokio::test(start_paused = true)]
async fn section_7_what_nobody_waits_for_is_in_flight_no_longer_than_the_store_fails() {
    for goes_away in [true, false] {
        let refuses = Arc::new(AtomicBool::new(false));
        let store = refusing(&refuses);
        let (app, calls) = counting(&store);
        let headers = [KEY, ("prefer", "wait=2")];
        let first = request("POST /?ms=600000", &headers);
        let client = tokio::spawn(app.router.clone().oneshot(first));
        sleep(SECOND).await;
        refuses.store(true, Ordering::SeqCst);
        if goes_away {
            client.abort();
            assert!(client.await.unwrap_err().is_cancelled());
        } else {
            assert_eq!(client.await.unwrap().unwrap().status(), 202);
        }
        sleep(SECOND / 100).await;
        refuses.store(false, Ordering::SeqCst);
        sleep(SECOND).await;
        let again = app.ask("POST /?ms=600000", &headers).await;
        assert_eq!((again.status.as_u16(), calls.get()), (202, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_stays_although_its_end_could_not_be_stored_counts() {
    let refuses = Arc::new(AtomicBool::new(false));
    let store = refusing(&refuses);
    let builder = OperationLayer::builder(store.backend()).max_stored_bytes(300_000);
    let app = App::new(builder, async |_: Request| {
        sleep(SECOND * 9).await;
        vec![b'x'; 200_000]
    });
    let lost = app.start("POST /", &[]).await;
    refuses.store(true, Ordering::SeqCst);
    sleep(SECOND * 30).await;
    refuses.store(false, Ordering::SeqCst);
    assert_eq!(app.ended(&lost).await["error"]["code"], "Lost");
    let left = store.left().await;
    assert!(left.iter().any(|key| key.contains("/result/")), "{left:?}");
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.ended(&path).await["error"]["code"], "StorageFull");
}

#[tokio::test(start_paused = true)]
async fn of_a_result_that_could_not_be_stored_nothing_stays() {
    let store = Stepping::failing(|at, key| {
        let fails = at == At::BeforeWrite && key.contains("/result/") && key.ends_with("/2");
        fails.then_some(BackendError::TooLarge { size: 2, limit: 1 })
    });
    let app = App::new(
        OperationLayer::builder(store.backend()),
        async |_: Request| {
            sleep(SECOND * 3).await;
            vec![b'x'; 200_000]
        },
    );
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.ended(&path).await["error"]["code"], "ResultTooLarge");
    let left = store.left().await;
    let results: Vec<_> = left.iter().filter(|key| key.contains("/result/")).collect();
    assert!(results.is_empty(), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn what_stores_a_large_result_slowly_is_not_lost() {
    let store = Stepping::slow(SECOND * 4, |at, key| {
        at == At::BeforeWrite && key.contains("/result/")
    });
    let here = App::new(
        OperationLayer::builder(store.backend()),
        async |_: Request| {
            sleep(SECOND * 3).await;
            vec![b'x'; 600_000]
        },
    );
    let there = App::working(OperationLayer::builder(store.backend()));
    let path = here.start("POST /", &[]).await;
    assert_eq!(there.ended(&path).await["status"], "Succeeded");
    let result = there.get(&format!("{path}/result")).await;
    assert_eq!(result.body.len(), 600_000);
}

#[tokio::test(start_paused = true)]
async fn nothing_becomes_an_operation_of_a_process_that_has_begun_to_drain() {
    let gate = Gate::new();
    let store = Stepping::gated(&gate, |at, key| {
        at == At::BeforeWrite && key.contains("/record/")
    });
    let app = App::working(OperationLayer::builder(store.backend()));
    let client = app.clone();
    let client = tokio::spawn(async move { client.ask("POST /?ms=9000", &[]).await });
    gate.is_reached().await;
    assert_eq!(app.operations.drain(Duration::ZERO).await, 0);
    gate.open();
    let answer = client.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (200, r#"{"answer":42}"#)
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_taken_when_the_process_begins_to_drain_is_free_for_others() {
    let gate = Gate::new();
    let store = Stepping::gated(&gate, |at, key| {
        at == At::BeforeWrite && key.starts_with("operation/key/")
    });
    let [(here, calls), (there, other_calls)] = [(); 2].map(|()| counting(&store));
    let client = here.clone();
    let client = tokio::spawn(async move { client.ask("POST /", &[KEY]).await });
    until("the key is taken", || gate.arrivals.get() == 1).await;
    assert_eq!(here.operations.drain(Duration::ZERO).await, 0);
    gate.open();
    let answer = client.await.unwrap();
    assert_eq!((answer.status.as_u16(), calls.get()), (503, 0));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(there.ask("POST /", &[KEY]).await.status, 200);
    assert_eq!(other_calls.get(), 1);
}

/// Work that blocks its thread until the sender is gone.
fn blocking(builder: tower_promises::operation::OperationLayerBuilder) -> (App, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let app = App::new(builder, move |_: Request| {
        let released = released.clone();
        async move {
            let _ = released.lock().unwrap().recv();
        }
    });
    (app, release)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn work_that_blocks_its_thread_does_not_keep_the_process_from_ending() {
    let (app, release) = blocking(operation::memory());
    let path = app.start("POST /", &[("prefer", "respond-async")]).await;
    let drain = app.operations.drain(Duration::ZERO);
    assert_eq!(soon(drain).await, 1);
    assert_eq!(app.document(&path).await["error"]["code"], "ShuttingDown");
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn section_7_work_that_blocks_its_thread_has_a_lifetime_too() {
    let builder = operation::memory().lifetime(SECOND).max_running(1);
    let (app, release) = blocking(builder);
    let path = app.start("POST /", &[("prefer", "respond-async")]).await;
    let ended = soon(app.ended(&path)).await;
    assert_eq!(ended["error"]["code"], "LifetimeExceeded");
    // It is still there, and others must not come on top of it.
    assert_eq!(app.ask("POST /", &[]).await.status, 503);
    drop(release);
    eventually::until("there is room again", async || {
        app.ask("POST /", &[]).await.status != 503
    })
    .await;
}
