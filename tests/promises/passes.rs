//! The number of passes of a request, the request that each pass gets, and the published outcome.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, Version};
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::{Counter, Log, TestRequest, answer, ask, get, post, promises, text_response};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_promises::promise::{OnTimeout, Rejection};
use tower_promises::{BoxError, OrPending, PromiseError, PromiseLayer, Promises};

#[tokio::test]
async fn without_promises_there_is_one_pass() {
    let answer = ask(PromiseLayer::new(), |promises| {
        assert_eq!(promises.pass(), 1);
        assert!(!promises.will_discard());
        Ok("hello".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("hello", 1));
}

#[tokio::test]
async fn a_response_without_promises_is_published_untouched() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u32);

    let service = PromiseLayer::new().layer(service_fn(async |_: TestRequest| {
        let mut response = text_response("hello");
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        *response.version_mut() = Version::HTTP_10;
        response
            .headers_mut()
            .insert("x-tea", HeaderValue::from_static("green"));
        response.extensions_mut().insert(Mark(7));
        Ok::<_, Infallible>(response)
    }));
    // The layer does not change the type of the body.
    let response: Response<Full<Bytes>> = service.oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.version(), Version::HTTP_10);
    assert_eq!(response.headers().len(), 1);
    assert_eq!(response.extensions().get(), Some(&Mark(7)));
    assert_eq!(response.extensions().len(), 1);
}

