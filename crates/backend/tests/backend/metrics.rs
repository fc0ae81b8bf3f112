//! Metrics of workers.

use crate::broken::{Broken, Fault};
use std::sync::Arc;
use std::time::Duration;
use test_support::recorded::RecordedHere;
use tokio::time::{sleep, timeout};
use tower_promises_backend::{Backend, Delivery, Envelope, Outcome, Queue, WorkOptions};

const SECOND: Duration = Duration::from_secs(1);

async fn work<F>(queue: &dyn Queue, handle: impl Fn(Delivery) -> F + Send + Sync + 'static)
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let envelope = Envelope::new("work", "one", "".into());
    queue.enqueue(envelope).await.unwrap();
    let options = WorkOptions::new("work").lease(SECOND);
    let work = queue.work(options, Arc::new(handle), Box::pin(sleep(SECOND * 60)));
    work.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_is_counted() {
    let recorded = RecordedHere::start();
    let handle = async |delivery: Delivery| {
        assert!(delivery.number > 1, "no tea");
        Outcome::Done
    };
    work(Backend::memory().queue(), handle).await;
    assert_eq!(
        recorded.values("worker"),
        ["worker_errors_total{call=\"handle\"} 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_queue_that_fail_are_counted() {
    let recorded = RecordedHere::start();
    let broken = Broken::new(Fault::FailsOften);
    for id in 0..10 {
        let envelope = Envelope::new("work", id.to_string(), "".into());
        broken.queue.enqueue(envelope).await.unwrap();
    }
    let handle = async |_| {
        sleep(SECOND * 10).await;
        Outcome::Done
    };
    let worked = timeout(SECOND * 120, async {
        let options = WorkOptions::new("work").lease(SECOND);
        let shutdown = Box::pin(sleep(SECOND * 60));
        broken.work(options, Arc::new(handle), shutdown).await
    });
    worked.await.unwrap().unwrap();
    for call in ["take", "renew", "settle"] {
        let errors = format!("worker_errors_total{{call=\"{call}\"}}");
        assert!(recorded.value(&errors) >= 1.0, "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_leases_are_counted() {
    let recorded = RecordedHere::start();
    let broken = Broken::new(Fault::LosesLeases);
    let handle = async |_| {
        sleep(SECOND * 10).await;
        Outcome::Done
    };
    work(&broken, handle).await;
    assert!(recorded.value("worker_lost_leases_total") >= 1.0);
}

#[test]
fn the_documentation_has_all_metrics_with_their_kinds_and_labels() {
    let code = include_str!("../../src/metrics.rs");
    test_support::described::assert_is_documented(code, tower_promises_backend::metrics::describe);
}
