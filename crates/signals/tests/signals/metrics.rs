//! Metrics of signals.

use bytes::Bytes;
use futures_util::FutureExt;
use std::time::Duration;
use test_support::away::Away;
use test_support::recorded::RecordedHere;
use test_support::until;
use tokio::time::{sleep, timeout};
use tower_promises_backend::Backend;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_signals::{SignalError, Signals};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn waits_are_counted_by_outcome() {
    let recorded = RecordedHere::start();
    let signals = Signals::memory();
    let waits = || recorded.value("signal_waits_in_flight");

    let (received, mistaken) = (
        signals.wait::<u32>("number"),
        signals.wait::<bool>("number"),
    );
    let late = signals.wait::<u32>("never").timeout(SECOND * 2);
    let dropped = signals.wait::<u32>("never");
    let cancelled = timeout(SECOND, signals.wait::<u32>("never"));
    assert_eq!(waits(), 5.0);
    assert!(cancelled.await.is_err());
    signals.send("number", &7).await.unwrap();
    assert_eq!(received.await.unwrap(), 7);
    assert!(matches!(mistaken.await, Err(SignalError::WrongType { .. })));
    assert!(matches!(late.await, Err(SignalError::TimedOut { .. })));
    assert_eq!(waits(), 1.0);
    drop(dropped);
    assert_eq!(waits(), 0.0);

    let waits =
        |outcome: &str, count: u32| format!("signal_waits_total{{outcome=\"{outcome}\"}} {count}");
    assert_eq!(
        recorded.values("signal_waits"),
        [
            waits("dropped", 2),
            waits("received", 1),
            waits("timed_out", 1),
            waits("wrong_type", 1)
        ]
    );
    let time = |outcome: &str| {
        recorded.value(&format!(
            "signal_wait_duration_seconds_sum{{outcome=\"{outcome}\"}}"
        ))
    };
    assert!((2.0..2.1).contains(&time("timed_out")));
    assert!((1.0..1.1).contains(&time("received")));
}

#[tokio::test(start_paused = true)]
async fn values_are_counted_by_how_they_were_sent() {
    let recorded = RecordedHere::start();
    let signals = Signals::memory();
    let waits: Vec<_> = (0..3).map(|_| signals.wait::<u32>("number")).collect();
    assert!(signals.send_one("number", &1).await.unwrap());
    assert_eq!(signals.send("number", &2).await.unwrap(), 2);
    assert!(!signals.send_one("number", &3).await.unwrap());
    signals.latch("number", &4, SECOND).await.unwrap();
    // A value that is not sent is not counted.
    assert!(signals.send("number", &f64::NAN).await.is_err());
    assert_eq!(
        recorded.values("signals_sent"),
        [
            "signals_sent_total{method=\"latch\"} 1",
            "signals_sent_total{method=\"send\"} 1",
            "signals_sent_total{method=\"send_one\"} 2"
        ]
    );
    drop(waits);
}

#[tokio::test(start_paused = true)]
async fn refused_waits_are_counted_apart() {
    let recorded = RecordedHere::start();
    let signals = Signals::builder(Backend::memory()).max_waiters(1).build();
    let first = signals.wait::<u32>("a");
    let error = signals.wait::<u32>("b").await.unwrap_err();
    assert!(matches!(error, SignalError::TooManyWaiters { .. }));
    drop(first);
    assert_eq!(
        recorded.values("signal_waits"),
        [
            "signal_waits_refused_total 1",
            "signal_waits_total{outcome=\"dropped\"} 1"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_too_fast_are_counted() {
    let recorded = RecordedHere::start();
    let bus = MemoryBus::builder().bus_capacity(16).build();
    let backend = Backend::new(MemoryStore::new(), bus, MemoryQueue::new());
    let signals = Signals::new(backend.clone());
    signals.listen().await.unwrap();
    for _ in 0..100 {
        let noise = backend.bus().publish("noise", Bytes::new());
        noise.now_or_never().unwrap().unwrap();
    }
    until("the lag is noticed", || {
        recorded.value("signals_missed_total") == 84.0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_backend_are_counted_by_kind() {
    let recorded = RecordedHere::start();
    let backend = Backend::new(MemoryStore::new(), Away, MemoryQueue::new());
    let signals = Signals::new(backend);
    assert!(signals.send("number", &7).await.is_err());
    let wait = signals.wait::<u32>("number");
    sleep(SECOND).await;
    let errors =
        |kind: &str| recorded.value(&format!("signal_backend_errors_total{{kind=\"{kind}\"}}"));
    assert_eq!(errors("call"), 1.0);
    assert!(errors("bus") >= 2.0);
    assert_eq!(recorded.values("signals_sent"), [""; 0]);
    drop(wait);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_is_counted() {
    let recorded = RecordedHere::start();
    let backend = Backend::memory();
    let signals = Signals::new(backend.clone());
    signals.listen().await.unwrap();
    let wait = signals.wait::<u32>("sesame");
    let payload = Bytes::from_static(b"?");
    backend
        .bus()
        .publish("signal/sesame", payload)
        .await
        .unwrap();
    let unreadable = "signal_backend_errors_total{kind=\"message\"}";
    until("it is counted", || recorded.value(unreadable) == 1.0).await;
    // The name of a signal is no label.
    assert!(!recorded.handle.render().contains("sesame"));
    drop(wait);
}

#[test]
fn the_documentation_has_all_metrics_with_their_kinds_and_labels() {
    let code = include_str!("../../src/metrics.rs");
    test_support::described::assert_is_documented(code, tower_promises_signals::metrics::describe);
}
