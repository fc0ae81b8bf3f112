//! Timeouts of a promise and of a request.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use test_support::{Counter, Log, ask, ask_async};
use tokio::time::{Instant, sleep};
use tower_promises::promise::{OnTimeout, Rejection};
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_promise_that_times_out_reads_as_an_error() {
    let log = Log::start();
    let (start, dropped) = (Instant::now(), Counter::default());
    let layer = PromiseLayer::new().promise_timeout(SECOND);
    let answer = ask(layer, |promises| {
        let guard = dropped.on_drop();
        let slow = || async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        let fast = || async {
            sleep(SECOND / 2).await;
            "fast"
        };
        let slow = promises.result_or_submit("slow", slow).or_pending(());
        let fast = promises.result_or_submit("fast", fast).or_pending("");
        Ok(format!(
            "{} {:?}",
            fast?,
            slow.map_err(|error| error.to_string())
        ))
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.body, "fast Err(\"promise `slow` timed out\")");
    assert_eq!((answer.status.as_u16(), answer.passes), (200, 2));
    assert_eq!(start.elapsed(), SECOND);
    // One guard is in the promise, the other in the closure that pass 2 did not call.
    assert_eq!(dropped.get(), 2);
    assert!(
        log.text().contains("WARN") && log.text().contains("slow"),
        "{}",
        log.text()
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_promise_counts_from_its_start() {
    let layer = PromiseLayer::new().promise_timeout(SECOND);
    let answer = ask(layer, |promises| {
        let work = async || sleep(SECOND * 3 / 4).await;
        promises.result_or_submit("a", work)?;
        promises.result_or_submit("b", work)?;
        promises.result_or_submit("c", work)?;
        Ok("all in time".to_owned())
    });
    assert_eq!(answer.await.unwrap().body, "all in time");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_is_rejected() {
    let log = Log::start();
    let (start, dropped) = (Instant::now(), Counter::default());
    let answer = ask(PromiseLayer::new().timeout(SECOND), |promises| {
        let guard = dropped.on_drop();
        let work = || async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        promises.result_or_submit("secret", work)?;
        Ok("never".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.passes), (503, 1));
    assert_eq!(answer.content_type, "application/problem+json");
    assert!(!answer.body.contains("secret"), "{}", answer.body);
    assert!(matches!(
        answer.rejection,
        Some(Rejection::TimedOut { after: SECOND, .. })
    ));
    assert_eq!((start.elapsed(), dropped.get()), (SECOND, 1));
    assert!(
        log.text().contains("the request took longer than 1s"),
        "{}",
        log.text()
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_handler_counts() {
    let dropped = Counter::default();
    for on_timeout in [OnTimeout::Reject, OnTimeout::FinalPass] {
        let layer = PromiseLayer::new().timeout(SECOND).on_timeout(on_timeout);
        let answer = ask_async(layer, async |_| {
            let _guard = dropped.on_drop();
            std::future::pending().await
        });
        let answer = answer.await.unwrap();
        // There is no final pass, because the handler has not requested a promise.
        assert_eq!((answer.status.as_u16(), answer.passes), (503, 1));
    }
    assert_eq!(dropped.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_final_pass_renders_the_settled_promises() {
    let layer = PromiseLayer::new()
        .timeout(SECOND)
        .on_timeout(OnTimeout::FinalPass);
    let answer = ask(layer, |promises| {
        let fast = promises
            .result_or_submit("fast", async || "fast")
            .or_pending("")?;
        let slow = promises.result_or_submit("slow", std::future::pending::<&str>);
        let slow = match slow.or_pending("") {
            Ok(slow) => slow,
            Err(PromiseError::TimedOut { .. }) => {
                // A promise that is submitted in the final pass times out at once.
                let more = promises.result_or_submit("more", async || "more");
                assert!(
                    matches!(more, Err(PromiseError::TimedOut { .. })),
                    "{more:?}"
                );
                assert!(!promises.will_discard());
                "timed out"
            }
            Err(error) => return Err(error.into()),
        };
        Ok(format!("{fast}, {slow}"))
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("fast, timed out", 2)
    );
    assert_eq!(answer.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_final_pass_replaces_a_pass_that_waits() {
    let start = Instant::now();
    let undone = Counter::default();
    let layer = PromiseLayer::new()
        .timeout(SECOND)
        .on_timeout(OnTimeout::FinalPass);
    let answer = ask_async(layer, async |promises: Promises| {
        let undone = undone.clone();
        promises.on_discard(move || undone.add());
        let read = promises.resolve("x", std::future::pending::<()>).await;
        // A promise that is awaited for the first time in the final pass times out at once.
        let more = promises.resolve("more", async || ()).await;
        for more in [more, promises.result("more")] {
            assert!(
                matches!(more, Err(PromiseError::TimedOut { .. })),
                "{more:?}"
            );
        }
        Ok(read.unwrap_err().to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("promise `x` timed out", 2)
    );
    assert_eq!((start.elapsed(), undone.get()), (SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn the_final_pass_has_a_timeout() {
    let start = Instant::now();
    let layer = PromiseLayer::new()
        .timeout(SECOND)
        .on_timeout(OnTimeout::FinalPass);
    let answer = ask_async(layer, async |promises: Promises| {
        match promises.result_or_submit("x", std::future::pending::<()>) {
            Err(PromiseError::TimedOut { .. }) => std::future::pending().await,
            read => read.map(|()| String::new()).map_err(Into::into),
        }
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.passes), (503, 2));
    assert_eq!(start.elapsed(), 2 * SECOND);
}

/// Never completes, and yields to other tasks only when tokio's cooperative budget is used up.
async fn busy() {
    loop {
        tokio::task::consume_budget().await;
    }
}

/// Advances the paused clock although the runtime is never idle.
fn let_time_pass() {
    tokio::spawn(async {
        tokio::time::advance(2 * SECOND).await;
    });
}

#[tokio::test(start_paused = true)]
async fn timeouts_fire_for_work_that_never_waits() {
    let_time_pass();
    let layer = PromiseLayer::new().promise_timeout(SECOND);
    let answer = ask(layer, |promises| {
        // Several groups of busy promises.
        let mut timed_out = 0;
        for index in 0..100 {
            match promises.result_or_submit(format!("{index}"), busy) {
                Err(PromiseError::TimedOut { .. }) => timed_out += 1,
                read => read.or_pending(())?,
            }
        }
        Ok(timed_out.to_string())
    });
    assert_eq!(answer.await.unwrap().body, "100");

    let_time_pass();
    let layer = PromiseLayer::new().timeout(SECOND);
    let answer = ask_async(layer, async |_| {
        busy().await;
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().status, 503);
}

#[tokio::test(start_paused = true)]
async fn the_final_pass_may_be_one_more_than_max_passes() {
    let layer = PromiseLayer::new()
        .max_passes(2)
        .timeout(SECOND)
        .on_timeout(OnTimeout::FinalPass);
    let answer = ask_async(layer, async |promises: Promises| {
        if promises.pass() == 2 {
            std::future::pending::<()>().await;
        }
        promises.result_or_submit("x", async || ())?;
        Ok("rendered".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("rendered", 3));
}

#[tokio::test(start_paused = true)]
async fn timeouts_of_any_length() {
    for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        for on_timeout in [OnTimeout::Reject, OnTimeout::FinalPass] {
            let layer = PromiseLayer::new()
                .promise_timeout(timeout)
                .timeout(timeout)
                .on_timeout(on_timeout);
            let answer = ask(layer, |promises| {
                let work = async || sleep(SECOND).await;
                promises.result_or_submit("x", work)?;
                Ok("done".to_owned())
            });
            let answer = answer.await;
            assert_eq!(
                answer.is_ok_and(|answer| answer.status == 200),
                timeout == Duration::MAX
            );
        }
    }
}

/// Each poll of the promise waits for another pending promise anew.
#[tokio::test(start_paused = true)]
async fn a_promise_that_waits_anew_in_each_poll_does_not_hold_back_the_timeout() {
    let layer = PromiseLayer::new().timeout(Duration::from_secs(1));
    let answer = ask(layer, |promises| {
        promises
            .result_or_submit("pending", pending::<u8>)
            .or_pending(0)?;
        let handle = promises.clone();
        promises.result_or_submit("waiting", move || {
            poll_fn(move |cx| {
                let mut value = pin!(handle.resolve("pending", pending::<u8>));
                let _ = value.as_mut().poll(cx);
                Poll::<u8>::Pending
            })
        })?;
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().status, 503);
}

/// The request was moved into its last pass, so nothing of it is left for another pass.
#[tokio::test(start_paused = true)]
async fn the_last_pass_that_is_allowed_is_rejected_when_its_time_is_up() {
    let start = Instant::now();
    let layer = PromiseLayer::new().max_passes(2).timeout(SECOND);
    let answer = ask_async(layer, async |promises| {
        let value = promises.result_or_submit("value", async || 7)?;
        assert_eq!((value, promises.pass()), (7, 2));
        let more = promises.result_or_submit("more", async || sleep(SECOND / 2).await);
        assert!(more.is_err_and(|error| error.is_pending()));
        pending().await
    });
    let answer = answer.await.unwrap();
    let rejection = answer.rejection.unwrap();
    assert!(
        matches!(rejection, Rejection::TimedOut { after, .. } if after == SECOND),
        "{rejection}"
    );
    assert_eq!((answer.status.as_u16(), answer.passes), (503, 2));
    assert_eq!(start.elapsed(), SECOND);
}
