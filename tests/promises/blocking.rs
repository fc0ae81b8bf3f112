//! Promises that block a thread: limits, fairness, saturation, cancellation.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;
use test_support::eventually::{eventually, until};
use test_support::{Answer, Counter, ask, get, promises, text, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::blocking::{self, BlockingPool, OnSaturation};
use tower_promises::promise::{Rejection, Start};
use tower_promises::{BoxError, OrPending, PromiseError, PromiseLayer, Promises};

/// Controls a job that runs until it is released.
struct Gate {
    started: Receiver<()>,
    release: Sender<()>,
}

/// Creates a gate and its job.
fn gate() -> (Gate, impl FnOnce() + Send + 'static) {
    let (started_sender, started) = channel();
    let (release, released) = channel::<()>();
    let job = move || {
        started_sender.send(()).unwrap();
        // Returns also when the gate is dropped.
        let _ = released.recv();
    };
    (Gate { started, release }, job)
}

/// Waits until a job reports that it runs. Does not block the runtime.
async fn started(started: &Receiver<()>) {
    eventually("the job runs", async || started.try_recv().ok()).await;
}

impl Gate {
    /// Waits until the job runs, without blocking the runtime.
    async fn started(&self) {
        started(&self.started).await;
    }
}

async fn one_job(
    layer: PromiseLayer,
    job: impl FnOnce() + Send + 'static,
) -> Result<Answer, BoxError> {
    let job = Mutex::new(Some(job));
    ask(layer, |promises| {
        if let Some(job) = job.lock().unwrap().take() {
            promises.submit_blocking("job", job)?;
        }
        promises.result::<()>("job")?;
        Ok("done".to_owned())
    })
    .await
}

#[tokio::test]
async fn a_blocking_job_takes_two_passes() {
    let here = std::thread::current().id();
    let answer = ask(PromiseLayer::new(), |promises| {
        let value = promises.result_or_submit_blocking("x", move || {
            assert_ne!(std::thread::current().id(), here);
            assert!(!blocking::is_cancelled());
            let current = Promises::current().unwrap();
            format!("computed for pass {}", current.pass())
        })?;
        Ok(value)
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("computed for pass 1", 2)
    );
    assert!(!blocking::is_cancelled());
}

#[tokio::test]
async fn a_failing_job_and_a_panicking_job_are_errors() {
    let answer = ask(PromiseLayer::new(), |promises| {
        let failed = promises.result_or_try_submit_blocking("a", || Err::<(), _>("no luck"));
        let panicked = promises.result_or_submit_blocking::<()>("b", || panic!("no tea"));
        if promises.pass() == 1 {
            return Ok(String::new());
        }
        Ok(format!(
            "{}, {}",
            failed.unwrap_err(),
            panicked.unwrap_err()
        ))
    });
    let body = answer.await.unwrap().body;
    assert_eq!(body, "promise `a` failed, promise `b` panicked: no tea");
}

#[tokio::test]
async fn no_more_jobs_run_than_max_running() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // Each job waits for another job, so that two jobs run at a time.
    let pair = Arc::new(Barrier::new(2));
    let layer = PromiseLayer::new().blocking(BlockingPool::builder().max_running(2).build());
    let answer = ask(layer, |promises| {
        for index in 0..20 {
            let (now, most, pair) = (now.clone(), most.clone(), pair.clone());
            let read = promises.result_or_submit_blocking(format!("{index}"), move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                pair.wait();
                now.fetch_sub(1, Ordering::SeqCst);
            });
            read.or_pending(())?;
        }
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().passes, 2);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn other_requests_are_served_while_the_pool_is_full() {
    // This runtime has one thread, so a job on that thread would block the test.
    let pool = BlockingPool::builder().max_running(1).build();
    let layer = PromiseLayer::new().blocking(pool.clone());
    let (first_gate, first) = gate();
    let (second_gate, second) = gate();
    let busy = tokio::spawn(one_job(layer.clone(), first));
    let waiting = tokio::spawn(one_job(layer.clone(), second));
    first_gate.started().await;
    until("a job waits", async || pool.waiting() > 0).await;
    assert_eq!((pool.running(), pool.waiting()), (1, 1));
    for _ in 0..100 {
        let answer = ask(layer.clone(), |promises| {
            Ok(promises.result_or_submit("quick", async || 7)?.to_string())
        });
        assert_eq!(answer.await.unwrap().body, "7");
    }
    first_gate.release.send(()).unwrap();
    assert_eq!(busy.await.unwrap().unwrap().body, "done");
    drop(second_gate.release);
    assert_eq!(waiting.await.unwrap().unwrap().body, "done");
    assert_eq!((pool.running(), pool.waiting()), (0, 0));
}

#[tokio::test]
async fn a_saturated_pool_is_a_value_or_a_rejection() {
    for (on_saturation, status) in [(OnSaturation::Error, 200), (OnSaturation::Reject, 503)] {
        let pool = BlockingPool::builder()
            .max_running(1)
            .max_waiting(0)
            .on_saturation(on_saturation)
            .retry_after(Duration::from_millis(1500))
            .build();
        let layer = PromiseLayer::new().blocking(pool);
        let (gate, job) = gate();
        let busy = tokio::spawn(one_job(layer.clone(), job));
        gate.started().await;

        let service =
            layer
                .clone()
                .layer(service_fn(async |request: test_support::TestRequest| {
                    let promises = promises(&request);
                    // A promise that never settles must not delay the rejection.
                    if on_saturation == OnSaturation::Reject {
                        let _ = promises.submit("slow", std::future::pending::<()>());
                    }
                    match promises.result_or_submit_blocking("x", || ()) {
                        Err(PromiseError::Rejected { error, .. }) => {
                            Ok(text_response(error.to_string()))
                        }
                        read => Ok::<_, BoxError>(read.map(|()| text_response("never"))?),
                    }
                }));
        let response = service.oneshot(get("/")).await.unwrap();
        assert_eq!(response.status(), status);
        if status == 503 {
            assert_eq!(response.headers()["retry-after"], "2");
            let rejection = response.extensions().get::<Rejection>().unwrap();
            assert!(matches!(rejection, Rejection::Saturated { .. }));
            let body = text(response.into_body()).await;
            assert!(body.contains("The server is busy."), "{body}");
        } else {
            let body = text(response.into_body()).await;
            assert_eq!(
                body,
                "promise `x` finds no room in the pool for blocking promises"
            );
        }
        drop(gate.release);
        assert_eq!(busy.await.unwrap().unwrap().body, "done");
        // The pool has room again.
        assert_eq!(one_job(layer, || ()).await.unwrap().body, "done");
    }
}

#[tokio::test]
async fn a_job_whose_request_was_dropped_never_starts() {
    let pool = BlockingPool::builder()
        .max_running(1)
        .max_waiting(1)
        .build();
    let layer = PromiseLayer::new().blocking(pool.clone());
    let (gate, job) = gate();
    let busy = tokio::spawn(one_job(layer.clone(), job));
    gate.started().await;

    let (ran, dropped) = (Counter::default(), Counter::default());
    let (counter, guard) = (ran.clone(), dropped.on_drop());
    let gone = tokio::spawn(one_job(layer.clone(), move || {
        let _guard = guard;
        counter.add();
    }));
    until("a job waits", async || pool.waiting() > 0).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!((pool.waiting(), dropped.get()), (0, 1));

    // The dropped job no longer occupies a place in the queue.
    let next = tokio::spawn(one_job(layer, || ()));
    until("a job waits", async || pool.waiting() > 0).await;
    drop(gate.release);
    assert_eq!(busy.await.unwrap().unwrap().body, "done");
    assert_eq!(next.await.unwrap().unwrap().body, "done");
    assert_eq!(ran.get(), 0);
}

#[tokio::test]
async fn a_running_job_sees_its_cancellation() {
    let (started_sender, started) = channel();
    let (ended_sender, ended) = tokio::sync::oneshot::channel();
    let request = tokio::spawn(one_job(PromiseLayer::new(), move || {
        started_sender.send(()).unwrap();
        while !blocking::is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        ended_sender.send("gave up").unwrap();
    }));
    self::started(&started).await;
    request.abort();
    assert_eq!(ended.await.unwrap(), "gave up");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_too_long_is_cancelled() {
    let (started_sender, started) = channel();
    let (ended_sender, ended) = tokio::sync::oneshot::channel();
    let layer = PromiseLayer::new().promise_timeout(Duration::from_secs(1));
    let request = tokio::spawn(one_job(layer, move || {
        started_sender.send(()).unwrap();
        while !blocking::is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = ended_sender.send(());
    }));
    self::started(&started).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let error = request
        .await
        .unwrap()
        .unwrap_err()
        .downcast::<PromiseError>();
    assert!(matches!(*error.unwrap(), PromiseError::TimedOut { .. }));
    ended.await.unwrap();
}

#[tokio::test]
async fn requests_take_turns() {
    let pool = BlockingPool::builder()
        .max_running(1)
        .max_waiting(100)
        .build();
    let layer = PromiseLayer::new().blocking(pool.clone());
    let order = Arc::new(Mutex::new(Vec::new()));
    let (gate, job) = gate();
    let busy = tokio::spawn(one_job(layer.clone(), job));
    gate.started().await;

    let mut requests = Vec::new();
    for (name, jobs) in [("greedy", 5), ("modest", 1), ("second", 2)] {
        let (layer, order, before) = (layer.clone(), order.clone(), pool.waiting());
        requests.push(tokio::spawn(async move {
            let answer = ask(layer, |promises| {
                for index in 0..jobs {
                    let order = order.clone();
                    let job = move || order.lock().unwrap().push(name);
                    let _ = promises.result_or_submit_blocking(format!("{index}"), job);
                }
                Ok(String::new())
            });
            answer.await.map(drop)
        }));
        until("the jobs of the request wait", async || {
            pool.waiting() == before + jobs
        })
        .await;
    }
    drop(gate.release);
    busy.await.unwrap().unwrap();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert_eq!(
        *order.lock().unwrap(),
        [
            "greedy", "modest", "second", "greedy", "second", "greedy", "greedy", "greedy"
        ]
    );
}

#[tokio::test]
async fn cancelled_jobs_use_up_no_turns() {
    tokio::task::LocalSet::new()
        .run_until(cancelled_jobs())
        .await;
}

async fn cancelled_jobs() {
    let pool = BlockingPool::builder()
        .max_running(1)
        .max_waiting(100)
        .build();
    let layer = PromiseLayer::new().blocking(pool.clone());
    let order = Arc::new(Mutex::new(Vec::new()));
    let (gate, job) = gate();
    let busy = tokio::spawn(one_job(layer.clone(), job));
    gate.started().await;

    // Both requests have ten jobs in the queue, and the first cancels nine of them.
    let mut requests = Vec::new();
    for name in ["fickle", "steady"] {
        let (layer, order) = (layer.clone().start(Start::Eager), order.clone());
        let (pool, before) = (pool.clone(), pool.waiting());
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let gone = Mutex::new(Some(gone));
        requests.push((
            go,
            tokio::task::spawn_local(async move {
                let answer = test_support::ask_async(layer, async |promises: Promises| {
                    if promises.pass() == 1 {
                        for index in 0..10 {
                            let order = order.clone();
                            let job = move || order.lock().unwrap().push(name);
                            promises.submit_blocking(format!("{index}"), job)?;
                        }
                        let gone = gone.lock().unwrap().take().unwrap();
                        let _ = gone.await;
                        if name == "fickle" {
                            for index in 0..9 {
                                assert!(promises.cancel(format!("{index}")));
                            }
                        }
                    }
                    Ok(String::new())
                });
                answer.await.map(drop).unwrap();
            }),
        ));
        // Does not call `waiting()`, because that would remove the cancelled jobs.
        let waiting = format!("waiting: {}", before + 10);
        until("the jobs of the request wait", async || {
            format!("{pool:?}").contains(&waiting)
        })
        .await;
    }
    let requests: Vec<_> = requests
        .into_iter()
        .map(|(go, request)| {
            drop(go);
            request
        })
        .collect();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(gate.release);
    busy.await.unwrap().unwrap();
    for request in requests {
        request.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert_eq!(order.len(), 11);
    assert_eq!(
        order.iter().position(|name| *name == "fickle"),
        Some(0),
        "{order:?}"
    );
}

#[tokio::test]
async fn a_blocking_job_can_start_early_and_be_awaited() {
    let layer = PromiseLayer::new().start(Start::Eager);
    let answer = test_support::ask_async(layer, async |promises: Promises| {
        promises.submit_blocking("x", || 7)?;
        Ok(promises.resolve("x", async || 0).await?.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("7", 1));
}

#[test]
fn the_default_limits_come_from_the_number_of_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let debug = format!("{:?}", BlockingPool::new());
    assert!(debug.contains(&format!("max_running: {cores}")), "{debug}");
    assert!(
        debug.contains(&format!("max_waiting: {}", 64 * cores)),
        "{debug}"
    );
}
