//! Promises, values and undo functions at the end of a pass and of a request, in all the ways in which these end.

use futures_util::FutureExt;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use test_support::{Counter, Log, Notes, ask, ask_async};
use tower_promises::promise::{PromiseResults, SubmitError};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("when dropped");
    }
}

#[tokio::test]
#[should_panic(expected = "handler fell over")]
async fn a_panic_in_the_handler_propagates() {
    let _ = ask(PromiseLayer::new(), |_| panic!("handler fell over")).await;
}

#[tokio::test]
async fn a_handle_of_an_ended_request_returns_errors() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let answer = ask(PromiseLayer::new(), |promises| {
        kept.lock().unwrap().push(promises.clone());
        promises.result_or_submit("x", async || 7_u32)?;
        Ok(String::new())
    });
    answer.await.unwrap();
    let kept = std::mem::take(&mut *kept.lock().unwrap());
    for promises in kept {
        let dropped = Counter::default();
        let guard = dropped.on_drop();
        let error = promises
            .submit("late", async move { drop(guard) })
            .unwrap_err();
        assert!(matches!(error, SubmitError::Ended { .. }), "{error:?}");
        assert_eq!(dropped.get(), 1);
        let error = promises.result_or_submit("late", async || ()).unwrap_err();
        assert!(matches!(error, PromiseError::Ended { .. }), "{error:?}");
        let error = promises.resolve("late", async || ()).await.unwrap_err();
        assert!(matches!(error, PromiseError::Ended { .. }), "{error:?}");
        let error = promises.result::<u32>("x").unwrap_err();
        let text = "promise `x` was asked for through the handle of a pass that is over";
        assert_eq!(error.to_string(), text);
        promises.publish();
        assert!(!promises.will_discard());
        assert!(!promises.cancel("x"));
    }
}

#[tokio::test]
async fn the_values_of_a_request_are_dropped_with_it() {
    // A value may hold the handle, for example in the parts of a request.
    let dropped = Counter::default();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let answer = ask(PromiseLayer::new(), |promises| {
        kept.lock().unwrap().push(promises.clone());
        let (guard, handle) = (dropped.on_drop(), promises.clone());
        promises.result_or_submit("x", async move || Arc::new((guard, handle)))?;
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().passes, 2);
    // One guard is in the value, the other in the closure that pass 2 did not call.
    assert_eq!(dropped.get(), 2);
}

#[tokio::test]
async fn a_cleared_value_is_dropped_at_once() {
    let dropped = Counter::default();
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        for round in 1..=10 {
            let guard = dropped.on_drop();
            promises.submit("x", async move { Arc::new(guard) })?;
            promises
                .resolve::<Arc<test_support::DropGuard>, _>("x", std::future::pending)
                .await?;
            assert!(promises.clear("x"));
            assert_eq!(dropped.get(), round);
        }
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().passes, 1);
}

#[tokio::test]
async fn undo_functions_run_only_for_a_discarded_pass() {
    let notes = Notes::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        for step in ["first", "second"] {
            let (notes, pass) = (notes.clone(), promises.pass());
            promises.on_discard(move || notes.push(format!("{step} of pass {pass} undone")));
        }
        promises.on_discard(|| panic!("undo work fell over"));
        promises.result_or_submit("x", async || ())?;
        Ok("done".to_owned())
    });
    assert_eq!(answer.await.unwrap().passes, 2);
    assert_eq!(
        notes.all(),
        ["second of pass 1 undone", "first of pass 1 undone"]
    );
}

#[tokio::test]
async fn undo_functions_run_when_the_request_is_rejected_or_dropped() {
    let undone = Counter::default();
    let layer = PromiseLayer::new().max_passes(1);
    let answer = ask(layer, |promises| {
        let undone = undone.clone();
        promises.on_discard(move || undone.add());
        promises.result_or_submit("x", async || ())?;
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().status, 500);
    assert_eq!(undone.get(), 1);

    let request = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let undone = undone.clone();
        promises.on_discard(move || undone.add());
        std::future::pending().await
    });
    let mut request = Box::pin(request);
    assert!(futures_util::poll!(&mut request).is_pending());
    drop(request);
    assert_eq!(undone.get(), 2);
}

#[tokio::test]
async fn an_undo_function_registered_after_the_pass_was_discarded_runs_at_once() {
    let undone = Counter::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        let (handle, undone) = (promises.clone(), undone.clone());
        let work = async move || {
            let in_undo = (handle.clone(), undone.clone());
            handle.on_discard(move || {
                in_undo.1.add();
                let (handle, undone) = in_undo;
                handle.on_discard(move || undone.add());
            });
            undone.get()
        };
        Ok(promises.result_or_submit("x", work)?.to_string())
    });
    assert_eq!(answer.await.unwrap().body, "2");
}

