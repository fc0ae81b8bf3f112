//! User code runs without the lock of its request, so it may use its handle, also from another thread.

use futures_util::FutureExt;
use futures_util::future::join;
use std::future::{pending, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use test_support::{Counter, Log, TestRequest, ask, get, promises, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::promise::{PromiseResults, Start};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// A value that uses its handle when it is cloned and when it is dropped.
struct Reentrant(Promises);

impl Clone for Reentrant {
    fn clone(&self) -> Self {
        let _ = self.0.keys();
        Self(self.0.clone())
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        let _ = self.0.keys();
    }
}

#[tokio::test]
async fn a_value_may_use_its_handle_when_it_is_cloned_or_dropped() {
    let answer = ask(PromiseLayer::new(), |promises| {
        let make = || {
            let value = Reentrant(promises.clone());
            async move { value }
        };
        for name in ["kept", "cleared", "reset"] {
            promises.result_or_submit(name, make)?;
        }
        assert!(promises.clear("cleared"));
        assert!(promises.reset("reset"));
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().passes, 4);
}

#[tokio::test]
async fn work_may_use_its_handle_when_it_is_dropped() {
    let answer = ask(PromiseLayer::new(), |promises| {
        for name in ["cancelled", "reset", "published"] {
            let work = Reentrant(promises.clone());
            let work = async move {
                let _work = work;
                pending::<()>().await;
            };
            promises.submit(name, work)?;
        }
        assert!(promises.cancel("cancelled"));
        assert!(promises.reset("reset"));
        promises.publish();
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().passes, 1);
}

/// A waker that uses the handle of the request when it is woken and when it is dropped.
struct ReentrantWaker {
    handle: Mutex<Option<Promises>>,
    woken: Counter,
}

impl ReentrantWaker {
    fn use_handle(&self) {
        let handle = self.handle.lock().unwrap().clone();
        let _ = handle.expect("the handler has run").keys();
    }
}

impl Wake for ReentrantWaker {
    fn wake(self: Arc<Self>) {
        self.use_handle();
        self.woken.add();
    }
}

impl Drop for ReentrantWaker {
    fn drop(&mut self) {
        self.use_handle();
    }
}

#[test]
fn a_waker_may_use_the_handle() {
    let handle = Arc::new(Mutex::new(None));
    let service = {
        let handle = Arc::clone(&handle);
        PromiseLayer::new()
            .start(Start::Eager)
            .layer(service_fn(move |request: TestRequest| {
                *handle.lock().unwrap() = Some(promises(&request));
                pending::<Result<_, BoxError>>().map(|result| result.map(|()| text_response("")))
            }))
    };
    let mut response = Box::pin(service.oneshot(get("/")));
    let woken = Counter::default();
    for _ in 0..2 {
        let waker = Arc::new(ReentrantWaker {
            handle: Mutex::default(),
            woken: woken.clone(),
        });
        let polled = response
            .as_mut()
            .poll(&mut Context::from_waker(&waker.clone().into()));
        assert!(polled.is_pending());
        *waker.handle.lock().unwrap() = handle.lock().unwrap().clone();
    }
    // The future holds the second waker alone now.
    let promises = handle.lock().unwrap().clone().unwrap();
    promises.submit("x", pending::<()>()).unwrap();
    assert_eq!(woken.get(), 1);
}

#[test]
fn a_waker_of_a_waiter_may_use_the_handle() {
    let promises = Promises::with_results(PromiseResults::new());
    let woken = Counter::default();
    let waker = || {
        Waker::from(Arc::new(ReentrantWaker {
            handle: Mutex::new(Some(promises.clone())),
            woken: woken.clone(),
        }))
    };
    let mut waiting = [(); 2].map(|()| Box::pin(promises.resolve("x", pending::<()>)));
    for waiting in &mut waiting {
        // The second poll replaces the first waker, which is dropped.
        for waker in [waker(), waker()] {
            let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
    }
    let [waiting, leaving] = waiting;
    // Wakes the other waiter, which would take over the work.
    drop(leaving);
    assert_eq!(woken.get(), 1);
    let mut waiting = waiting;
    let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker()));
    assert!(polled.is_pending());
    assert!(promises.cancel("x"));
    assert_eq!(woken.get(), 2);
}

#[tokio::test]
async fn another_thread_cancels_a_promise_while_it_is_polled() {
    let dropped = Counter::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        let (handle, guard) = (promises.clone(), dropped.on_drop());
        let work = || {
            poll_fn(move |_| {
                let _guard = &guard;
                let is_cancelled = thread::scope(|scope| {
                    let cancel = scope.spawn(|| handle.cancel("x"));
                    cancel.join().unwrap()
                });
                assert!(is_cancelled, "the work is polled again");
                Poll::<()>::Pending
            })
        };
        match promises.result_or_submit("x", work) {
            Err(error @ PromiseError::Cancelled { .. }) => Ok(error.to_string()),
            other => Ok(other.map(|()| String::new())?),
        }
    });
    let answer = answer.await.unwrap();
    let expected = ("promise `x` was cancelled", 2);
    assert_eq!((answer.body.as_str(), answer.passes), expected);
    // Those of the work, and of the closure that pass 2 did not call.
    assert_eq!(dropped.get(), 2);
}

#[tokio::test]
async fn a_promise_that_is_reset_while_it_is_polled_can_be_submitted_again() {
    let runs = Counter::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        let runs = runs.clone();
        let value = promises.result_or_submit("x", async move || {
            runs.add();
            if runs.get() == 1 {
                assert!(Promises::current().unwrap().reset("x"));
            }
            runs.get()
        })?;
        Ok(value.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("2", 3));
}

#[tokio::test]
async fn a_panic_of_work_that_waiters_poll_is_the_error_of_all_waiters() {
    let _log = Log::start();
    let promises = Promises::with_results(PromiseResults::new());
    let work = async || {
        tokio::task::yield_now().await;
        panic!("fell over");
    };
    let resolve = || promises.resolve::<(), _>("x", work);
    for result in <[_; 2]>::from(join(resolve(), resolve()).await) {
        let error = result.unwrap_err();
        assert!(matches!(error, PromiseError::Panicked { .. }), "{error:?}");
    }
}
