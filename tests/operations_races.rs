//! Operations whose backend is slow, unsure or refuses at the worst moment, and work that cannot be dropped.
#![allow(clippy::unwrap_used)]

#[path = "support/operation.rs"]
mod operation;
mod support;

use axum::extract::Request;
use bytes::Bytes;
use operation::{App, SECOND, request, work};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use support::{Counter, until};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_promises::OperationLayer;
use tower_promises::backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, CompareAndSet, Entry, Revision, Store, WatchStream,
};

const KEY: (&str, &str) = ("idempotency-key", "8e03978e-40d5-43dd-bc93-6894a57f9324");

/// When a step happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    BeforeWrite,
    AfterWrite,
    AfterDelete,
}

type Step = dyn Fn(At, &str) -> BoxFuture<'static, Result<(), BackendError>> + Send + Sync;

/// A store that does something more before and after each change, and knows what was ever written.
#[derive(Clone)]
struct Stepping {
    store: MemoryStore,
    step: Arc<Step>,
    written: Arc<Mutex<BTreeSet<String>>>,
}

impl Stepping {
    fn new<F>(step: impl Fn(At, &str) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), BackendError>> + Send + 'static,
    {
        Self {
            store: MemoryStore::new(),
            step: Arc::new(move |at, key| Box::pin(step(at, key))),
            written: Arc::default(),
        }
    }

    fn backend(&self) -> Backend {
        Backend::new(self.clone(), MemoryBus::new(), MemoryQueue::new())
    }

    /// What is still there.
    async fn left(&self) -> Vec<String> {
        let written = self.written.lock().unwrap().clone();
        let mut left = Vec::new();
        for key in written {
            if self.store.get(&key).await.unwrap().is_some() {
                left.push(key);
            }
        }
        left
    }
}

