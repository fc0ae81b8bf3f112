//! Waiting in place: `resolve`, and promises that start early.

use futures_util::future::join;
use std::time::Duration;
use test_support::{Counter, ask_async};
use tokio::time::{Instant, sleep, timeout};
use tower_promises::promise::{PromiseResults, Start};
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn resolve_waits_in_place_and_costs_no_pass() {
    let start = Instant::now();
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let a = promises.resolve("a", async || {
            sleep(SECOND).await;
            1
        });
        let b = promises.try_resolve("b", async || {
            sleep(SECOND).await;
            Ok::<_, std::io::Error>(2)
        });
        let (a, b) = join(a, b).await;
        assert!(!promises.will_discard());
        Ok(format!("{}", a? + b?))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("3", 1));
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_name_is_shared_with_synchronous_code() {
    let runs = Counter::default();
    let work = || {
        runs.add();
        async {
            sleep(SECOND).await;
            7
        }
    };
    // Both requests share one promise. The first found no value, which costs a pass.
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let early = promises.result_or_submit("x", work).or_pending(0)?;
        let late = promises.resolve("x", work).await?;
        assert_eq!(promises.result::<i32>("x")?, 7);
        Ok(format!("{early} {late}"))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("7 7", 2));
    assert_eq!(runs.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_is_awaited_before_it_is_read_costs_no_pass() {
    let start = Instant::now();
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        for key in ["a", "b"] {
            promises.submit(key, async {
                sleep(SECOND).await;
                1
            })?;
        }
        let one = promises.resolve("a", async || 0);
        let other = promises.resolve("b", async || 0);
        let (one, other) = join(one, other).await;
        Ok(format!("{}", one? + other?))
    });
    let answer: test_support::Answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("2", 1));
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_promise_runs_as_long_as_it_has_a_waiter() {
    let dropped = Counter::default();
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let guarded = || {
            let guard = dropped.on_drop();
            async move {
                let _guard = guard;
                sleep(SECOND).await;
                7
            }
        };
        let impatient = timeout(SECOND / 2, promises.resolve("x", guarded));
        let patient = promises.resolve("x", guarded);
        let (impatient, patient) = join(impatient, patient).await;
        assert!(impatient.is_err());
        Ok(patient?.to_string())
    });
    assert_eq!(answer.await.unwrap().body, "7");
}

#[tokio::test(start_paused = true)]
async fn a_promise_without_waiters_is_dropped() {
    let dropped = Counter::default();
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let guard = dropped.on_drop();
        let work = || async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        let given_up = timeout(SECOND, promises.resolve("x", work)).await;
        assert!(given_up.is_err());
        assert_eq!(dropped.get(), 1);
        assert!(matches!(
            promises.result::<()>("x"),
            Err(PromiseError::NotSubmitted { .. })
        ));
        Ok("default".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("default", 1));
}

#[tokio::test]
async fn resolve_returns_the_error_of_a_promise() {
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let failed = promises
            .try_resolve("a", async || Err::<(), _>("no luck"))
            .await;
        let panicked = promises.resolve("b", async || panic!("no tea")).await;
        let panicked: Result<(), _> = panicked;
        Ok(format!("{} {}", failed.unwrap_err(), panicked.unwrap_err()))
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        answer.body,
        "promise `a` failed promise `b` panicked: no tea"
    );
    assert_eq!(answer.passes, 1);
}

#[tokio::test]
async fn a_name_that_is_submitted_while_its_promise_is_made_is_awaited() {
    let answer = ask_async(PromiseLayer::new(), async |promises| {
        let make = || {
            promises.submit("x", async { 1_u32 }).unwrap();
            async { 2_u32 }
        };
        Ok(promises.resolve("x", make).await?.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("1", 1));
}

#[tokio::test]
async fn a_cancelled_promise_wakes_its_waiters() {
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let waiting = promises.resolve("x", std::future::pending::<()>);
        let (waited, cancelled) = join(waiting, async { promises.cancel("x") }).await;
        assert!(cancelled);
        Ok(waited.unwrap_err().to_string())
    });
    assert_eq!(answer.await.unwrap().body, "promise `x` was cancelled");
}

