//! Promises that start together are polled together, and do not affect each other.

use std::future::{pending, poll_fn};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use test_support::eventually::soon;
use test_support::{Counter, ask};
use tokio::task::yield_now;
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

#[tokio::test]
async fn a_panic_ends_only_the_promise_that_panicked() {
    let answer = ask(PromiseLayer::new(), |promises| {
        let number = |name: &'static str, value: u8| {
            let work = async move || {
                yield_now().await;
                value
            };
            promises.result_or_submit(name, work).or_pending(0)
        };
        let work = async || panic!("at once");
        let first: Result<u8, _> = promises.result_or_submit("first", work).or_pending(0);
        let before = number("before", 1);
        let work = async || {
            yield_now().await;
            panic!("later")
        };
        let second: Result<u8, _> = promises.result_or_submit("second", work).or_pending(0);
        let after = number("after", 2);
        let errors = [first, second].map(|result| match result {
            Err(PromiseError::Panicked { message, .. }) => message.to_string(),
            other => format!("{other:?}"),
        });
        Ok(format!("{} {} {}", before?, after?, errors.join(", ")))
    });
    let answer = answer.await.unwrap();
    let expected = ("1 2 at once, later", 2);
    assert_eq!((answer.body.as_str(), answer.passes), expected);
}

#[tokio::test]
async fn a_promise_may_cancel_its_neighbour_before_the_neighbour_is_polled() {
    let (polls, dropped) = (Counter::default(), Counter::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        let cancel = {
            let dropped = dropped.clone();
            async move || {
                let before = dropped.get();
                let is_cancelled = Promises::current().unwrap().cancel("neighbour");
                // The work is dropped at once.
                (is_cancelled, dropped.get() - before)
            }
        };
        let cancelled = promises.result_or_submit("cancel", cancel);
        let (polls, guard) = (polls.clone(), dropped.on_drop());
        let work = async move || {
            polls.add();
            drop(guard);
        };
        let neighbour = promises.result_or_submit("neighbour", work);
        Ok(format!("{:?} {}", cancelled?, neighbour.unwrap_err()))
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.body, "(true, 1) promise `neighbour` was cancelled");
    assert_eq!(polls.get(), 0);
}

/// The neighbours of the promise have settled, so that nothing but the cancel wakes its group.
#[tokio::test]
async fn another_thread_cancels_the_last_promise_of_one_group_of_many() {
    for others in [0, 31, 32, 99] {
        let (polled, is_polled) = mpsc::channel();
        let (sender, receiver) = mpsc::channel::<Promises>();
        let canceller = thread::spawn(move || {
            let promises = receiver.recv().unwrap();
            is_polled.recv().unwrap();
            promises.cancel("last")
        });
        let answer = ask(PromiseLayer::new(), |promises| {
            if promises.pass() == 1 {
                sender.send(promises.clone())?;
            }
            for number in 0..others {
                promises
                    .result_or_submit(format!("{number}"), async || 0)
                    .or_pending(0)?;
            }
            let polled = polled.clone();
            let work = move || {
                poll_fn(move |_| {
                    let _ = polled.send(());
                    Poll::<()>::Pending
                })
            };
            match promises.result_or_submit("last", work) {
                Err(error @ PromiseError::Cancelled { .. }) => Ok(error.to_string()),
                other => Ok(other.map(|()| String::new())?),
            }
        });
        let answer = soon(answer).await.unwrap();
        let expected = ("promise `last` was cancelled", 2);
        assert_eq!((answer.body.as_str(), answer.passes), expected);
        assert!(canceller.join().unwrap());
    }
}

/// The promise that resets the others is in another group, and wakes only that.
#[tokio::test]
async fn a_promise_may_be_reset_while_its_neighbours_run() {
    let answer = ask(PromiseLayer::new(), |promises| {
        if promises.pass() == 1 {
            for number in 0..40 {
                promises.submit(format!("{number}"), pending::<()>())?;
            }
        }
        let work = async || {
            let promises = Promises::current().unwrap();
            yield_now().await;
            (0..40).all(|number| promises.reset(format!("{number}")))
        };
        let are_reset = promises.result_or_submit("reset", work)?;
        Ok(format!("{are_reset} {:?}", promises.keys()))
    });
    let answer = soon(answer).await.unwrap();
    let expected = ("true [\"reset\"]", 2);
    assert_eq!((answer.body.as_str(), answer.passes), expected);
}
