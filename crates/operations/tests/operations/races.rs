//! Operations with a backend that is slow, unreliable or fails at the worst moment, and work that cannot be dropped.

use axum::body::Body;
use axum::extract::Request;
use http::StatusCode;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use test_support::eventually::{self, soon};
use test_support::operation::{Answer, App, SECOND, number, read, request, work};
use test_support::stepping::{At, Gate, KEY, Stepping, counting};
use test_support::{Counter, until};
use tokio::time::sleep;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_promises_backend::{Backend, BackendError};
use tower_promises_operations::OperationLayer;
use tower_promises_operations::OperationRequestBody;

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
async fn a_key_with_an_unconfirmed_claim_is_free() {
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
async fn a_key_that_is_claimed_again_stays_claimed() {
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

/// A store that fails to change records while the flag is set.
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
async fn section_7_a_request_in_flight_becomes_an_operation_once_the_store_works_again() {
    for goes_away in [true, false] {
        let refuses = Arc::new(AtomicBool::new(false));
        let store = refusing(&refuses);
        let (app, calls) = counting(&store);
        let headers = [KEY, ("prefer", "wait=2")];
        let first = request("POST /?ms=600000", &headers);
        let mut client = tokio::spawn(app.router.clone().oneshot(first));
        sleep(SECOND).await;
        refuses.store(true, Ordering::SeqCst);
        if goes_away {
            client.abort();
            assert!((&mut client).await.unwrap_err().is_cancelled());
        } else {
            // The client gets no address before the store has the record.
            sleep(SECOND * 2).await;
            assert!(!client.is_finished());
        }
        sleep(SECOND / 100).await;
        refuses.store(false, Ordering::SeqCst);
        sleep(SECOND * 2).await;
        if !goes_away {
            assert_eq!(client.await.unwrap().unwrap().status(), 202);
        }
        let again = app.ask("POST /?ms=600000", &headers).await;
        assert_eq!((again.status.as_u16(), calls.get()), (202, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_result_counts_although_its_end_could_not_be_stored() {
    let refuses = Arc::new(AtomicBool::new(false));
    let store = refusing(&refuses);
    let layer = OperationLayer::new(store.backend()).max_stored_bytes(300_000);
    let app = App::new(layer, async |_: Request| {
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
async fn a_result_that_could_not_be_stored_leaves_nothing_behind() {
    let store = Stepping::failing(|at, key| {
        let fails = at == At::BeforeWrite && key.contains("/result/") && key.ends_with("/2");
        fails.then_some(BackendError::too_large(2, 1))
    });
    let app = App::new(OperationLayer::new(store.backend()), async |_: Request| {
        sleep(SECOND * 3).await;
        vec![b'x'; 200_000]
    });
    let path = app.start("POST /", &[]).await;
    assert_eq!(app.ended(&path).await["error"]["code"], "ResultTooLarge");
    let left = store.left().await;
    let results: Vec<_> = left.iter().filter(|key| key.contains("/result/")).collect();
    assert!(results.is_empty(), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_stores_a_large_result_slowly_is_not_lost() {
    let store = Stepping::slow(SECOND * 4, |at, key| {
        at == At::BeforeWrite && key.contains("/result/")
    });
    let here = App::new(OperationLayer::new(store.backend()), async |_: Request| {
        sleep(SECOND * 3).await;
        vec![b'x'; 600_000]
    });
    let there = App::working(OperationLayer::new(store.backend()));
    let path = here.start("POST /", &[]).await;
    assert_eq!(there.ended(&path).await["status"], "Succeeded");
    let result = there.get(&format!("{path}/result")).await;
    assert_eq!(result.body.len(), 600_000);
}

#[tokio::test(start_paused = true)]
async fn a_draining_process_starts_no_operation() {
    let gate = Gate::new();
    let store = Stepping::gated(&gate, |at, key| {
        at == At::BeforeWrite && key.contains("/record/")
    });
    let app = App::working(OperationLayer::new(store.backend()));
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
async fn a_key_that_is_claimed_when_the_process_starts_to_drain_is_free_for_others() {
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

/// Work that blocks its thread until the sender is dropped.
fn blocking(layer: tower_promises_operations::OperationLayer) -> (App, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let app = App::new(layer, move |_: Request| {
        let released = released.clone();
        async move {
            let _ = released.lock().unwrap().recv();
        }
    });
    (app, release)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn work_that_blocks_its_thread_does_not_keep_the_process_from_ending() {
    let (app, release) = blocking(test_support::operation::memory());
    let path = app.start("POST /", &[("prefer", "respond-async")]).await;
    let drain = app.operations.drain(Duration::ZERO);
    assert_eq!(soon(drain).await, 1);
    assert_eq!(app.document(&path).await["error"]["code"], "ShuttingDown");
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn section_7_work_that_blocks_its_thread_has_a_lifetime_too() {
    let layer = test_support::operation::memory()
        .lifetime(SECOND)
        .max_running(1);
    let (app, release) = blocking(layer);
    let path = app.start("POST /", &[("prefer", "respond-async")]).await;
    let ended = soon(app.ended(&path)).await;
    assert_eq!(ended["error"]["code"], "LifetimeExceeded");
    // The work still runs, so no other work may start.
    assert_eq!(app.ask("POST /", &[]).await.status, 503);
    drop(release);
    eventually::until("there is room again", async || {
        app.ask("POST /", &[]).await.status != 503
    })
    .await;
}

/// A service that refuses its first call after `ms` milliseconds, and then sets `refused`.
fn refusing_once(store: &Stepping, refused: &Arc<AtomicBool>) -> (App, Counter) {
    let (calls, refused) = (Counter::default(), refused.clone());
    let counted = calls.clone();
    let layer = OperationLayer::new(store.backend()).idempotency_keys(true);
    let app = App::new(layer, move |request: Request| {
        let call = counted.get();
        counted.add();
        let refused = refused.clone();
        async move {
            sleep(Duration::from_millis(number(&request, "ms").unwrap_or(0))).await;
            let status = if call == 0 {
                refused.store(true, Ordering::SeqCst);
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::CREATED
            };
            (status, format!("call {call}"))
        }
    });
    (app, calls)
}

#[tokio::test(start_paused = true)]
async fn section_7_a_refused_request_is_never_500() {
    let store = Stepping::slow(SECOND / 100, |_, _| true);
    let (app, calls) = refusing_once(&store, &Arc::default());
    let mut clients = Vec::new();
    for _ in 0..400 {
        let client = app.clone();
        clients.push(tokio::spawn(async move {
            client.ask("POST /?ms=100", &[KEY]).await
        }));
        sleep(SECOND / 1000).await;
    }
    let mut answers = BTreeSet::new();
    for client in clients {
        let answer = client.await.unwrap();
        let call = answer.body.starts_with("call").then_some(answer.body);
        answers.insert((answer.status.as_u16(), call));
    }
    let called = |number: u8| Some(format!("call {number}"));
    let expected = [(201, called(1)), (409, None), (503, called(0))];
    assert_eq!(answers, expected.into());
    assert_eq!(calls.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn section_7_a_process_that_dies_while_it_forgets_leaves_a_free_key() {
    for writes in 1..=6 {
        let refused = Arc::new(AtomicBool::new(false));
        let (has_refused, done) = (refused.clone(), AtomicUsize::new(0));
        // No write of the process arrives after this number of changes.
        let store = Stepping::gated(&Gate::new(), move |at, _| {
            has_refused.load(Ordering::SeqCst)
                && match at {
                    At::BeforeWrite => done.load(Ordering::SeqCst) >= writes,
                    _ => done.fetch_add(1, Ordering::SeqCst) >= writes,
                }
        });
        let (here, _) = refusing_once(&store, &refused);
        let (there, calls) = counting(&store.elsewhere());
        let line = "POST /?ms=100";
        let client = tokio::spawn(here.router.clone().oneshot(request(line, &[KEY])));
        sleep(SECOND).await;
        assert!(refused.load(Ordering::SeqCst));
        for _ in 0..2 {
            let answer = there.ask(line, &[KEY]).await;
            let answer = (answer.status.as_u16(), calls.get());
            assert_eq!(answer, (200, 1), "after {writes} writes");
        }
        client.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_a_store_that_fails_at_the_deadline_gives_out_no_unknown_address() {
    let refuses = Arc::new(AtomicBool::new(false));
    let (app, calls) = refusing_once(&refusing(&refuses), &Arc::default());
    let client = app.clone();
    let client = tokio::spawn(async move { client.ask("POST /?ms=1950", &[KEY]).await });
    sleep(Duration::from_millis(1900)).await;
    refuses.store(true, Ordering::SeqCst);
    // The layer forgets the refusal at 1950 ms, and tries again at 2025 ms or later. The client waits until 2000 ms, and
    // its id is announced again at 2075 ms or later.
    sleep(Duration::from_millis(115)).await;
    refuses.store(false, Ordering::SeqCst);
    let answer = client.await.unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.body), (503, "call 0"));
    assert_eq!(app.ask("POST /", &[KEY]).await.status, 201);
    assert_eq!(calls.get(), 2);
}

/// A service that works on one request at a time.
fn one_at_a_time(
    layer: OperationLayer,
) -> (
    impl Service<
        Request,
        Response = http::Response<tower_promises_operations::OperationBody<Body>>,
        Error = BoxError,
        Future: Send,
    > + Clone
    + Send
    + 'static,
    Counter,
) {
    let calls = Counter::default();
    let counted = calls.clone();
    let service = ServiceBuilder::new()
        .layer(layer)
        .concurrency_limit(1)
        .service_fn(move |request: http::Request<OperationRequestBody<Body>>| {
            counted.add();
            async move { Ok::<_, BoxError>(work(request.map(Body::new)).await) }
        });
    (service, calls)
}

async fn send<S>(service: &S, line: &str, headers: &[(&str, &str)]) -> Answer
where
    S: Service<
            Request,
            Response = http::Response<tower_promises_operations::OperationBody<Body>>,
            Error = BoxError,
        > + Clone,
{
    let response = service.clone().oneshot(request(line, headers)).await;
    read(response.unwrap().map(Body::new)).await
}

#[tokio::test(start_paused = true)]
async fn section_7_work_that_never_began_is_not_remembered_after_drain_or_lifetime() {
    // The process ends, or the lifetime of the operation.
    for (drains, lifetime, code) in [
        (true, SECOND * 3600, "ShuttingDown"),
        (false, SECOND * 10, "LifetimeExceeded"),
    ] {
        let backend = Backend::memory();
        let layer = || {
            OperationLayer::new(backend.clone())
                .idempotency_keys(true)
                .lifetime(lifetime)
        };
        let here = layer();
        let operations = here.operations();
        let (here, calls) = one_at_a_time(here);
        // This request stays on its connection, so it has no lifetime.
        let busy = tokio::spawn(here.clone().oneshot(request("GET /?ms=900000", &[])));
        until("the service is busy", || calls.get() == 1).await;
        let waiting = here.clone();
        let waiting =
            tokio::spawn(
                async move { send(&waiting, "POST /", &[KEY, ("prefer", "wait=30")]).await },
            );
        let told = ("idempotency-key", "told");
        let path = send(&here, "POST /", &[told, ("prefer", "respond-async")]).await;
        assert_eq!(path.status, 202);
        let path = format!("GET {}", path.header("operation-location"));
        sleep(SECOND).await;
        if drains {
            assert_eq!(operations.drain(SECOND).await, 2);
        }
        let first = waiting.await.unwrap();
        assert_eq!((first.status.as_u16(), calls.get()), (503, 1), "{code}");
        assert_eq!(first.header("retry-after"), "1");
        assert_eq!(first.header("vary"), "Accept, Prefer");
        assert_eq!(send(&here, &path, &[]).await.json()["error"]["code"], code);

        let (there, calls) = one_at_a_time(layer());
        for key in [KEY, told] {
            assert_eq!(send(&there, "POST /", &[key]).await.status, 200, "{code}");
        }
        assert_eq!(calls.get(), 2);
        busy.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn section_7_work_that_has_begun_is_remembered_after_drain_or_lifetime() {
    for (drains, remembered) in [(true, 500), (false, 410)] {
        let store = Stepping::plain();
        let layer = OperationLayer::new(store.backend()).idempotency_keys(true);
        let here = App::working(layer.lifetime(SECOND * 10));
        let headers = [KEY, ("prefer", "wait=30")];
        let client = here.clone();
        let client = tokio::spawn(async move { client.ask("POST /?ms=900000", &headers).await });
        sleep(SECOND).await;
        if drains {
            assert_eq!(here.operations.drain(SECOND).await, 1);
        }
        assert_eq!(client.await.unwrap().status, remembered);
        let (there, calls) = counting(&store.elsewhere());
        let again = there.ask("POST /?ms=900000", &headers).await;
        assert_eq!((again.status.as_u16(), calls.get()), (remembered, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn section_7_work_that_blocks_its_thread_has_begun() {
    let layer = test_support::operation::memory()
        .idempotency_keys(true)
        .lifetime(SECOND / 10);
    let (app, release) = blocking(layer);
    for _ in 0..2 {
        assert_eq!(soon(app.ask("POST /", &[KEY])).await.status, 410);
    }
    drop(release);
}