#[tokio::test]
async fn submit_shows_the_result_and_never_the_placeholder() {
    let answer = ask(PromiseLayer::new(), |promises| {
        match promises.result::<u32>("answer") {
            Ok(value) => Ok(format!("the answer is {value}")),
            Err(PromiseError::NotSubmitted { .. }) => {
                promises.submit("answer", async { 42_u32 })?;
                assert!(promises.will_discard());
                Ok("placeholder".to_owned())
            }
            Err(error) => Err(error.into()),
        }
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("the answer is 42", 2)
    );
}

#[tokio::test]
async fn result_or_submit_shows_the_result_and_never_the_placeholder() {
    let answer = ask(PromiseLayer::new(), |promises| {
        let value = promises
            .result_or_submit("answer", async || 42_u32)
            .or_pending(0)?;
        Ok(format!("the answer is {value}"))
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("the answer is 42", 2)
    );
}

#[tokio::test]
async fn three_independent_promises_take_two_passes() {
    let answer = ask(PromiseLayer::new(), |promises| {
        let a = promises.result_or_submit("a", async || 1).or_pending(0);
        let b = promises.result_or_submit("b", async || 2).or_pending(0);
        let c = promises.result_or_submit("c", async || 3).or_pending(0);
        Ok(format!("{}", a? + b? + c?))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("6", 2));
}

fn chain_of_three(promises: &Promises) -> Result<String, BoxError> {
    let a: u32 = promises.result_or_submit("a", async || 1)?;
    let b: u32 = promises.result_or_submit("b", async move || a + 1)?;
    let c: u32 = promises.result_or_submit("c", async move || b + 1)?;
    Ok(c.to_string())
}

#[tokio::test]
async fn a_chain_of_three_promises_takes_four_passes() {
    let answer = ask(PromiseLayer::new(), chain_of_three).await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("3", 4));

    let answer = ask(PromiseLayer::new().max_passes(4), chain_of_three).await;
    assert_eq!(answer.unwrap().body, "3");
}

#[tokio::test]
async fn max_passes_two_is_strictly_two() {
    let answer = ask(PromiseLayer::new().max_passes(2), chain_of_three)
        .await
        .unwrap();
    assert_eq!((answer.status.as_u16(), answer.passes), (500, 2));
}

#[tokio::test]
async fn keys_that_differ_in_every_pass_end_at_max_passes() {
    let log = Log::start();
    let polled = Counter::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        let polled = polled.clone();
        let key = format!("key of pass {}", promises.pass());
        promises.result_or_submit(key, async move || polled.add())?;
        Ok("never".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.passes), (500, 16));
    assert_eq!(polled.get(), 15);
    assert_eq!(answer.content_type, "application/problem+json");
    assert!(!answer.body.contains("key of pass"), "{}", answer.body);

    let Some(
        rejection @ Rejection::TooManyPasses {
            limit: 16, pending, ..
        },
    ) = &answer.rejection
    else {
        panic!("{:?}", answer.rejection);
    };
    assert_eq!(*pending, ["key of pass 16"]);
    let text = rejection.to_string();
    assert!(
        text.contains("depends on the one before it in a chain"),
        "{text}"
    );
    assert!(text.contains("keys differ in every pass"), "{text}");
    let log = log.text();
    assert!(log.contains("ERROR"), "{log}");
    assert!(
        log.contains(&text) && log.contains("key of pass 16"),
        "{log}"
    );
}

#[tokio::test]
async fn more_than_max_promises_are_rejected() {
    let polled = Counter::default();
    let layer = PromiseLayer::new().max_promises(3);
    let answer = ask(layer, |promises| {
        for index in 0..4 {
            let polled = polled.clone();
            let submitted = promises.submit(format!("{index}"), async move { polled.add() });
            assert_eq!(submitted.is_ok(), index < 3);
        }
        Ok("never".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.passes, polled.get()),
        (500, 1, 0)
    );
    let rejection = answer.rejection.unwrap();
    assert!(
        matches!(rejection, Rejection::TooManyPromises { limit: 3, .. }),
        "{rejection:?}"
    );
}

#[tokio::test]
async fn every_pass_sees_the_request_of_the_first() {
    every_pass_sees_the_request(PromiseLayer::new()).await;
}

#[tokio::test]
async fn the_last_pass_that_is_allowed_sees_the_request_of_the_first() {
    every_pass_sees_the_request(PromiseLayer::new().max_passes(2)).await;
}

async fn every_pass_sees_the_request(layer: PromiseLayer) {
    #[derive(Clone, Debug, PartialEq)]
    struct Tag(&'static str);
    type Seen = (Method, Uri, Version, HeaderMap, Option<Tag>, Bytes);

    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let service = {
        let seen = Arc::clone(&seen);
        layer.layer(service_fn(move |mut request: TestRequest| {
            let seen = Arc::clone(&seen);
            async move {
                let promises = promises(&request);
                let tag = request.extensions().get::<Tag>().cloned();
                let body = request.body_mut().collect().await?.to_bytes();
                seen.lock().unwrap().push((
                    request.method().clone(),
                    request.uri().clone(),
                    request.version(),
                    request.headers().clone(),
                    tag,
                    body,
                ));

                *request.method_mut() = Method::DELETE;
                *request.uri_mut() = Uri::from_static("/other");
                *request.version_mut() = Version::HTTP_10;
                request.headers_mut().clear();
                request.extensions_mut().clear();

                promises.result_or_submit("x", async || ())?;
                Ok::<_, BoxError>(text_response(""))
            }
        }))
    };

    let mut request = post("the body");
    *request.uri_mut() = Uri::from_static("/path?query=1");
    *request.version_mut() = Version::HTTP_2;
    request
        .headers_mut()
        .append("x-twice", HeaderValue::from_static("one"));
    request
        .headers_mut()
        .append("x-twice", HeaderValue::from_static("two"));
    request.extensions_mut().insert(Tag("of the client"));
    let expected = (
        Method::POST,
        Uri::from_static("/path?query=1"),
        Version::HTTP_2,
        request.headers().clone(),
        Some(Tag("of the client")),
        Bytes::from("the body"),
    );
    service.oneshot(request).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [expected.clone(), expected]);
}

#[tokio::test(start_paused = true)]
async fn a_final_pass_after_the_last_pass_sees_the_request_of_the_first() {
    let passes = Counter::default();
    let layer = PromiseLayer::new()
        .max_passes(2)
        .timeout(Duration::from_secs(1))
        .on_timeout(OnTimeout::FinalPass);
    let service = layer.layer(service_fn(async |request: TestRequest| {
        passes.add();
        assert_eq!(request.uri(), "/path");
        assert_eq!(request.headers()["x-name"], "value");
        promises(&request).result_or_submit("x", async || ())?;
        if passes.get() == 2 {
            std::future::pending::<()>().await;
        }
        Ok::<_, BoxError>(text_response(""))
    }));
    let mut request = get("/path");
    let value = HeaderValue::from_static("value");
    request.headers_mut().insert("x-name", value);
    let response = service.oneshot(request).await.unwrap();
    assert_eq!((response.status().as_u16(), passes.get()), (200, 3));
}

/// The headers that two passes get if the request has these headers.
async fn headers_of_two_passes(headers: HeaderMap) -> Vec<HeaderMap> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let seen = Arc::clone(&seen);
        PromiseLayer::new().layer(service_fn(move |request: TestRequest| {
            let promises = promises(&request);
            seen.lock().unwrap().push(request.headers().clone());
            std::future::ready(match promises.result_or_submit("x", async || ()) {
                Ok(()) => Ok::<_, BoxError>(text_response("")),
                Err(error) => Err(error.into()),
            })
        }))
    };
    let mut request = get("/");
    *request.headers_mut() = headers;
    service.oneshot(request).await.unwrap();
    let mut seen = seen.lock().unwrap();
    std::mem::take(&mut seen)
}

