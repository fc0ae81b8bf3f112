//! The suite for queues. Ids are known for a while after they have ended, so each run has queues of its own.

mod leases;
mod limits;
mod work;

pub use leases::{queue_dropped_takes, queue_leases, queue_retries};
pub use limits::{queue_deduplication, queue_deliveries, queue_limits, queue_order};
pub use work::{queue_shutdown, queue_work, queue_workers};

use super::{PATIENCE, answer};
use crate::backend::{Enqueued, Envelope, Outcome, Queue, Taken};
use bytes::Bytes;
use futures_util::future::{join, join3, join4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// Long enough for what a busy machine does under one, short enough to wait for its end.
const LEASE: Duration = Duration::from_secs(2);

/// A lease that does not end while a suite runs.
const LONG_LEASE: Duration = Duration::from_secs(120);

/// More than the second by which a time may be too long.
const TOLERANCE: Duration = Duration::from_millis(1500);

/// How much later than at its time something may be seen, on a busy machine too.
const LATE: Duration = Duration::from_secs(12);

/// What two clocks may differ, and how their times are rounded.
const EARLY: Duration = Duration::from_millis(5);

/// How long nothing must be delivered for a queue to be empty.
const QUIET: Duration = Duration::from_millis(300);

/// How many call at once.
const RIVALS: usize = 16;

/// Checks every guarantee of [`Queue`]. `make` connects to the same queue each time.
///
/// # Panics
///
/// Where a guarantee does not hold.
pub async fn queue<Q: Queue>(make: impl AsyncFn() -> Q) {
    // Most of them wait most of the time, and each has queues of its own. On the heap, because all of them
    // together are too large for the stack of a test.
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
    let work = join(Box::pin(queue_work(&make)), Box::pin(queue_shutdown(&make)));
    join3(limits, leases, work).await;
    Box::pin(queue_workers(&make)).await;
}

/// The name of a queue that nobody has used.
fn fresh(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("conformance/{what}/{}-{count}", time.as_nanos())
}

/// Adds an envelope that was not there.
async fn add(queue: &impl Queue, envelope: Envelope) {
    let id = envelope.id.clone();
    let added = answer("enqueue", queue.enqueue(envelope)).await;
    assert_eq!(added, Enqueued::Added, "`{id}` is new");
}

/// Adds one whose payload is its id.
async fn add_id(queue: &impl Queue, name: &str, id: &str) {
    add(queue, envelope(name, id)).await;
}

/// An envelope whose payload is its id.
fn envelope(name: &str, id: &str) -> Envelope {
    Envelope::new(name, id, Bytes::copy_from_slice(id.as_bytes()))
}

/// Takes one envelope.
async fn take(queue: &impl Queue, name: &str, lease: Duration) -> Taken {
    let mut taken = answer("take", queue.take(name, 1, lease)).await;
    assert_eq!(
        taken.len(),
        1,
        "`take` takes at least one and no more than asked"
    );
    taken.remove(0)
}

/// Settles an envelope whose lease is in force.
async fn settle(queue: &impl Queue, taken: &Taken, outcome: Outcome) {
    let settled = answer("settle", queue.settle(&taken.receipt, outcome)).await;
    assert!(settled, "a lease that is in force settles `{}`", taken.id);
}

/// That a queue delivers nothing.
async fn is_quiet(queue: &impl Queue, name: &str, why: &str) {
    let taken = timeout(QUIET, queue.take(name, 1, LEASE)).await;
    assert!(taken.is_err(), "{why}, but {taken:?} was taken");
}
