//! A panic of user code neither breaks the promises of its request nor keeps others from being told.

use futures_util::FutureExt;
use std::future::{pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use test_support::{Counter, Log, TestRequest, get, promises, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::promise::PromiseResults;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// A value that panics when it is first cloned.
struct Fragile(Arc<AtomicBool>);

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(self.0.swap(true, Ordering::Relaxed), "cannot be cloned");
        Self(Arc::clone(&self.0))
    }
}

/// A value that panics when it is dropped.
#[derive(Clone)]
struct Bomb(#[expect(dead_code, reason = "its drop counts")] Arc<Explosive>);

struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        panic!("exploded");
    }
}

/// A waker that panics when it is woken.
struct Alarm;

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        panic!("cannot be woken");
    }
}

/// A waker that counts.
struct Bell(Counter);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.add();
    }
}

fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[test]
fn a_panic_of_clone_propagates_to_its_reader_only() {
    let results = PromiseResults::new().value("x", Fragile(Arc::default()));
    let promises = Promises::with_results(results);
    assert!(panics(|| promises.result::<Fragile>("x")));
    assert!(promises.result::<Fragile>("x").is_ok());
    assert_eq!(promises.keys(), ["x"]);
}

#[test]
fn a_panic_of_drop_propagates_to_the_caller_that_clears_the_value() {
    let promises =
        || Promises::with_results(PromiseResults::new().value("x", Bomb(Arc::new(Explosive))));
    let removals: [fn(&Promises) -> bool; 2] = [|it| it.clear("x"), |it| it.reset("x")];
    for remove in removals {
        let promises = promises();
        assert!(panics(|| remove(&promises)));
        assert!(promises.keys().is_empty());
        promises.submit("x", pending::<()>()).unwrap();
    }
}

#[test]
fn a_waker_that_panics_does_not_keep_other_waiters_asleep() {
    let (woken, dropped) = (Counter::default(), Counter::default());
    let promises = Promises::with_results(PromiseResults::new());
    let guard = dropped.on_drop();
    let work = async move {
        let _guard = guard;
        pending::<()>().await;
    };
    promises.submit("x", work).unwrap();
    let mut waiting = [(); 3].map(|()| Box::pin(promises.resolve("x", pending::<()>)));
    let bell = || Waker::from(Arc::new(Bell(woken.clone())));
    let wakers = [bell(), Waker::from(Arc::new(Alarm)), bell()];
    for (waiting, waker) in waiting.iter_mut().zip(&wakers) {
        let polled = waiting.as_mut().poll(&mut Context::from_waker(waker));
        assert!(polled.is_pending());
    }
    let log = Log::start();
    assert!(promises.cancel("x"));
    assert!(log.text().contains("cannot be woken"), "{}", log.text());
    assert_eq!((woken.get(), dropped.get()), (2, 1));
    for waiting in waiting {
        let error = waiting.now_or_never().unwrap().unwrap_err();
        assert!(matches!(error, PromiseError::Cancelled { .. }), "{error:?}");
    }
}

/// The end of a request cancels several promises, and the first waker that it wakes panics.
#[test]
fn a_waker_that_panics_does_not_keep_other_promises_from_settling() {
    let woken = Counter::default();
    let handle = Arc::new(Mutex::new(None));
    let service = PromiseLayer::new().layer(service_fn(|request: TestRequest| {
        let promises = promises(&request);
        for name in ["first", "second"] {
            promises.submit(name, pending::<()>()).unwrap();
        }
        *handle.lock().unwrap() = Some(promises);
        ready(Ok::<_, BoxError>(text_response("")))
    }));
    let mut response = Box::pin(service.oneshot(get("/")));
    let polled = response
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    let promises = handle.lock().unwrap().take().unwrap();
    let mut waiting =
        ["first", "second"].map(|name| Box::pin(promises.resolve(name, pending::<()>)));
    let wakers: [Waker; 2] = [Arc::new(Alarm).into(), Arc::new(Bell(woken.clone())).into()];
    for (waiting, waker) in waiting.iter_mut().zip(&wakers) {
        let polled = waiting.as_mut().poll(&mut Context::from_waker(waker));
        assert!(polled.is_pending());
    }
    let log = Log::start();
    drop(response);
    assert!(log.text().contains("cannot be woken"), "{}", log.text());
    assert_eq!(woken.get(), 1);
    for waiting in waiting {
        let error = waiting.now_or_never().unwrap().unwrap_err();
        assert!(matches!(error, PromiseError::Cancelled { .. }), "{error:?}");
    }
}

#[test]
fn another_thread_resets_a_promise_that_waiters_poll() {
    let promises = Promises::with_results(PromiseResults::new());
    let dropped = Counter::default();
    let guard = dropped.on_drop();
    let handle = promises.clone();
    let work = async move {
        let _guard = guard;
        let resetting = thread::spawn(move || handle.reset("x"));
        assert!(resetting.join().unwrap());
        pending::<()>().await;
    };
    promises.submit("x", work).unwrap();
    let resolved = promises.resolve("x", pending::<()>).now_or_never();
    let error = resolved.unwrap().unwrap_err();
    assert!(matches!(error, PromiseError::Cancelled { .. }), "{error:?}");
    assert_eq!(dropped.get(), 1);
    assert!(promises.keys().is_empty());
}
