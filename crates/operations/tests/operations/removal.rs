//! Operations that are cancelled and removed while their backend is slow or fails, or while their clients disconnect.

use axum::extract::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use test_support::operation::{App, SECOND, request};
use test_support::stepping::{At, Gate, KEY, Stepping, counting};
use test_support::{Counter, until};
use tokio::time::sleep;
use tower::ServiceExt;
use tower_promises_backend::BackendError;
use tower_promises_operations::OperationLayer;

#[tokio::test(start_paused = true)]
async fn section_4_an_operation_removed_while_it_ends_is_unknown_and_not_expired() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = is_slow.clone();
    let store = Stepping::slow(SECOND, move |at, key| {
        at == At::BeforeWrite && key.contains("tombstone") && slow.load(Ordering::SeqCst)
    });
    let app = App::working(OperationLayer::new(store.backend()));
    let path = app.start("POST /?ms=600000", &[]).await;
    is_slow.store(true, Ordering::SeqCst);
    let line = format!("DELETE {path}");
    let ((), first) = tokio::join!(
        async {
            sleep(SECOND / 2).await;
            app.ask(&line, &[]).await;
        },
        app.ask(&line, &[])
    );
    assert_eq!(first.status, 200);
    // Removes the operation in case the second request did not.
    app.ask(&line, &[]).await;
    assert_eq!(app.get(&path).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn section_4_an_operation_being_removed_is_unknown_and_not_expired() {
    let gate = Gate::new();
    let is_removing = Arc::new(AtomicBool::new(false));
    let removing = is_removing.clone();
    let store = Stepping::gated(&gate, move |at, key| {
        at == At::AfterDelete
            && key.starts_with("operation/record/")
            && removing.load(Ordering::SeqCst)
    });
    let app = App::working(OperationLayer::new(store.backend()));
    let path = app.start("POST /?ms=3000", &[]).await;
    app.ended(&path).await;
    is_removing.store(true, Ordering::SeqCst);
    let (client, line) = (app.clone(), format!("DELETE {path}"));
    let delete = tokio::spawn(async move { client.ask(&line, &[]).await });
    until("the record is deleted", || gate.arrivals.get() == 1).await;
    for part in ["", "/result", "/events"] {
        assert_eq!(app.get(&format!("{path}{part}")).await.status, 404);
    }
    gate.open();
    assert_eq!(delete.await.unwrap().status, 204);
}

#[tokio::test(start_paused = true)]
async fn section_4_an_operation_removed_before_its_end_is_stored_stays_unknown() {
    let gate = Gate::new();
    let ends = Arc::new(AtomicBool::new(false));
    let ending = ends.clone();
    let store = Stepping::gated(&gate, move |at, key| {
        // The work itself is the first to write the end.
        at == At::BeforeWrite && key.contains("tombstone") && ending.swap(false, Ordering::SeqCst)
    });
    let app = App::working(OperationLayer::new(store.backend()).lease(SECOND * 1000));
    let path = app.start("POST /?ms=3000", &[]).await;
    ends.store(true, Ordering::SeqCst);
    gate.is_reached().await;
    let line = format!("DELETE {path}");
    assert_eq!(app.ask(&line, &[]).await.status, 200);
    assert_eq!(app.ask(&line, &[]).await.status, 204);
    gate.open();
    sleep(SECOND).await;
    assert_eq!(app.get(&path).await.status, 404);
    assert_eq!(store.left().await, [""; 0]);
}

/// A store whose next change of a record waits at a gate once it is armed.
fn gated(gate: &Gate, at: At, armed: &Arc<AtomicBool>) -> Stepping {
    let armed = armed.clone();
    Stepping::gated(gate, move |now, key| {
        now == at && key.starts_with("operation/record/") && armed.swap(false, Ordering::SeqCst)
    })
}

/// Sends a request, disconnects while the request is at the gate, and opens the gate.
async fn ask_and_vanish(app: &App, gate: &Gate, line: &str) {
    let client = tokio::spawn(app.router.clone().oneshot(request(line, &[])));
    until("the request is at the gate", || gate.arrivals.get() == 1).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_it_removes_leaves_nothing_behind() {
    let (gate, armed) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let store = gated(&gate, At::AfterDelete, &armed);
    let app = App::new(OperationLayer::new(store.backend()), async |_: Request| {
        sleep(SECOND * 3).await;
        vec![b'x'; 200_000]
    });
    let path = app.start("POST /", &[]).await;
    app.ended(&path).await;
    armed.store(true, Ordering::SeqCst);
    ask_and_vanish(&app, &gate, &format!("DELETE {path}")).await;
    sleep(SECOND).await;
    assert_eq!(store.left().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_takes_effect_although_its_client_goes_away() {
    for line in ["DELETE {}", "POST {}/cancel"] {
        let (gate, armed) = (Gate::new(), Arc::new(AtomicBool::new(false)));
        let store = gated(&gate, At::AfterWrite, &armed);
        let dropped = Counter::default();
        let counter = dropped.clone();
        let layer = OperationLayer::new(store.backend()).lease(SECOND * 600);
        let app = App::new(layer, move |_: Request| {
            let guard = counter.on_drop();
            async move {
                sleep(SECOND * 300).await;
                drop(guard);
            }
        });
        let path = app.start("POST /", &[]).await;
        sleep(SECOND).await;
        armed.store(true, Ordering::SeqCst);
        ask_and_vanish(&app, &gate, &line.replace("{}", &path)).await;
        sleep(SECOND).await;
        assert_eq!(dropped.get(), 1, "{line}");
        assert_eq!(app.document(&path).await["status"], "Canceled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_operation_leaves_nothing_behind() {
    let store = Stepping::plain();
    let layer = OperationLayer::new(store.backend()).idempotency_keys(true);
    let app = App::new(layer, async |_: Request| {
        sleep(SECOND * 3).await;
        vec![b'x'; 200_000]
    });
    let path = app.start("POST /", &[KEY]).await;
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
    assert!(!store.left().await.is_empty());
    assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 204);
    sleep(SECOND * 3).await;
    assert_eq!(store.left().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_operation_is_gone_although_the_store_fails_afterwards() {
    let store = Stepping::failing(|at, key| {
        let fails = at == At::AfterDelete && key.contains("/result/");
        fails.then(|| BackendError::unavailable("it has not answered"))
    });
    let (app, calls) = counting(&store);
    let line = "POST /?ms=3000";
    let path = app.start(line, &[KEY]).await;
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
    assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 204);
    assert_eq!(app.ask(&format!("GET {path}"), &[]).await.status, 404);
    // The key is free.
    app.start(line, &[KEY]).await;
    assert_eq!(calls.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn section_7_a_client_that_waits_for_a_removed_operation_is_not_redirected_to_it() {
    let store = Stepping::plain();
    // Each process has a bus of its own, so neither receives messages of the other.
    let [(here, _), (there, _)] = [(); 2].map(|()| counting(&store));
    let path = here.start("POST /?ms=600000", &[KEY]).await;
    let waiting = tokio::spawn(async move {
        let headers = [KEY, ("prefer", "wait=60")];
        there.ask("POST /?ms=600000", &headers).await
    });
    sleep(SECOND).await;
    let line = format!("DELETE {path}");
    assert_eq!(here.ask(&line, &[]).await.status, 200);
    assert_eq!(here.ask(&line, &[]).await.status, 204);
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 410);
    assert_eq!(answer.header("vary"), "Accept, Prefer");
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_another_process_cancels_and_removes_does_not_count() {
    let store = Stepping::plain();
    // Each process has a bus of its own, so neither receives messages of the other.
    let [here, there] =
        [(); 2].map(|()| App::working(OperationLayer::new(store.backend()).max_stored_bytes(1024)));
    let path = here.start("POST /?ms=600000", &[]).await;
    let line = format!("DELETE {path}");
    assert_eq!(there.ask(&line, &[]).await.status, 200);
    // Removed before the working process has checked its record.
    assert_eq!(there.ask(&line, &[]).await.status, 204);
    sleep(SECOND * 60).await;
    assert_eq!(here.operations.running(), 0);
    assert_eq!(here.ask("POST /", &[]).await.status, 200);
}
