use crate::body::ReplayBody;
use crate::promise::{PromiseFuture, PromiseResults, PromiseService, Start};
use crate::work::{Event, VALUE};
use crate::{BoxError, PromiseError, PromiseLayer, Promises};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use loom::future::block_on;
use loom::thread;
use std::borrow::Borrow;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

type Body = Full<Bytes>;

/// The result of a promise, as its handler has read it in the last pass.
type Answer = Result<u8, PromiseError>;

fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(2);
    model.check(test);
}

/// A service that calls a handler with its promises. The response has the answer of the handler.
#[derive(Clone)]
struct Handler(Arc<dyn Fn(Promises) -> BoxFuture<'static, Answer> + Send + Sync>);

impl Service<Request<ReplayBody<Body>>> for Handler {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody<Body>>) -> Self::Future {
        let promises = request.extensions().get::<Promises>().cloned();
        let answer = (self.0)(promises.expect("the layer inserts it"));
        Box::pin(answer.map(|answer| {
            let mut response = Response::new(Body::default());
            response.extensions_mut().insert(answer.map_err(Arc::new));
            Ok(response)
        }))
    }
}

/// A request, and a handle of its first pass.
struct Running {
    response: PromiseFuture<Handler, Body, crate::promise::DefaultResponseForRejection>,
    handle: Promises,
}

impl Running {
    /// Calls a handler that awaits nothing.
    fn new(
        layer: PromiseLayer,
        handler: impl Fn(Promises) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::new_async(layer, move |promises| {
            Box::pin(std::future::ready(handler(promises)))
        })
    }

    fn new_async(
        layer: PromiseLayer,
        handler: impl Fn(Promises) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Self {
        let first = Arc::new(Mutex::new(None));
        let handle = Arc::clone(&first);
        let handler = Handler(Arc::new(move |promises: Promises| {
            let mut first = first.lock().unwrap();
            first.get_or_insert_with(|| promises.clone());
            drop(first);
            handler(promises)
        }));
        let mut service: PromiseService<_> = layer.layer(handler);
        let response = service.call(Request::new(Body::default()));
        let handle = handle.lock().unwrap().take();
        Self {
            response,
            handle: handle.expect("the handler was called"),
        }
    }

    /// Polls the response in another thread.
    fn drive(self) -> thread::JoinHandle<Result<u8, Arc<PromiseError>>> {
        let response = self.response;
        thread::spawn(move || {
            let response = block_on(async { pin!(response).await });
            let mut response = response.expect("the handler does not fail");
            let answer = response.extensions_mut().remove();
            answer.expect("the request is not rejected")
        })
    }
}

fn is_cancelled(answer: &Result<u8, impl Borrow<PromiseError>>) -> bool {
    let error = answer.as_ref().err().map(Borrow::borrow);
    matches!(error, Some(PromiseError::Cancelled { .. }))
}

/// The settler makes the work ready while the driver polls it and another thread cancels it.
#[test]
fn a_promise_that_is_polled_and_cancelled_at_once_settles_once() {
    model(|| {
        let event = Event::new();
        let work = event.clone();
        let request = Running::new(PromiseLayer::new(), move |promises| {
            promises.result_or_submit("x", || work.work())
        });
        let handle = request.handle.clone();
        let driving = request.drive();
        let cancelling = thread::spawn(move || handle.cancel("x"));
        event.happen();
        let was_cancelled = cancelling.join().unwrap();
        match driving.join().unwrap() {
            Ok(value) => assert!(value == VALUE && !was_cancelled),
            // Cancelled before the end of the first pass, so there is no second pass.
            Err(error) if error.is_pending() => assert!(was_cancelled),
            error => assert!(is_cancelled(&error) && was_cancelled),
        }
        assert_eq!(event.drops(), 1);
    });
}

/// A promise that another thread awaits with a handle of the request while the response future drives it.
#[test]
fn a_promise_that_is_driven_and_awaited_at_once_has_one_outcome() {
    model(|| {
        let event = Event::new();
        let work = event.clone();
        let request = Running::new(PromiseLayer::new(), move |promises| {
            promises.result_or_submit("x", || work.work())
        });
        let (handle, work) = (request.handle.clone(), event.clone());
        let driving = request.drive();
        let waiting = thread::spawn(move || block_on(handle.resolve("x", || work.work())));
        event.happen();
        assert_eq!(driving.join().unwrap().unwrap(), VALUE);
        match waiting.join().unwrap() {
            Ok(value) => assert_eq!(value, VALUE),
            // The waiter has come after the end of the request.
            Err(error) => assert!(matches!(error, PromiseError::Ended { .. }), "{error}"),
        }
        assert_eq!(event.drops(), 1);
    });
}

/// The driver polls, a waiter in the handler awaits, another thread cancels, and the settler makes the work ready.
#[test]
fn a_promise_that_the_handler_awaits_is_cancelled_by_another_thread() {
    model(|| {
        let event = Event::new();
        let work = event.clone();
        let request = Running::new_async(PromiseLayer::new(), move |promises| {
            let work = work.clone();
            Box::pin(async move { promises.resolve("x", || work.work()).await })
        });
        let handle = request.handle.clone();
        let driving = request.drive();
        let cancelling = thread::spawn(move || handle.cancel("x"));
        event.happen();
        let was_cancelled = cancelling.join().unwrap();
        let answer = driving.join().unwrap();
        match was_cancelled {
            true => assert!(is_cancelled(&answer)),
            false => assert_eq!(answer.unwrap(), VALUE),
        }
        assert_eq!(event.drops(), 1);
    });
}

/// Another thread submits the promise that the handler's promise depends on, while the driver parks.
#[test]
fn a_promise_that_another_thread_submits_starts() {
    for start in [Start::PassEnd, Start::Eager] {
        model(move || {
            let event = Event::new();
            let work = event.clone();
            let layer = PromiseLayer::new().start(start);
            let request = Running::new_async(layer, move |promises| {
                let work = work.clone();
                Box::pin(async move { promises.resolve("x", || work.work()).await })
            });
            let handle = request.handle.clone();
            let driving = request.drive();
            let submitting = thread::spawn(move || {
                let happening = async move { event.happen() };
                match start {
                    Start::Eager => handle.submit("y", happening).is_ok(),
                    _ => block_on(handle.resolve("y", || happening)).is_ok(),
                }
            });
            assert_eq!(driving.join().unwrap().unwrap(), VALUE);
            assert!(submitting.join().unwrap());
        });
    }
}

#[test]
fn a_promise_that_is_reset_during_a_poll_is_dropped_and_runs_again() {
    model(|| {
        let event = Event::new();
        let work = event.clone();
        let request = Running::new(PromiseLayer::new(), move |promises| {
            promises.result_or_submit("x", || work.work())
        });
        let handle = request.handle.clone();
        let driving = request.drive();
        let resetting = thread::spawn(move || handle.reset("x"));
        event.happen();
        let was_reset = resetting.join().unwrap();
        match driving.join().unwrap() {
            Ok(value) => assert_eq!(value, VALUE),
            // Reset before the end of the first pass, so there is no second pass.
            Err(error) => assert!(error.is_pending() && was_reset),
        }
        assert!((1..=2).contains(&event.drops()));
    });
}

/// The handles of a test have no response future, so the waiters poll the work.
#[test]
fn a_waiter_takes_over_the_work_of_a_waiter_that_leaves() {
    model(|| {
        let event = Event::new();
        let promises = Promises::with_results(PromiseResults::new());
        let resolve = |event: &Event, promises: &Promises| {
            let (event, promises) = (event.clone(), promises.clone());
            async move { promises.resolve("x", || event.work()).await }
        };
        let mut leaving = Box::pin(resolve(&event, &promises));
        let leaving = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let _ = leaving.as_mut().poll(cx);
                Poll::Ready(())
            }));
        });
        let staying = resolve(&event, &promises);
        let staying = thread::spawn(move || block_on(staying));
        event.happen();
        leaving.join().unwrap();
        assert_eq!(staying.join().unwrap().unwrap(), VALUE);
    });
}