impl Store for Stepping {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        self.store.get(key)
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        Box::pin(async move {
            self.written.lock().unwrap().insert(key.to_owned());
            (self.step)(At::BeforeWrite, key).await?;
            let put = self.store.put(key, value, time_to_live).await?;
            (self.step)(At::AfterWrite, key).await?;
            Ok(put)
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        Box::pin(async move {
            self.written.lock().unwrap().insert(key.to_owned());
            (self.step)(At::BeforeWrite, key).await?;
            let set = self
                .store
                .compare_and_set(key, expected, value, time_to_live);
            let set = set.await?;
            (self.step)(At::AfterWrite, key).await?;
            Ok(set)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let deleted = self.store.delete(key).await?;
            (self.step)(At::AfterDelete, key).await?;
            Ok(deleted)
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

/// A service with idempotency keys that counts its calls.
fn counting(store: &Stepping) -> (App, Counter) {
    let calls = Counter::default();
    let counted = calls.clone();
    let builder = OperationLayer::builder(store.backend()).idempotency_keys(true);
    let app = App::new(builder, move |request: Request| {
        counted.add();
        work(request)
    });
    (app, calls)
}

/// Keeps whoever comes waiting until it is opened.
#[derive(Clone)]
struct Gate {
    arrivals: Counter,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self {
            arrivals: Counter::default(),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    async fn pass(self) {
        self.arrivals.add();
        let _ = self.open.acquire().await.unwrap();
    }

    fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_its_key_is_taken_comes_back_for_the_result() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let store = Stepping::new(move |at, key| {
        let waits = at == At::AfterWrite && key.starts_with("operation/key/");
        let gate = at_gate.clone();
        async move {
            if waits {
                gate.pass().await;
            }
            Ok(())
        }
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
    let store = Stepping::new(move |at, key| {
        let fails = at == At::AfterWrite
            && key.starts_with("operation/key/")
            && !has_failed.swap(true, Ordering::SeqCst);
        async move {
            match fails {
                true => Err(BackendError::unavailable("it has not answered")),
                false => Ok(()),
            }
        }
    });
    let (app, calls) = counting(&store);
    assert_eq!(app.ask("POST /", &[KEY]).await.status, 503);
    assert_eq!(calls.get(), 0);
    let answer = app.ask("POST /", &[KEY]).await;
    assert_eq!((answer.status.as_u16(), calls.get()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn section_4_what_is_removed_while_it_ends_is_unknown_and_not_expired() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = is_slow.clone();
    let store = Stepping::new(move |at, key| {
        let waits =
            at == At::BeforeWrite && key.contains("tombstone") && slow.load(Ordering::SeqCst);
        async move {
            if waits {
                sleep(SECOND).await;
            }
            Ok(())
        }
    });
    let app = App::working(OperationLayer::builder(store.backend()));
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
    // Once more, in case the second came too late to remove it.
    app.ask(&line, &[]).await;
    assert_eq!(app.get(&path).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn section_4_what_is_being_removed_is_unknown_and_not_expired() {
    let gate = Gate::new();
    let is_removing = Arc::new(AtomicBool::new(false));
    let (at_gate, removing) = (gate.clone(), is_removing.clone());
    let store = Stepping::new(move |at, key| {
        let waits = at == At::AfterDelete
            && key.starts_with("operation/record/")
            && removing.load(Ordering::SeqCst);
        let gate = at_gate.clone();
        async move {
            if waits {
                gate.pass().await;
            }
            Ok(())
        }
    });
    let app = App::working(OperationLayer::builder(store.backend()));
    let path = app.start("POST /?ms=3000", &[]).await;
    app.ended(&path).await;
    is_removing.store(true, Ordering::SeqCst);
    let (client, line) = (app.clone(), format!("DELETE {path}"));
    let delete = tokio::spawn(async move { client.ask(&line, &[]).await });
    until("it is removed", || gate.arrivals.get() == 1).await;
    for part in ["", "/result", "/events"] {
        assert_eq!(app.get(&format!("{path}{part}")).await.status, 404);
    }
    gate.open();
    assert_eq!(delete.await.unwrap().status, 204);
}

#[tokio::test(start_paused = true)]
async fn section_4_what_is_removed_before_its_end_is_stored_stays_unknown() {
    let gate = Gate::new();
    let ends = Arc::new(AtomicBool::new(false));
    let (at_gate, ending) = (gate.clone(), ends.clone());
    let store = Stepping::new(move |at, key| {
        // The first one that tells of the end is the work's own.
        let waits = at == At::BeforeWrite
            && key.contains("tombstone")
            && ending.swap(false, Ordering::SeqCst);
        let gate = at_gate.clone();
        async move {
            if waits {
                gate.pass().await;
            }
            Ok(())
        }
    });
    let app = App::working(OperationLayer::builder(store.backend()).lease(SECOND * 1000));
    let path = app.start("POST /?ms=3000", &[]).await;
    ends.store(true, Ordering::SeqCst);
    until_passed(&gate).await;
    let line = format!("DELETE {path}");
    assert_eq!(app.ask(&line, &[]).await.status, 200);
    assert_eq!(app.ask(&line, &[]).await.status, 204);
    gate.open();
    sleep(SECOND).await;
    assert_eq!(app.get(&path).await.status, 404);
    assert_eq!(store.left().await, [""; 0]);
}

/// A store in which whoever changes a record waits at a gate once it is armed.
fn gated(gate: &Gate, at: At, armed: &Arc<AtomicBool>) -> Stepping {
    let (gate, armed) = (gate.clone(), armed.clone());
    Stepping::new(move |now, key| {
        let waits = now == at
            && key.starts_with("operation/record/")
            && armed.swap(false, Ordering::SeqCst);
        let gate = gate.clone();
        async move {
            if waits {
                gate.pass().await;
            }
            Ok(())
        }
    })
}

/// Sends a request and goes away while it is at the gate, which opens then.
async fn ask_and_vanish(app: &App, gate: &Gate, line: &str) {
    let client = tokio::spawn(app.router.clone().oneshot(request(line, &[])));
    until("it is at the gate", || gate.arrivals.get() == 1).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_it_removes_leaves_nothing_behind() {
    let (gate, armed) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let store = gated(&gate, At::AfterDelete, &armed);
    let app = App::new(
        OperationLayer::builder(store.backend()),
        async |_: Request| {
            sleep(SECOND * 3).await;
            vec![b'x'; 200_000]
        },
    );
    let path = app.start("POST /", &[]).await;
    app.ended(&path).await;
    armed.store(true, Ordering::SeqCst);
    ask_and_vanish(&app, &gate, &format!("DELETE {path}")).await;
    sleep(SECOND).await;
    assert_eq!(store.left().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_while_it_cancels_is_heard() {
    for line in ["DELETE {}", "POST {}/cancel"] {
        let (gate, armed) = (Gate::new(), Arc::new(AtomicBool::new(false)));
        let store = gated(&gate, At::AfterWrite, &armed);
        let dropped = Counter::default();
        let counter = dropped.clone();
        let builder = OperationLayer::builder(store.backend()).lease(SECOND * 600);
        let app = App::new(builder, move |_: Request| {
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

/// Waits until somebody is at the gate, while time goes on.
async fn until_passed(gate: &Gate) {
    let arrives = async {
        while gate.arrivals.get() == 0 {
            sleep(SECOND / 10).await;
        }
    };
    timeout(SECOND * 60, arrives).await.expect("somebody comes");
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_leaves_nothing_behind() {
    let store = Stepping::new(|_, _| async { Ok(()) });
    let builder = OperationLayer::builder(store.backend()).idempotency_keys(true);
    let app = App::new(builder, async |_: Request| {
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
async fn what_is_removed_is_gone_although_the_store_fails_then() {
    let store = Stepping::new(|at, key| {
        let fails = at == At::AfterDelete && key.contains("/result/");
        async move {
            match fails {
                true => Err(BackendError::unavailable("it has not answered")),
                false => Ok(()),
            }
        }
    });
    let (app, calls) = counting(&store);
    let line = "POST /?ms=3000";
    let path = app.start(line, &[KEY]).await;
    assert_eq!(app.ended(&path).await["status"], "Succeeded");
    assert_eq!(app.ask(&format!("DELETE {path}"), &[]).await.status, 204);
    assert_eq!(app.ask(&format!("GET {path}"), &[]).await.status, 404);
    // Its key is free.
    app.start(line, &[KEY]).await;
    assert_eq!(calls.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_takes_a_key_again_keeps_it() {
    let store = Stepping::new(|_, _| async { Ok(()) });
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
    Stepping::new(move |at, key| {
        let fails = at == At::BeforeWrite
            && key.starts_with("operation/record/")
            && refuses.load(Ordering::SeqCst);
        async move {
            match fails {
                true => Err(BackendError::unavailable("it does not answer")),
                false => Ok(()),
            }
        }
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
async fn section_7_who_waits_for_what_is_removed_is_not_sent_to_it() {
    let store = Stepping::new(|_, _| async { Ok(()) });
    // Each has a bus of its own, so neither hears of the other.
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
async fn what_another_process_has_cancelled_and_removed_does_not_count() {
    let store = Stepping::new(|_, _| async { Ok(()) });
    // Each has a bus of its own, so neither hears of the other.
    let [here, there] = [(); 2]
        .map(|()| App::working(OperationLayer::builder(store.backend()).max_stored_bytes(1024)));
    let path = here.start("POST /?ms=600000", &[]).await;
    let line = format!("DELETE {path}");
    assert_eq!(there.ask(&line, &[]).await.status, 200);
    // Before the process that works on it has looked after it.
    assert_eq!(there.ask(&line, &[]).await.status, 204);
    sleep(SECOND * 60).await;
    assert_eq!(here.operations.running(), 0);
    assert_eq!(here.ask("POST /", &[]).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn of_a_result_that_could_not_be_stored_nothing_stays() {
    let store = Stepping::new(|at, key| {
        let fails = at == At::BeforeWrite && key.contains("/result/") && key.ends_with("/2");
        async move {
            match fails {
                true => Err(BackendError::TooLarge { size: 2, limit: 1 }),
                false => Ok(()),
            }
        }
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
    let store = Stepping::new(|at, key| {
        let waits = at == At::BeforeWrite && key.contains("/result/");
        async move {
            if waits {
                sleep(SECOND * 4).await;
            }
            Ok(())
        }
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
    let at_gate = gate.clone();
    let store = Stepping::new(move |at, key| {
        let waits = at == At::BeforeWrite && key.contains("/record/");
        let gate = at_gate.clone();
        async move {
            if waits {
                gate.pass().await;
            }
            Ok(())
        }
    });
    let app = App::working(OperationLayer::builder(store.backend()));
    let client = app.clone();
    let client = tokio::spawn(async move { client.ask("POST /?ms=9000", &[]).await });
    while gate.arrivals.get() == 0 {
        sleep(SECOND / 10).await;
    }
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
    let at_gate = gate.clone();
    let store = Stepping::new(move |at, key| {
        let waits = at == At::BeforeWrite && key.starts_with("operation/key/");
        let gate = at_gate.clone();
        async move {
            if waits {
                gate.pass().await;
            }
            Ok(())
        }
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
    assert_eq!(timeout(SECOND * 20, drain).await.unwrap(), 1);
    assert_eq!(app.document(&path).await["error"]["code"], "ShuttingDown");
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn section_7_work_that_blocks_its_thread_has_a_lifetime_too() {
    let builder = operation::memory()
        .lifetime(Duration::from_millis(10))
        .max_running(1);
    let (app, release) = blocking(builder);
    let path = app.start("POST /", &[("prefer", "respond-async")]).await;
    let ended = timeout(SECOND * 20, app.ended(&path)).await.unwrap();
    assert_eq!(ended["error"]["code"], "LifetimeExceeded");
    // It is still there, and others must not come on top of it.
    assert_eq!(app.ask("POST /", &[]).await.status, 503);
    drop(release);
    let again = async {
        while app.ask("POST /", &[]).await.status == 503 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SECOND * 20, again).await.unwrap();
}
