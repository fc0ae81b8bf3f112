//! The contract of `Service`: `poll_ready` before each `call`, and no ready service held while waiting.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;
use test_support::strict::Strict;
use test_support::{Counter, TestBody, TestRequest, get, promises, text, text_response};
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_promises::promise::Start;
use tower_promises::{BoxError, PromiseLayer, Promises};
use tower_test::{assert_request_eq, mock};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_service_whose_clones_are_not_ready_is_polled_ready_before_every_call() {
    let calls = Counter::default();
    let handler = |promises: &Promises| {
        let a = promises.result_or_submit("a", async || 1)?;
        let b = promises.result_or_submit("b", async move || a + 1)?;
        Ok(text_response(b.to_string()))
    };
    let mut service = PromiseLayer::new().layer(Strict::new(handler, &calls));
    for round in 1..=3 {
        let response = service.ready().await.unwrap().call(get("/")).await.unwrap();
        assert_eq!(text(response.into_body()).await, "2");
        assert_eq!(calls.get(), 3 * round);
    }
}

#[tokio::test]
async fn concurrency_limit_1_inside_does_not_deadlock() {
    let service = ServiceBuilder::new()
        .layer(PromiseLayer::new())
        .concurrency_limit(1)
        .service_fn(async |request: TestRequest| {
            let value = promises(&request).result_or_submit("x", async || {
                tokio::task::yield_now().await;
                7
            })?;
            Ok::<_, BoxError>(text_response(value.to_string()))
        });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        tasks.spawn(service.clone().oneshot(get("/")));
    }
    while let Some(response) = tasks.join_next().await {
        let response = response.unwrap().unwrap();
        assert_eq!(text(response.into_body()).await, "7");
    }
}

#[tokio::test(start_paused = true)]
async fn no_slot_is_held_while_promises_run() {
    let limit = ConcurrencyLimitLayer::new(1);
    let handler = limit.layer(service_fn(async |request: TestRequest| {
        if request.uri().path() == "/slow" {
            let work = async || tokio::time::sleep(Duration::from_secs(60)).await;
            promises(&request).result_or_submit("x", work)?;
        }
        Ok::<_, BoxError>(text_response("done"))
    }));
    let service = PromiseLayer::new().layer(handler);
    let slow = tokio::spawn(service.clone().oneshot(get("/slow")));
    tokio::task::yield_now().await;
    let quick = tokio::time::timeout(Duration::from_secs(1), service.oneshot(get("/quick")));
    quick.await.expect("the only slot is free").unwrap();
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_later_pass_waits_until_the_service_is_ready() {
    let (mut service, mut handle) = mock::spawn_with(|mock: mock::Mock<&str, usize>| {
        let inner = mock.map_request(|request: TestRequest| {
            let _ = promises(&request).submit("x", async {});
            "pass"
        });
        PromiseLayer::new().layer(inner.map_response(|_| text_response("")))
    });

    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut response = tokio_test::task::spawn(service.call(get("/")));
    assert_request_eq!(handle, "pass").send_response(1);

    // Pass 1 has ended and its promise has settled, but the service is not ready for pass 2.
    assert_pending!(response.poll());
    assert_pending!(handle.poll_request());
    handle.allow(1);
    assert_pending!(response.poll());
    assert_request_eq!(handle, "pass").send_response(2);
    let response = assert_ready!(response.poll());
    assert!(response.is_ok());
}

/// A service that is ready for the second call only after a second. It must not be polled in a loop until then.
#[derive(Clone)]
struct Slow<F> {
    handler: F,
    asked: Counter,
    ready: std::sync::Arc<tokio::sync::Semaphore>,
}

impl<F: Fn(&Promises)> Service<TestRequest> for Slow<F> {
    type Response = Response<TestBody>;
    type Error = BoxError;
    type Future = Ready<Result<Response<TestBody>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Ok(permit) = self.ready.try_acquire() {
            permit.forget();
            return Poll::Ready(Ok(()));
        }
        self.asked.add();
        assert!(self.asked.get() < 100, "asked again and again");
        if self.asked.get() == 1 {
            let (ready, waker) = (self.ready.clone(), cx.waker().clone());
            tokio::spawn(async move {
                sleep(SECOND).await;
                ready.add_permits(1);
                waker.wake();
            });
        }
        Poll::Pending
    }

    fn call(&mut self, request: TestRequest) -> Self::Future {
        let promises = promises(&request);
        (self.handler)(&promises);
        ready(Ok(text_response(promises.pass().to_string())))
    }
}

