//! Operations on two machines that share a backend, and the effects of the end of a machine.

use axum::extract::Request;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::eventually::{eventually, soon};
use test_support::operation::{App, SECOND, progress, two_machines};
use test_support::{Counter, until};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Bus, BusStream, CompareAndSet, Entry, Page, Revision, Store,
    WatchStream,
};
use tower_promises_operations::OperationLayer;

/// The lease by default.
const LEASE: Duration = Duration::from_secs(15);

// Contract: 4.8
#[tokio::test(start_paused = true)]
async fn any_machine_answers_for_every_operation() {
    let [here, there] = two_machines(|layer| layer);
    let path = here.start("POST /?ms=10000&steps=5", &[]).await;
    sleep(SECOND * 3).await;
    let document = there.document(&path).await;
    assert_eq!(
        (document["status"].as_str(), document["progress"].as_u64()),
        (Some("Running"), Some(40))
    );
    assert_eq!(there.get(&format!("{path}/result")).await.status, 202);
    assert_eq!(there.ended(&path).await["status"], "Succeeded");
    for part in ["", "/result"] {
        let path = format!("{path}{part}");
        assert_eq!(there.get(&path).await, here.get(&path).await);
    }
    assert_eq!(there.ask(&format!("DELETE {path}"), &[]).await.status, 204);
    assert_eq!(here.get(&path).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_another_machine_removes_or_reads_makes_room() {
    for once in [false, true] {
        let backend = Backend::memory();
        let [here, there] = [(); 2].map(|()| {
            let layer = OperationLayer::new(backend.clone());
            let layer = layer.max_stored_bytes(3000).result_once(once);
            App::new(layer, async |_: Request| {
                sleep(SECOND * 9).await;
                vec![b'x'; 900]
            })
        });
        let path = here.start("POST /", &[]).await;
        here.ended(&path).await;
        if once {
            assert_eq!(there.get(&format!("{path}/result")).await.status, 200);
        } else {
            assert_eq!(there.ask(&format!("DELETE {path}"), &[]).await.status, 204);
        }
        sleep(SECOND).await;
        let path = here.start("POST /", &[]).await;
        assert_eq!(here.ended(&path).await["status"], "Succeeded", "{once}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_machine_that_works() {
    let dropped = Counter::default();
    let counter = dropped.clone();
    let backend = Backend::memory();
    let here = App::new(OperationLayer::new(backend.clone()), move |_: Request| {
        let guard = counter.on_drop();
        async move {
            sleep(SECOND * 600).await;
            drop(guard);
        }
    });
    let there = App::working(OperationLayer::new(backend));
    let path = here.start("POST /", &[]).await;
    let start = Instant::now();
    let answer = there.ask(&format!("DELETE {path}"), &[]).await;
    assert_eq!(answer.json()["status"], "Canceled");
    until("the work is dropped", || dropped.get() == 1).await;
    assert!(
        start.elapsed() < SECOND,
        "the cancel does not wait for the slow poll"
    );
    until("the operation has ended", || here.operations.running() == 0).await;
    assert_eq!(here.document(&path).await, answer.json());
}

/// A backend that can lose messages and fail.
#[derive(Clone)]
struct Unreliable {
    store: MemoryStore,
    bus: MemoryBus,
    is_deaf: Arc<AtomicBool>,
    is_down: Arc<AtomicBool>,
}

impl Unreliable {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            bus: MemoryBus::new(),
            is_deaf: Arc::default(),
            is_down: Arc::default(),
        }
    }

    fn backend(&self) -> Backend {
        Backend::new(self.clone(), self.clone(), MemoryQueue::new())
    }

    /// The same backend for a machine that can always reach it.
    fn reliable(&self) -> Backend {
        Backend::new(self.store.clone(), self.bus.clone(), MemoryQueue::new())
    }

    fn unless_down<'a, T: 'a>(
        &'a self,
        answer: BoxFuture<'a, Result<T, BackendError>>,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        if self.is_down.load(Ordering::SeqCst) {
            return Box::pin(async { Err(BackendError::unavailable("down")) });
        }
        answer
    }
}

impl Store for Unreliable {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        self.unless_down(self.store.get(key))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        assert!(
            value.len() <= 64 * 1024,
            "every store accepts at least 64 KiB"
        );
        self.unless_down(self.store.put(key, value, time_to_live))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        self.unless_down(
            self.store
                .compare_and_set(key, expected, value, time_to_live),
        )
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.unless_down(self.store.delete(key))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        self.unless_down(self.store.list(prefix, after, limit))
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        self.store.watch(prefix)
    }
}