#[test]
fn all_waiters_without_a_driver_get_the_outcome_of_a_cancelled_promise() {
    model(|| {
        let event = Event::new();
        let promises = Promises::with_results(PromiseResults::new());
        let waiting = [(); 2].map(|()| {
            let (event, promises) = (event.clone(), promises.clone());
            thread::spawn(move || block_on(promises.resolve("x", || event.work())))
        });
        let is_cancelled_here = promises.cancel("x");
        event.happen();
        let answers = waiting.map(|waiter| waiter.join().unwrap());
        // A waiter that comes after the end of the promise starts no other promise.
        let cancelled = answers.iter().filter(|answer| is_cancelled(answer));
        match is_cancelled_here {
            true => assert!(cancelled.count() > 0),
            false => assert_eq!(cancelled.count(), 0),
        }
    });
}

/// The response future is dropped while other threads use the promise.
#[test]
fn the_end_of_the_request_ends_its_waiters() {
    model(|| {
        let event = Event::new();
        let work = event.clone();
        let request = Running::new(PromiseLayer::new(), move |promises| {
            promises.result_or_submit("x", || work.work())
        });
        let (handle, work) = (request.handle.clone(), event.clone());
        let waiting = thread::spawn(move || block_on(handle.resolve("x", || work.work())));
        let mut response = Box::pin(request.response);
        let dropping = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let _ = response.as_mut().poll(cx);
                Poll::Ready(())
            }));
            drop(response);
        });
        dropping.join().unwrap();
        assert!(waiting.join().unwrap().is_err());
        assert_eq!(event.drops(), 1);
    });
}

/// Work that panics in a poll, while the handler awaits it and another thread cancels it.
#[test]
fn a_panic_of_work_that_is_cancelled_and_awaited_at_once_settles_once() {
    model(|| {
        let request = Running::new_async(PromiseLayer::new(), |promises| {
            // Without the message of a panic, for each of the orders of events.
            let work = async || -> u8 { resume_unwind(Box::new("fell over")) };
            Box::pin(async move { promises.resolve("x", work).await })
        });
        let handle = request.handle.clone();
        let driving = request.drive();
        let was_cancelled = handle.cancel("x");
        let answer = driving.join().unwrap();
        match was_cancelled {
            true => assert!(is_cancelled(&answer)),
            false => assert!(matches!(
                *answer.unwrap_err(),
                PromiseError::Panicked { .. }
            )),
        }
    });
}