#[tokio::test]
async fn a_spawned_task_can_wait_and_gets_an_error_when_the_request_ends() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let sender = sender.lock().unwrap().take().unwrap();
        let shared = promises.clone();
        let first = tokio::spawn(async move { shared.resolve("quick", async || 7).await });
        let quick = first.await??;
        tokio::spawn(async move {
            let waited = promises.resolve("slow", std::future::pending::<()>).await;
            let _ = sender.send(waited);
        });
        tokio::task::yield_now().await;
        Ok(quick.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("7", 1));
    let error = receiver.await.unwrap().unwrap_err();
    assert!(matches!(error, PromiseError::Cancelled { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn eager_promises_run_while_the_pass_runs() {
    for (start, seconds) in [(Start::PassEnd, 3), (Start::Eager, 2)] {
        let began = Instant::now();
        let answer = ask_async(
            PromiseLayer::new().start(start),
            async |promises: Promises| {
                let work = async || {
                    sleep(SECOND).await;
                    "done"
                };
                let value = promises
                    .result_or_submit("x", work)
                    .or_pending("placeholder")?;
                // This pass has not read the value, even if the promise settles meanwhile.
                sleep(SECOND).await;
                Ok(value.to_owned())
            },
        );
        let answer = answer.await.unwrap();
        assert_eq!((answer.body.as_str(), answer.passes), ("done", 2));
        assert_eq!(began.elapsed(), SECOND * seconds, "{start:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_eager_promise_can_be_submitted_from_another_task() {
    let layer = PromiseLayer::new().start(Start::Eager);
    let answer = ask_async(layer, async |promises: Promises| {
        let shared = promises.clone();
        let task = tokio::spawn(async move {
            shared.submit("x", async {
                sleep(SECOND).await;
                7
            })
        });
        if promises.pass() == 1 {
            task.await??;
            // The pass waits for another future meanwhile, so the response future has to drive the promise.
            sleep(2 * SECOND).await;
        }
        Ok(promises.result::<i32>("x")?.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("7", 1));
}

#[tokio::test]
async fn a_cancelled_eager_promise_is_dropped_at_once() {
    let dropped = Counter::default();
    let layer = PromiseLayer::new().start(Start::Eager);
    let answer = ask_async(layer, async |promises: Promises| {
        let guard = dropped.on_drop();
        promises.submit("x", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        })?;
        tokio::task::yield_now().await;
        assert_eq!(dropped.get(), 0);
        assert!(promises.cancel("x"));
        assert_eq!(dropped.get(), 1);
        Ok("placeholder".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("placeholder", 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_layer_resolve_runs_where_it_is_awaited() {
    let promises = Promises::with_results(PromiseResults::new().value("known", 1));
    let known = promises.resolve("known", async || 0).await;
    assert_eq!(known.unwrap(), 1);
    let work = async || {
        sleep(SECOND).await;
        2
    };
    let impatient = timeout(SECOND / 2, promises.resolve("new", work));
    let patient = promises.resolve("new", async || 0);
    let (impatient, patient) = join(impatient, patient).await;
    assert!(impatient.is_err());
    assert_eq!(patient.unwrap(), 2);
    assert_eq!(promises.result::<i32>("new").unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_has_not_read_the_value() {
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        if promises.pass() == 1 {
            let (sender, settled) = tokio::sync::oneshot::channel();
            promises.submit("x", async move {
                sleep(SECOND).await;
                let _ = sender.send(());
                7
            })?;
            tokio::select! {
                biased;
                _ = settled => {}
                _ = promises.resolve("x", async || 0) => unreachable!("the other comes first"),
            }
            return Ok("placeholder".to_owned());
        }
        Ok(promises.result::<i32>("x")?.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("7", 2));
}

#[tokio::test]
async fn the_wakers_of_dropped_waiters_are_dropped() {
    struct Waker(#[allow(dead_code)] test_support::DropGuard);

    impl std::task::Wake for Waker {
        fn wake(self: std::sync::Arc<Self>) {}
    }

    let dropped = Counter::default();
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        promises.submit("x", std::future::pending::<()>())?;
        for round in 1..=100 {
            {
                let waker = std::sync::Arc::new(Waker(dropped.on_drop())).into();
                let mut waiting = Box::pin(promises.resolve("x", async || ()));
                let mut cx = std::task::Context::from_waker(&waker);
                assert!(waiting.as_mut().poll(&mut cx).is_pending());
            }
            assert_eq!(dropped.get(), round);
        }
        promises.publish();
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().passes, 1);
}

#[tokio::test]
async fn a_pending_request_does_not_wake_itself() {
    use tower::{Layer, ServiceExt};

    let service = PromiseLayer::new().layer(tower::service_fn(
        async |request: test_support::TestRequest| {
            let promises = test_support::promises(&request);
            promises.result_or_submit("x", std::future::pending::<()>)?;
            Ok::<_, tower_promises::BoxError>(test_support::text_response(""))
        },
    ));
    let mut response = tokio_test::task::spawn(service.oneshot(test_support::get("/")));
    assert!(response.poll().is_pending());
    assert!(!response.is_woken());
}
