//! The suite for queues. Each run uses new queues, because ids stay known for a while after their end.

mod leases;
mod limits;
mod workers;

pub use leases::{queue_dropped_takes, queue_leases, queue_retries};
pub use limits::{queue_deduplication, queue_deliveries, queue_limits, queue_order};
pub use workers::{queue_prefetch, queue_shutdown, queue_work, queue_workers};

use super::{PATIENCE, answer};
use crate::{Enqueued, Envelope, Outcome, Queue, Taken};
use bytes::Bytes;
use futures_util::future::{join3, join4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// Long enough for the work of a busy machine during one lease, short enough to wait for its end.
const LEASE: Duration = Duration::from_secs(4);

/// A lease that does not end while a suite runs.
const LONG_LEASE: Duration = Duration::from_secs(120);

/// More than the second by which a time may exceed the requested one.
const TOLERANCE: Duration = Duration::from_millis(1500);

/// The maximum delay of an event, including the delays of a busy machine.
const LATE: Duration = Duration::from_secs(12);

/// The tolerance for differences between two clocks and for rounding.
const EARLY: Duration = Duration::from_millis(5);

/// The time without a delivery after which a queue counts as empty.
const QUIET: Duration = Duration::from_millis(300);

/// The number of concurrent callers.
const RIVALS: usize = 16;

/// Checks all guarantees of [`Queue`]. Each call of `make` connects to the same queue.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue<Q: Queue>(make: impl AsyncFn() -> Q) {
    // Runs concurrently, because the suites mostly wait and use separate queues. Boxed, because together they exceed
    // the stack of a test.
    let limits = join4(
        Box::pin(queue_deliveries(&make)),
        Box::pin(queue_deduplication(&make)),
        Box::pin(queue_order(&make)),
        Box::pin(queue_limits(&make)),
    );
    let leases = join3(
        Box::pin(queue_leases(&make)),
        Box::pin(queue_retries(&make)),
        Box::pin(queue_dropped_takes(&make)),
    );
    let work = join3(
        Box::pin(queue_work(&make)),
        Box::pin(queue_shutdown(&make)),
        Box::pin(queue_prefetch(&make)),
    );
    join3(limits, leases, work).await;
    Box::pin(queue_workers(&make)).await;
}

/// Returns the name of an unused queue.
fn fresh(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("conformance/{what}/{}-{count}", time.as_nanos())
}

/// Adds an envelope. Panics if its id is known.
async fn add(queue: &impl Queue, envelope: Envelope) {
    let id = envelope.id.clone();
    let added = answer("enqueue", queue.enqueue(envelope)).await;
    assert_eq!(added, Enqueued::Added, "`{id}` is new");
}

/// Adds an envelope with its id as the payload.
async fn add_id(queue: &impl Queue, name: &str, id: &str) {
    add(queue, envelope(name, id)).await;
}

/// Returns an envelope with its id as the payload.
fn envelope(name: &str, id: &str) -> Envelope {
    Envelope::new(name, id, Bytes::copy_from_slice(id.as_bytes()))
}

/// Takes one envelope.
async fn take(queue: &impl Queue, name: &str, lease: Duration) -> Taken {
    let mut taken = answer("take", queue.take(name, 1, lease)).await;
    assert_eq!(
        taken.len(),
        1,
        "`take` returns at least one envelope and no more than requested"
    );
    taken.remove(0)
}

/// Settles an envelope. Panics if its lease has ended.
async fn settle(queue: &impl Queue, taken: &Taken, outcome: Outcome) {
    let settled = answer("settle", queue.settle(&taken.receipt, outcome)).await;
    assert!(settled, "an active lease settles `{}`", taken.id);
}

/// Checks that a queue delivers nothing.
async fn is_quiet(queue: &impl Queue, name: &str, why: &str) {
    let taken = timeout(QUIET, queue.take(name, 1, LEASE)).await;
    assert!(taken.is_err(), "{why}, but {taken:?} was taken");
}
