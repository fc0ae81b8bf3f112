//! Signals of another version of the program.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use test_support::task::chain;
use test_support::{Log, soon, two_processes};
use tower_promises_signals::{SignalError, Signals};

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    price: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct New {
    price: Price,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Price {
    amount: u32,
    currency: String,
}

fn new() -> New {
    let currency = "EUR 4711".to_owned();
    New {
        price: Price {
            amount: 7,
            currency,
        },
    }
}

fn is_wrong<T: std::fmt::Debug>(received: Result<T, SignalError>) {
    let error = received.unwrap_err();
    assert!(matches!(error, SignalError::WrongType { .. }), "{error:?}");
    let text = chain(&error);
    let expected = "signal `price`: what was sent is not a `values::unreadable_signals::Old`: invalid type: map";
    assert!(text.starts_with(expected), "{text}");
}

fn is_logged(log: &Log) {
    let text = log.text();
    let logged = text.lines().find(|line| line.contains("WARN")).unwrap();
    for part in [
        "signal=\"price\"",
        "unreadable_signals::Old",
        "cannot read the value",
    ] {
        assert!(logged.contains(part), "{logged}");
    }
    assert!(!text.contains("4711"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_one_waiter_cannot_read_reaches_all_others() {
    let log = Log::start();
    let [here, there] = two_processes().await;
    let old = (here.wait::<Old>("price"), there.wait::<Old>("price"));
    let young = (here.wait::<New>("price"), there.wait::<New>("price"));
    assert_eq!(here.send("price", &new()).await.unwrap(), 2);
    for received in [soon(old.0).await, soon(old.1).await] {
        is_wrong(received);
    }
    for received in [soon(young.0).await, soon(young.1).await] {
        assert_eq!(received.unwrap(), new());
    }
    is_logged(&log);
}

#[tokio::test(start_paused = true)]
async fn a_latch_that_one_waiter_cannot_read_stays_for_all_others() {
    let log = Log::start();
    let [here, there] = two_processes().await;
    here.latch("price", &new(), MINUTE).await.unwrap();
    for _ in 0..2 {
        for process in [&here, &there] {
            is_wrong(soon(process.wait::<Old>("price")).await);
            let received = soon(process.wait::<New>("price")).await;
            assert_eq!(received.unwrap(), new());
        }
    }
    is_logged(&log);
}

#[tokio::test(start_paused = true)]
async fn a_value_for_one_waiter_goes_to_the_next_one_that_can_read_it() {
    let signals = Signals::memory();
    let old = [
        signals.wait::<Old>("price"),
        signals.wait::<Old>("price").timeout(MINUTE),
    ];
    let young = signals.wait::<New>("price");
    let last = signals.wait::<New>("price").timeout(MINUTE);
    assert!(signals.send_one("price", &new()).await.unwrap());
    for wait in old {
        is_wrong(soon(wait).await);
    }
    assert_eq!(soon(young).await.unwrap(), new());
    let error = soon(last).await.unwrap_err();
    assert!(matches!(error, SignalError::TimedOut { .. }), "{error:?}");
}