#[tokio::test]
async fn a_promise_that_panics_when_it_is_dropped_does_not_affect_others() {
    let log = Log::start();
    let (undone, dropped) = (Counter::default(), Counter::default());
    let request = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let undone = undone.clone();
        promises.on_discard(move || undone.add());
        for index in 0..3 {
            let (bomb, guard) = (Bomb, dropped.on_drop());
            promises.submit(format!("{index}"), async move {
                let _both = (bomb, guard);
                std::future::pending::<()>().await;
            })?;
        }
        std::future::pending().await
    });
    let mut request = Box::pin(request);
    assert!(futures_util::poll!(&mut request).is_pending());
    drop(request);
    assert_eq!((undone.get(), dropped.get()), (1, 3));
    assert!(log.text().contains("when dropped"), "{}", log.text());
}

/// A promise settles while another thread cancels it. Either it is cancelled, or its value still requires a pass.
#[test]
fn a_late_cancel_has_no_effect() {
    for _ in 0..5000 {
        let promises = Promises::with_results(PromiseResults::new());
        let start = Barrier::new(2);
        let _: Result<u32, _> = promises.result_or_submit("x", {
            let promises = promises.clone();
            async move || promises.pass().try_into().unwrap()
        });
        let is_cancelled = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let _ = promises.resolve("x", async || 0_u32).now_or_never();
            });
            start.wait();
            promises.cancel("x")
        });
        let is_wanted = promises.will_discard();
        assert_ne!(is_cancelled, is_wanted);
    }
}

#[tokio::test]
async fn a_promise_that_panics_when_it_is_dropped_can_cancel_itself() {
    let log = Log::start();
    let answer = ask(PromiseLayer::new(), |promises| {
        let work = async || {
            let _bomb = Bomb;
            Promises::current().unwrap().cancel("x");
            std::future::pending::<()>().await;
        };
        let error = match promises.result_or_submit("x", work) {
            Err(PromiseError::Pending { .. }) => return Ok(String::new()),
            other => other.unwrap_err(),
        };
        Ok(error.to_string())
    });
    assert_eq!(answer.await.unwrap().body, "promise `x` was cancelled");
    assert!(log.text().contains("when dropped"), "{}", log.text());
}

#[tokio::test]
async fn a_service_that_panics_when_it_is_called_ends_the_request() {
    use tower::{Layer, ServiceExt, service_fn};

    let kept = Arc::new(Mutex::new(None::<Promises>));
    let (undone, dropped) = (Counter::default(), Counter::default());
    let service = {
        let (kept, undone, dropped) = (Arc::clone(&kept), undone.clone(), dropped.clone());
        PromiseLayer::new().layer(service_fn(move |request: test_support::TestRequest| {
            let promises = test_support::promises(&request);
            let undone = undone.clone();
            promises.on_discard(move || undone.add());
            let (handle, guard) = (promises.clone(), dropped.on_drop());
            let work = async move {
                let _both = (handle, guard);
            };
            promises.submit("x", work).unwrap();
            *kept.lock().unwrap() = Some(promises);
            let is_there = request.extensions().get::<u8>().is_some();
            assert!(is_there, "the handler fell over");
            std::future::ready(Ok::<_, BoxError>(test_support::text_response("")))
        }))
    };
    let request = tokio::spawn(service.oneshot(test_support::get("/")));
    assert!(request.await.unwrap_err().is_panic());
    assert_eq!((undone.get(), dropped.get()), (1, 1));
    let kept = kept.lock().unwrap().take().unwrap();
    let error = kept.resolve("y", async || ()).await.unwrap_err();
    assert!(matches!(error, PromiseError::Ended { .. }), "{error:?}");
}

#[tokio::test]
async fn an_ended_request_has_nothing_to_clear() {
    use tower::{Layer, ServiceExt, service_fn};

    let kept = Arc::new(Mutex::new(None::<Promises>));
    let service = {
        let kept = Arc::clone(&kept);
        PromiseLayer::new().layer(service_fn(move |request: test_support::TestRequest| {
            *kept.lock().unwrap() = Some(test_support::promises(&request));
            std::future::ready(Ok::<_, BoxError>(test_support::text_response("")))
        }))
    };
    let outer = Promises::with_results(PromiseResults::new().value("x", 1_u32));
    let mut request = test_support::get("/");
    request.extensions_mut().insert(outer);
    service.oneshot(request).await.unwrap();
    let kept = kept.lock().unwrap().take().unwrap();
    assert!(!kept.clear("x"));
    assert!(!kept.reset("x"));
}