impl Bus for Unreliable {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        if self.is_deaf.load(Ordering::SeqCst) {
            return Box::pin(async { Ok(()) });
        }
        self.bus.publish(topic, payload)
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        self.bus.listen()
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_takes_effect_although_its_message_is_lost() {
    let unreliable = Unreliable::new();
    unreliable.is_deaf.store(true, Ordering::SeqCst);
    let [here, there] = [(); 2]
        .map(|()| App::working(OperationLayer::new(unreliable.backend()).lease(SECOND * 15)));
    let path = here.start("POST /?ms=600000", &[]).await;
    there.ask(&format!("DELETE {path}"), &[]).await;
    let start = Instant::now();
    while here.operations.running() > 0 {
        sleep(SECOND / 10).await;
    }
    assert!(start.elapsed() <= SECOND * 6, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn reporting_work_notices_a_cancel_whose_message_is_lost() {
    let unreliable = Unreliable::new();
    unreliable.is_deaf.store(true, Ordering::SeqCst);
    let [here, there] = [(); 2].map(|()| App::working(OperationLayer::new(unreliable.backend())));
    let path = here.start("POST /?ms=600000&steps=1200", &[]).await;
    there.ask(&format!("DELETE {path}"), &[]).await;
    let start = Instant::now();
    while here.operations.running() > 0 {
        sleep(SECOND / 10).await;
    }
    assert!(start.elapsed() <= SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_down_keeps_requests_on_their_connection() {
    let unreliable = Unreliable::new();
    let app = App::working(OperationLayer::new(unreliable.backend()));
    let path = app.start("POST /?ms=9000", &[]).await;
    unreliable.is_down.store(true, Ordering::SeqCst);
    let answer = app.ask("POST /?ms=9000", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.body),
        (200, r#"{"answer":42}"#)
    );
    let answer = app.get(&path).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after")),
        (503, "1")
    );
    // The end of the first operation could not be stored at once.
    sleep(SECOND * 2).await;
    unreliable.is_down.store(false, Ordering::SeqCst);
    sleep(SECOND * 5).await;
    assert_eq!(app.document(&path).await["status"], "Succeeded");
}

/// Short, because tests wait for its end in real time. Long enough for a busy machine to renew it.
const SHORT_LEASE: Duration = Duration::from_secs(3);

/// Runs a machine on a runtime of its own, which is killed when the returned sender is dropped.
fn machine_to_be_killed(backend: Backend) -> (String, std::sync::mpsc::Sender<()>) {
    let (paths, path) = std::sync::mpsc::channel();
    let (kill, killed) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let path = runtime.block_on(async {
            let layer = OperationLayer::new(backend)
                .lease(SHORT_LEASE)
                .wait(Duration::ZERO);
            App::working(layer).start("POST /?ms=600000", &[]).await
        });
        paths.send(path).unwrap();
        let _ = killed.recv();
        runtime.shutdown_background();
    });
    (path.recv().unwrap(), kill)
}

// Contract: 7.16
#[tokio::test]
async fn section_7_running_operations_of_a_dead_process_are_lost() {
    let backend = Backend::memory();
    let (path, kill) = machine_to_be_killed(backend.clone());
    let there = App::working(OperationLayer::new(backend).lease(SHORT_LEASE));
    // While the machine is alive, its lease is renewed.
    let start = std::time::Instant::now();
    eventually("two leases have passed", async || {
        assert_eq!(there.document(&path).await["status"], "Running");
        (start.elapsed() > SHORT_LEASE * 2).then_some(())
    })
    .await;
    drop(kill);
    let lost = soon(there.ended(&path)).await;
    assert_eq!(lost["status"], "Failed");
    assert_eq!(lost["error"]["code"], "Lost");
    assert!(!lost["error"]["message"].as_str().unwrap().is_empty());
    let result = there.get(&format!("{path}/result")).await;
    assert_eq!(
        (result.status.as_u16(), result.header("asyncresult")),
        (500, "500")
    );
    assert_eq!(there.document(&path).await, lost);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_late_is_renewed() {
    let unreliable = Unreliable::new();
    let here = App::working(OperationLayer::new(unreliable.backend()));
    let there = App::working(OperationLayer::new(unreliable.reliable()));
    let path = here.start("POST /?ms=100000", &[]).await;
    for _ in 0..2 {
        unreliable.is_down.store(true, Ordering::SeqCst);
        sleep(LEASE * 3 / 2).await;
        // This read finds no lease, more than a lease time after an earlier read that found none either.
        assert_eq!(there.document(&path).await["status"], "Running");
        unreliable.is_down.store(false, Ordering::SeqCst);
        sleep(LEASE / 2).await;
        assert_eq!(there.document(&path).await["status"], "Running");
    }
    assert_eq!(there.ended(&path).await["status"], "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_taken_for_dead_changes_nothing_afterwards() {
    let unreliable = Unreliable::new();
    let (stall, mut stalls) = mpsc::channel::<()>(1);
    let here = App::working(OperationLayer::new(unreliable.backend()));
    let there = App::working(OperationLayer::new(unreliable.reliable()));
    let path = here.start("POST /?ms=40000", &[]).await;
    // The machine cannot reach the store, so its lease ends.
    unreliable.is_down.store(true, Ordering::SeqCst);
    tokio::spawn(async move {
        sleep(SECOND * 20).await;
        drop(stall);
    });
    assert!(stalls.recv().await.is_none());
    assert_eq!(there.document(&path).await["status"], "Running");
    sleep(LEASE).await;
    let lost = there.document(&path).await;
    assert_eq!(lost["error"]["code"], "Lost");
    unreliable.is_down.store(false, Ordering::SeqCst);
    sleep(SECOND * 60).await;
    assert_eq!(here.document(&path).await, lost);
    assert_eq!(here.operations.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn drain_waits_and_then_gives_up() {
    let [here, there] = two_machines(|layer| layer);
    let short = here.start("POST /?ms=5000", &[]).await;
    let long = here.start("POST /?ms=600000", &[]).await;
    let draining = here.clone();
    let draining = tokio::spawn(async move { draining.operations.drain(SECOND * 20).await });
    until("the machine drains", || !draining.is_finished()).await;
    sleep(SECOND / 10).await;
    // From now on slow requests stay on their connections, and status requests are still answered.
    let answer = here
        .ask("POST /?ms=6000", &[("prefer", "respond-async")])
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(here.document(&long).await["status"], "Running");
    let start = Instant::now();
    assert_eq!(draining.await.unwrap(), 1, "one operation was given up");
    assert!(start.elapsed() >= SECOND * 13, "{:?}", start.elapsed());
    assert_eq!(there.document(&short).await["status"], "Succeeded");
    let document = there.document(&long).await;
    assert_eq!(
        (
            document["status"].as_str(),
            document["error"]["code"].as_str()
        ),
        (Some("Failed"), Some("ShuttingDown"))
    );
    assert_eq!(here.operations.running(), 0);
    assert_eq!(there.operations.running(), 0);
    assert_eq!(here.operations.drain(SECOND * 20).await, 0);
}

#[tokio::test(start_paused = true)]
async fn drain_notifies_work_of_its_cancellation() {
    let told = Counter::default();
    let counter = told.clone();
    let app = App::new(
        test_support::operation::memory(),
        move |request: Request| {
            let (counter, progress) = (counter.clone(), progress(&request));
            async move {
                tokio::spawn(async move {
                    progress.cancelled().await;
                    counter.add();
                });
                sleep(SECOND * 600).await;
            }
        },
    );
    app.start("POST /", &[]).await;
    assert_eq!(app.operations.drain(SECOND).await, 1);
    until("the work is notified", || told.get() == 1).await;
}