#[tokio::test]
async fn every_pass_sees_the_headers_in_order_and_marked_as_sensitive() {
    let mut headers = HeaderMap::new();
    for (name, value) in [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("b", "5")] {
        let mut value = HeaderValue::from_static(value);
        value.set_sensitive(value == "3" || value == "4");
        headers.append(name, value);
    }
    let list = |headers: &HeaderMap| {
        let headers = headers.iter();
        let headers =
            headers.map(|(name, value)| (name.clone(), value.clone(), value.is_sensitive()));
        headers.collect::<Vec<_>>()
    };
    let seen = headers_of_two_passes(headers.clone()).await;
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(list(&seen), list(&headers));
    }
}

#[tokio::test]
async fn every_pass_sees_as_many_headers_as_a_request_can_have() {
    // More values than the number of names that a map can have.
    let mut values = HeaderMap::new();
    for value in 0..40_000_u32 {
        values.append("x-many", HeaderValue::from(value));
    }
    // As many names as a map can have, with more values of the first and the last name.
    let mut names = HeaderMap::new();
    for number in 0..24_576 {
        let name = HeaderName::try_from(format!("x-{number}")).unwrap();
        names.append(&name, HeaderValue::from(number));
        if number % 1000 == 0 {
            names.append(&name, HeaderValue::from_static("again"));
        }
    }
    for headers in [values, names] {
        assert_eq!(
            headers_of_two_passes(headers.clone()).await,
            [headers.clone(), headers]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_promises_of_a_pass_run_concurrently() {
    let start = Instant::now();
    let answer = ask(PromiseLayer::new(), |promises| {
        // More promises than share a waker.
        for index in 0..100_u64 {
            let work = async move || {
                sleep(Duration::from_millis(1000 - index)).await;
                index
            };
            promises
                .result_or_submit(format!("{index}"), work)
                .or_pending(0)?;
        }
        Ok(format!("{}", promises.keys().len()))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("100", 2));
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_promise_of_a_promise_starts_at_once_and_settles_before_the_next_pass() {
    let second = Duration::from_secs(1);
    // Submits at the start of a promise, in the middle, and at the end.
    for (before, after) in [(0, 2), (1, 1), (2, 0)] {
        // Alone, and among more promises than share a waker.
        for others in [0, 50] {
            let start = Instant::now();
            let answer = ask(PromiseLayer::new(), |promises| {
                for index in 0..others {
                    let other = async move || sleep(second).await;
                    let _ = promises.result_or_submit(format!("{index}"), other);
                }
                let handle = promises.clone();
                let work = async move || {
                    sleep(second * before).await;
                    handle.submit("second", async move {
                        sleep(second).await;
                        2
                    })?;
                    sleep(second * after).await;
                    Ok::<_, BoxError>(1)
                };
                promises.result_or_try_submit("first", work)?;
                Ok(promises.result::<i32>("second")?.to_string())
            });
            let answer = answer.await.unwrap();
            assert_eq!((answer.body.as_str(), answer.passes), ("2", 2));
            assert_eq!(start.elapsed(), second * (before + after.max(1)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_promise_can_wait_for_a_promise_that_another_task_submits() {
    let answer = ask(PromiseLayer::new(), |promises| {
        let handle = promises.clone();
        let work = async move || {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                sleep(Duration::from_secs(1)).await;
                handle.submit("second", async move { sender.send(7) })
            });
            receiver.await
        };
        Ok(promises.result_or_try_submit("first", work)?.to_string())
    });
    let answer = tokio::time::timeout(Duration::from_secs(9), answer).await;
    assert_eq!(
        answer.expect("the second promise starts").unwrap().body,
        "7"
    );
}

#[tokio::test]
async fn the_error_of_a_pass_with_pending_promises_is_discarded() {
    let answer = ask(PromiseLayer::new(), |promises| {
        let value: u32 = promises.result_or_submit("x", async || 1)?;
        Ok(value.to_string())
    });
    assert_eq!(answer.await.unwrap().passes, 2);
}

#[tokio::test]
async fn the_error_of_a_pass_without_pending_promises_ends_the_request() {
    let calls = Counter::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        calls.add();
        promises.result_or_submit("x", async || 1)?;
        Err("out of order".into())
    });
    assert_eq!(answer.await.unwrap_err().to_string(), "out of order");
    assert_eq!(calls.get(), 2);
}

#[tokio::test]
async fn the_body_of_a_discarded_response_is_dropped_unpolled() {
    use http_body::{Body, Frame};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    struct Untouchable(Option<test_support::DropGuard>);

    impl Body for Untouchable {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            assert!(self.0.is_none(), "a discarded body was polled");
            Poll::Ready(None)
        }
    }

    impl From<Bytes> for Untouchable {
        fn from(_: Bytes) -> Self {
            Self(None)
        }
    }

    let dropped = Counter::default();
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let dropped = dropped.clone();
        let before = dropped.clone();
        let read = promises(&request).result_or_submit("x", async move || before.get());
        Ok::<_, Infallible>(Response::new(match read {
            // The body is dropped before the promise starts.
            Ok(dropped_before) => {
                assert_eq!(dropped_before, 1);
                Untouchable(None)
            }
            Err(_) => Untouchable(Some(dropped.on_drop())),
        }))
    }));
    let response = service.oneshot(get("/")).await.unwrap();
    assert!(response.into_body().0.is_none());
}

#[tokio::test]
async fn a_discarded_response_is_logged_at_debug_level_only() {
    let log = Log::start();
    let answer = ask(PromiseLayer::new(), |promises| {
        promises.result_or_submit("x", async || ()).or_pending(())?;
        Ok("hello".to_owned())
    });
    answer.await.unwrap();
    let log = log.text();
    let line = log
        .lines()
        .find(|line| line.contains("discarded the response"))
        .unwrap();
    assert!(
        line.contains("DEBUG") && line.contains("status=200"),
        "{line}"
    );
}

#[tokio::test]
async fn an_error_of_poll_ready_ends_the_request() {
    #[derive(Clone)]
    struct ReadyOnce(Counter);

    impl Service<TestRequest> for ReadyOnce {
        type Response = Response<Full<Bytes>>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Self::Response, BoxError>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), BoxError>> {
            self.0.add();
            std::task::Poll::Ready(match self.0.get() {
                1 => Ok(()),
                _ => Err("worn out".into()),
            })
        }

        fn call(&mut self, request: TestRequest) -> Self::Future {
            let _ = promises(&request).submit("x", async {});
            std::future::ready(Ok(text_response("")))
        }
    }

    let service = PromiseLayer::new().layer(ReadyOnce(Counter::default()));
    let error = service.oneshot(get("/")).await.unwrap_err();
    assert_eq!(error.to_string(), "worn out");
}

#[tokio::test]
async fn requests_never_mix() {
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let own = request.uri().path().to_owned();
        let value = own.clone();
        let work = async move || {
            tokio::task::yield_now().await;
            value
        };
        let value: String = promises.result_or_submit("shared name", work)?;
        let current = Promises::current().unwrap();
        assert_eq!(current.result::<String>("shared name")?, own);
        Ok::<_, BoxError>(text_response(value))
    }));
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..1000 {
        let service = service.clone();
        tasks.spawn(async move {
            let path = format!("/{index}");
            let response = service.oneshot(get(&path)).await.unwrap();
            assert_eq!(answer(response).await.body, path);
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_promises_in_one_request() {
    let layer = PromiseLayer::new().max_promises(10_000);
    let answer = ask(layer, |promises| {
        let mut sum = 0;
        for index in 0..10_000_u64 {
            let work = async move || {
                tokio::task::yield_now().await;
                index
            };
            sum += promises
                .result_or_submit(format!("{index}"), work)
                .or_pending(0)?;
        }
        Ok(sum.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("49995000", 2));
}
