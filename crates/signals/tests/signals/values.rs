//! Signals within a process: delivery, order, limits and cleanup.

use futures_util::{FutureExt, future};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use static_assertions::assert_impl_all;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::{
    TestRequest, answer, ask, get, promises, soon, text_response, two_processes, until,
};
use tokio::time::{Instant, advance, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::{BoxError, PromiseError, PromiseLayer};
use tower_promises_backend::Backend;
use tower_promises_signals::SignalError;
use tower_promises_signals::{Signals, Wait};

assert_impl_all!(Signals: Clone, Send, Sync, std::fmt::Debug);
assert_impl_all!(Wait<String>: Send, Sync, std::fmt::Debug);
// For every type of value.
assert_impl_all!(Wait<std::rc::Rc<u8>>: Send, Sync);
assert_impl_all!(SignalError: Clone, Error, Send, Sync);

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_send_reaches_all_waiters_and_tells_how_many() {
    let signals = Signals::memory();
    let waits: Vec<_> = (0..100).map(|_| signals.wait::<u32>("x")).collect();
    let other = signals.wait::<u32>("y");
    assert_eq!((signals.waiters("x"), signals.all_waiters()), (100, 101));

    assert_eq!(signals.send("x", &7).await.unwrap(), 100);
    assert_eq!((signals.waiters("x"), signals.all_waiters()), (0, 1));
    for wait in waits {
        assert_eq!(soon(wait).await.unwrap(), 7);
    }
    assert!(other.timeout(SECOND).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_send_without_waiters_is_lost() {
    let signals = Signals::memory();
    assert_eq!(signals.send("x", &1).await.unwrap(), 0);
    assert!(!signals.send_one("x", &2).await.unwrap());
    let error = signals.wait::<u32>("x").timeout(SECOND).await.unwrap_err();
    assert!(matches!(error, SignalError::TimedOut { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_send_before_the_first_poll_is_not_lost() {
    let signals = Signals::memory();
    let wait = signals.wait::<String>("x");
    let only = signals.wait::<String>("one");
    assert_eq!(signals.send("x", "early").await.unwrap(), 1);
    assert!(signals.send_one("one", "early").await.unwrap());
    assert_eq!(wait.now_or_never().unwrap().unwrap(), "early");
    assert_eq!(only.now_or_never().unwrap().unwrap(), "early");
}

#[tokio::test(start_paused = true)]
async fn a_send_does_nothing_before_it_is_polled_and_borrows_nothing() {
    let signals = Signals::memory();
    let wait = signals.wait::<u32>("x");
    let send = signals.send("x", &1);
    drop(signals);
    let sent = tokio::spawn(send).await.unwrap();
    assert_eq!((sent.unwrap(), soon(wait).await.unwrap()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_a_value() {
    let signals = Signals::memory().namespace("chat");
    let start = Instant::now();
    let wait = signals.wait::<u32>("room").timeout(SECOND);
    // The timeout starts now, not at the first poll.
    advance(SECOND / 2).await;
    let error = soon(wait).await.unwrap_err();
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(
        error.to_string(),
        "signal `chat/room` was not sent within 1s"
    );
    assert_eq!(error.name(), Some("chat/room"));
    assert_eq!(signals.all_waiters(), 0);

    let forever = signals.wait::<u32>("room").timeout(Duration::MAX);
    assert!(timeout(SECOND * 1000, forever).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_has_arrived_wins_over_a_timeout() {
    let signals = Signals::memory();
    let wait = signals.wait::<u32>("x").timeout(SECOND);
    signals.send("x", &1).await.unwrap();
    advance(SECOND * 2).await;
    assert_eq!(soon(wait).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_is_gone_at_once() {
    let signals = Signals::memory();
    let (first, second) = (signals.wait::<u32>("x"), signals.wait::<u32>("x"));
    drop(first);
    assert_eq!(signals.all_waiters(), 1);
    assert_eq!(signals.send("x", &1).await.unwrap(), 1);
    drop(second);
    assert_eq!(signals.all_waiters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_latch_reaches_late_waiters_until_it_expires() {
    let signals = Signals::memory();
    let before = signals.wait::<u32>("x");
    assert_eq!(signals.latch("x", &7, SECOND * 10).await.unwrap(), 1);
    assert_eq!(soon(before).await.unwrap(), 7);

    for _ in 0..3 {
        advance(SECOND * 3).await;
        let late = signals.wait::<u32>("x").timeout(SECOND / 10).await;
        assert_eq!(late.unwrap(), 7);
    }
    advance(SECOND).await;
    let too_late = signals.wait::<u32>("x").timeout(SECOND * 100).await;
    assert!(matches!(too_late, Err(SignalError::TimedOut { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_latch_is_replaced_and_ended() {
    let signals = Signals::memory();
    signals.latch("x", &1, SECOND * 10).await.unwrap();
    signals.latch("x", &2, SECOND * 10).await.unwrap();
    assert_eq!(signals.wait::<u32>("x").timeout(SECOND).await.unwrap(), 2);
    assert!(signals.unlatch("x").await.unwrap());
    assert!(!signals.unlatch("x").await.unwrap());
    signals.wait::<u32>("x").timeout(SECOND).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn send_one_reaches_the_next_waiter_when_the_first_is_dropped() {
    let signals = Signals::memory();
    let (first, second) = (signals.wait::<u32>("x"), signals.wait::<u32>("x"));
    assert!(signals.send_one("x", &1).await.unwrap());
    drop(first);
    assert_eq!(soon(second).await.unwrap(), 1);
    // A value for all waiters is not passed on.
    let (first, second) = (signals.wait::<u32>("x"), signals.wait::<u32>("x"));
    assert_eq!(signals.send("x", &2).await.unwrap(), 2);
    let third = signals.wait::<u32>("x").timeout(SECOND);
    drop((first, second));
    third.await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn names_in_different_namespaces_do_not_collide() {
    let signals = Signals::memory();
    let names = [
        (signals.clone(), "a/b"),
        (signals.clone(), "a%2Fb"),
        (signals.namespace("a"), "b"),
        (signals.namespace("a/b"), ""),
        (signals.namespace("a").namespace("b"), ""),
        (signals.namespace("").namespace("a"), "b"),
        (signals.namespace(""), "a/b"),
        (signals.clone(), "a\0b"),
    ];
    for (index, (handle, name)) in names.iter().enumerate() {
        let waits = names
            .iter()
            .map(|(handle, name)| handle.wait::<usize>(name).timeout(SECOND));
        let waits: Vec<_> = waits.collect();
        assert_eq!(handle.send(name, &index).await.unwrap(), 1);
        let results = future::join_all(waits).await;
        let got: Vec<_> = results.iter().map(Result::is_ok).collect();
        let expected: Vec<_> = (0..names.len()).map(|other| other == index).collect();
        assert_eq!(got, expected, "{name:?}");
    }
    assert_eq!(&*signals.namespace("a").path("b/c"), "a/b%2Fc");
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Point {
    x: i32,
    y: i32,
}

#[tokio::test(start_paused = true)]
async fn values_are_serde_values() {
    let [here, there] = two_processes().await;
    let same = there.wait::<Point>("x");
    let alike = there.wait::<serde_json::Value>("x");
    let wrong = there.wait::<Vec<String>>("x");
    here.send("x", &Point { x: 1, y: -1 }).await.unwrap();
    assert_eq!(soon(same).await.unwrap(), Point { x: 1, y: -1 });
    assert_eq!(soon(alike).await.unwrap()["y"], -1);
    let error = soon(wrong).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "signal `x`: what was sent is not a `alloc::vec::Vec<alloc::string::String>`"
    );
    assert!(error.source().is_some());

    let not_json = std::collections::HashMap::from([(Some(1), 2), (None, 3)]);
    let error = here.send("x", &not_json).await.unwrap_err();
    assert!(matches!(error, SignalError::Serialize { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn waiters_are_limited() {
    let signals = Signals::builder(Backend::memory())
        .max_waiters_per_name(2)
        .max_waiters(3)
        .build();
    let mut waits: Vec<_> = (0..2).map(|_| signals.wait::<u32>("x")).collect();
    let error = signals.wait::<u32>("x").await.unwrap_err();
    assert_eq!(error.to_string(), "signal `x`: there are already 2 waiters");
    waits.push(signals.namespace("other").wait("x"));
    let error = signals.wait::<u32>("y").await.unwrap_err();
    assert!(matches!(
        error,
        SignalError::TooManyWaiters { limit: 3, .. }
    ));
    // A wait that was dropped or has resolved makes room for another one.
    drop(waits.remove(0));
    let wait = signals.wait::<u32>("x");
    assert_eq!(signals.send("x", &1).await.unwrap(), 2);
    let next = signals.wait::<u32>("x").timeout(SECOND);
    assert_eq!(soon(wait).await.unwrap(), 1);
    assert!(matches!(next.await, Err(SignalError::TimedOut { .. })));
}

#[tokio::test(start_paused = true)]
async fn sizes_are_limited() {
    let signals = Signals::builder(Backend::memory())
        .max_message_bytes(5)
        .build();
    let wait = signals.wait::<String>("x");
    for error in [
        signals.send("x", "abcd").await.unwrap_err(),
        signals.send_one("x", "abcd").await.map(|_| ()).unwrap_err(),
        signals.latch("x", "abcd", SECOND).await.unwrap_err(),
    ] {
        assert_eq!(
            error.to_string(),
            "signal `x`: the value has 6 bytes, more than the 5 that are allowed"
        );
    }
    assert_eq!(signals.send("x", "abc").await.unwrap(), 1);
    assert_eq!(soon(wait).await.unwrap(), "abc");

    let name = "n".repeat(513);
    let error = signals.send(&name, "").await.unwrap_err();
    assert!(error.to_string().starts_with("the name of a signal has"));
    let error = signals.wait::<String>(&name).await.unwrap_err();
    assert!(matches!(error, SignalError::NameTooLong { .. }));
    let error = signals.unlatch(&name).await.unwrap_err();
    assert!(matches!(error, SignalError::NameTooLong { .. }));
    let longest = signals.wait::<String>(&name[1..]);
    assert_eq!(signals.send(&name[1..], "").await.unwrap(), 1);
    assert_eq!(soon(longest).await.unwrap(), "");
}

#[test]
fn without_a_runtime_there_is_an_error_value() {
    let signals = Signals::memory();
    let wait = signals.wait::<u32>("x").timeout(SECOND);
    let error = wait.now_or_never().unwrap().unwrap_err();
    assert!(matches!(error, SignalError::NoRuntime), "{error}");
    assert_eq!(signals.all_waiters(), 0);
    let send = signals.send("x", &1).now_or_never().unwrap();
    assert!(matches!(send, Err(SignalError::NoRuntime)));
    let listen = signals.listen().now_or_never().unwrap();
    assert!(matches!(listen, Err(SignalError::NoRuntime)));
}

/// A page that shows a value from another request, rendered without waiting.
fn page(
    signals: &Signals,
) -> impl Fn(&tower_promises::Promises) -> Result<String, BoxError> + Clone {
    let signals = signals.clone();
    move |promises| {
        let message = promises.result_or_try_submit("message", || {
            signals.wait::<String>("message").timeout(SECOND * 30)
        });
        match message {
            Ok(message) => Ok(format!("they say {message}")),
            Err(PromiseError::Failed { error, .. })
                if matches!(error.downcast_ref(), Some(SignalError::TimedOut { .. })) =>
            {
                Ok("nobody answered".to_owned())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_shows_a_value_from_another_request() {
    let signals = Signals::memory();
    let asked = ask(PromiseLayer::new(), page(&signals));
    let said = async {
        until("the page waits", || signals.waiters("message") == 1).await;
        signals.send("message", "hello").await.unwrap()
    };
    let (answer, heard) = future::join(asked, said).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes, heard),
        ("they say hello", 2, 1)
    );

    let start = Instant::now();
    let answer = ask(PromiseLayer::new(), page(&signals)).await.unwrap();
    assert_eq!(answer.body, "nobody answered");
    assert_eq!(start.elapsed(), SECOND * 30);
}

#[tokio::test(start_paused = true)]
async fn a_send_between_submit_and_first_poll_is_not_lost() {
    let signals = Signals::memory();
    let service = PromiseLayer::new().layer(service_fn(async |request: TestRequest| {
        let promises = promises(&request);
        let value = promises.result_or_try_submit("x", || signals.wait::<u32>("x"));
        if promises.pass() == 1 {
            // Promises start at the end of the pass.
            assert_eq!(signals.send("x", &7).await.unwrap(), 1);
        }
        Ok::<_, PromiseError>(text_response(value?.to_string()))
    }));
    let response = timeout(SECOND, service.oneshot(get("/"))).await.unwrap();
    let answer = answer(response.unwrap()).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "7"));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_dropped_with_its_request() {
    let signals = Signals::memory();
    let requests: Vec<_> = (0..10)
        .map(|_| Box::pin(ask(PromiseLayer::new(), page(&signals))))
        .collect();
    let mut requests = future::join_all(requests);
    assert!((&mut requests).now_or_never().is_none());
    assert_eq!(signals.all_waiters(), 10);
    drop(requests);
    assert_eq!(signals.all_waiters(), 0);
    assert_eq!(signals.send("message", "hello").await.unwrap(), 0);
}

/// Waiters are created and dropped while values are sent. Each value must reach a waiter that is not dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn values_for_one_waiter_survive_dropped_waiters() {
    const VALUES: usize = 3000;
    let signals = Signals::memory();
    let sent = Arc::new(AtomicBool::new(false));
    let mut fickle = Vec::new();
    for _ in 0..3 {
        let (signals, sent) = (signals.clone(), sent.clone());
        fickle.push(std::thread::spawn(move || {
            while !sent.load(Ordering::SeqCst) {
                drop((signals.wait::<usize>("x"), signals.wait::<usize>("x")));
            }
        }));
    }
    let mut patient = Vec::new();
    for _ in 0..VALUES {
        patient.push(tokio::spawn(signals.wait::<usize>("x")));
    }
    for value in 0..VALUES {
        assert!(signals.send_one("x", &value).await.unwrap());
    }
    let received = timeout(SECOND * 60, future::join_all(patient)).await;
    sent.store(true, Ordering::SeqCst);
    for thread in fickle {
        thread.join().unwrap();
    }
    let received = received.expect("none is lost").into_iter();
    let mut received: Vec<_> = received.map(|value| value.unwrap().unwrap()).collect();
    received.sort_unstable();
    assert_eq!(received, (0..VALUES).collect::<Vec<_>>());
}