async fn passes_of_slow(layer: PromiseLayer, handler: impl Fn(&Promises) + Clone) -> String {
    let service = layer.layer(Slow {
        handler,
        asked: Counter::default(),
        ready: std::sync::Arc::new(tokio::sync::Semaphore::new(1)),
    });
    let response = tokio::time::timeout(60 * SECOND, service.oneshot(get("/"))).await;
    text(response.unwrap().unwrap().into_body()).await
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_is_no_busy_loop() {
    // A promise that submits another promise at its end.
    let submits = |promises: &Promises| {
        let handle = promises.clone();
        let _ = promises.result_or_submit("a", async move || {
            sleep(SECOND).await;
            handle.submit("b", async {}).is_ok()
        });
    };
    assert_eq!(
        passes_of_slow(PromiseLayer::new().start(Start::Eager), submits).await,
        "2"
    );
    assert_eq!(passes_of_slow(PromiseLayer::new(), submits).await, "2");

    // A promise that starts to await another promise and drops the waiter.
    let gives_up = |promises: &Promises| {
        let handle = promises.clone();
        let _ = promises.result_or_submit("a", async move || {
            sleep(SECOND).await;
            let _ = futures_util::poll!(pin!(handle.resolve("b", async || sleep(SECOND).await)));
        });
    };
    assert_eq!(passes_of_slow(PromiseLayer::new(), gives_up).await, "2");

    // A task that submits between two passes, with the handle of the first pass.
    let spawns = |promises: &Promises| {
        if promises.pass() == 1 {
            let handle = promises.clone();
            tokio::spawn(async move {
                sleep(SECOND * 3 / 2).await;
                assert!(handle.resolve("b", async || 1).await.is_err());
                assert!(handle.submit("c", async {}).is_err());
            });
        }
        let _ = promises.result_or_submit("a", async || sleep(SECOND).await);
    };
    assert_eq!(passes_of_slow(PromiseLayer::new(), spawns).await, "2");
}

#[tokio::test]
async fn poll_ready_delegates_to_the_inner_service() {
    let (mut service, mut handle) =
        mock::spawn_layer::<TestRequest, Response<Full<Bytes>>, _>(PromiseLayer::new());
    handle.allow(0);
    assert_pending!(service.poll_ready::<Request<TestBody>>());
    handle.allow(1);
    assert_ready_ok!(service.poll_ready::<Request<TestBody>>());
    handle.send_error("worn out");
    let error = assert_ready_err!(service.poll_ready::<Request<TestBody>>());
    assert_eq!(error.to_string(), "worn out");
}

#[tokio::test]
async fn nested_layers_see_the_outer_results_and_keep_their_own() {
    let runs = Counter::default();
    let inner = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let user: String = promises.result("user")?;
        // A pending promise of the outer request may be waiting for this very request, so it is not visible.
        let pending = promises.result::<i32>("outer pending");
        assert!(!pending.is_err_and(|error| error.is_pending()));
        let own: i32 = promises.result_or_submit("own", async || 1)?;
        let refused = promises.submit("user", async { String::new() });
        assert!(refused.is_err());
        assert!(!promises.cancel("user"));
        assert_eq!(promises.keys(), ["own"]);
        Ok::<_, BoxError>(text_response(format!(
            "{user} {own} in pass {}",
            promises.pass()
        )))
    }));
    let outer = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let runs = runs.clone();
        let work = async move || {
            runs.add();
            "Ferris".to_owned()
        };
        promises.result_or_submit("user", work)?;
        let pending = promises.result_or_submit("outer pending", async || 2);
        let mut sub_request = get("/part");
        sub_request.extensions_mut().insert(promises.clone());
        let part = inner.clone().oneshot(sub_request).await?;
        assert!(promises.result::<i32>("own").is_err(), "nothing leaks out");
        let part = text(part.into_body()).await;
        Ok::<_, BoxError>(text_response(format!("{part}, {}", pending?)))
    }));
    let response = outer.oneshot(get("/")).await.unwrap();
    assert_eq!(text(response.into_body()).await, "Ferris 1 in pass 2, 2");
    assert_eq!(runs.get(), 1);
}

/// Each layer lends its handle to the code that it calls.
#[tokio::test]
async fn the_current_handle_is_that_of_the_innermost_layer() {
    fn keys() -> String {
        Promises::current()
            .unwrap()
            .keys()
            .iter()
            .map(|key| key.as_str())
            .collect()
    }
    let inner = PromiseLayer::new().layer(service_fn(async |_: TestRequest| {
        let promises = Promises::current().unwrap();
        let in_promise = promises.result_or_submit("inner", async || keys())?;
        Ok::<_, BoxError>(text_response(format!("{in_promise} {}", keys())))
    }));
    let outer = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let inner = inner.clone();
        let part = promises.result_or_try_submit("outer", async move || {
            let response = inner.oneshot(get("/part")).await?;
            let part = text(response.into_body()).await;
            Ok::<_, BoxError>(format!("{part} {}", keys()))
        })?;
        Ok::<_, BoxError>(text_response(format!("{part} {}", keys())))
    }));
    let response = outer.oneshot(get("/")).await.unwrap();
    let body = text(response.into_body()).await;
    assert_eq!(body, "inner inner outer outer");
    assert!(Promises::current().is_none());
}

#[tokio::test]
async fn an_inner_request_may_clear_an_outer_result_for_itself() {
    let inner = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        if promises.pass() == 1 {
            assert_eq!(promises.result::<i32>("x")?, 1);
            assert!(promises.clear("x"));
            promises.submit("x", async { 2 })?;
        }
        Ok::<_, BoxError>(text_response(promises.result::<i32>("x")?.to_string()))
    }));
    let outer = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let before: i32 = promises.result_or_submit("x", async || 1)?;
        let mut sub_request = get("/part");
        sub_request.extensions_mut().insert(promises.clone());
        let part = text(inner.clone().oneshot(sub_request).await?.into_body()).await;
        let after: i32 = promises.result("x")?;
        Ok::<_, BoxError>(text_response(format!("{before} {part} {after}")))
    }));
    let response = outer.oneshot(get("/")).await.unwrap();
    assert_eq!(text(response.into_body()).await, "1 2 1");
}

#[tokio::test]
async fn an_infallible_service_stays_infallible() {
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let read = promises(&request).result_or_submit("x", async || 7);
        Ok::<_, Infallible>(text_response(
            read.map_or_else(|e| e.to_string(), |x| x.to_string()),
        ))
    }));
    let response: Result<_, Infallible> = service.oneshot(get("/")).await;
    let Ok(response) = response;
    assert_eq!(text(response.into_body()).await, "7");
}
