//! The memory queue passes the conformance suite, broken queues fail it, and workers withstand failing backends and
//! handlers.

use crate::broken::{Broken, BrokenWork, Fault, SLOW, WorkFault};
use bytes::Bytes;
use futures_util::{FutureExt, future};
use static_assertions::{assert_impl_all, assert_obj_safe};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use test_support::eventually::until;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep, timeout};
use tower_promises_backend::memory::MemoryQueue;
use tower_promises_backend::{
    BackendError, Delivery, Enqueued, Envelope, Handler, Lease, Outcome, Queue, Taken, WorkOptions,
    conformance,
};

assert_obj_safe!(Queue, Handler);
assert_impl_all!(MemoryQueue: Queue, Clone, Default, Send, Sync, std::fmt::Debug);
assert_impl_all!(Delivery: Send, Sync, Clone, Unpin);

const LEASE: Duration = Duration::from_secs(30);

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn the_memory_queue_conforms() {
    let queue = MemoryQueue::new();
    conformance::queue(async || queue.clone()).await;
}

/// Runs on several threads, so that competing calls overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_queue_decides_races_between_threads() {
    let queue = MemoryQueue::new();
    let make = async || queue.clone();
    for _ in 0..3 {
        future::join3(
            conformance::queue_deduplication(make),
            conformance::queue_dropped_takes(make),
            conformance::queue_order(make),
        )
        .await;
        conformance::queue_workers(make).await;
    }
}

fn envelope(id: &str) -> Envelope {
    Envelope::new("queue", id, Bytes::copy_from_slice(id.as_bytes()))
}

async fn add(queue: &impl Queue, id: &str) {
    let added = queue.enqueue(envelope(id)).await.unwrap();
    assert_eq!(added, Enqueued::Added);
}

async fn take(queue: &impl Queue) -> Taken {
    let taken = timeout(MINUTE, queue.take("queue", 1, LEASE)).await;
    taken.expect("an envelope is available").unwrap().remove(0)
}

async fn done(queue: &impl Queue, taken: &Taken) {
    assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
}

async fn is_full(queue: &impl Queue, id: &str) -> bool {
    match queue.enqueue(envelope(id)).await {
        Err(BackendError::Full) => true,
        Ok(Enqueued::Added) => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_queue_is_bounded_in_number() {
    let queue = MemoryQueue::builder().max_envelopes(2).build();
    add(&queue, "a").await;
    let late = envelope("b").delay(MINUTE / 2);
    queue.enqueue(late).await.unwrap();
    assert!(is_full(&queue, "c").await);
    let again = queue.enqueue(envelope("a")).await.unwrap();
    assert_eq!(again, Enqueued::Duplicate, "the queue has this envelope");
    let a = take(&queue).await;
    assert!(is_full(&queue, "c").await, "a leased envelope counts");
    done(&queue, &a).await;
    assert!(!is_full(&queue, "c").await);
    let error = queue.enqueue(envelope("d")).await.unwrap_err();
    assert_eq!(error.to_string(), "the backend is full");
}

#[tokio::test(start_paused = true)]
async fn the_memory_queue_is_bounded_in_bytes() {
    let queue = MemoryQueue::builder()
        .max_bytes(10_000)
        .max_envelope_bytes(9_000)
        .build();
    let large = Envelope::new("queue", "large", vec![0; 9_000].into());
    queue.enqueue(large).await.unwrap();
    let mut small = 0;
    while !is_full(&queue, &small.to_string()).await {
        small += 1;
    }
    assert!((1..=3).contains(&small), "{small}");
    let large = take(&queue).await;
    let retry = Outcome::Retry { after: LEASE };
    assert!(queue.settle(&large.receipt, retry).await.unwrap());
    assert!(is_full(&queue, "more").await, "a waiting envelope counts");
    for _ in 0..=small {
        let taken = take(&queue).await;
        done(&queue, &taken).await;
    }
    for round in 0..100 {
        let large = Envelope::new("queue", format!("round {round}"), vec![0; 9_000].into());
        queue.enqueue(large).await.unwrap();
        let taken = take(&queue).await;
        done(&queue, &taken).await;
    }
    let too_large = Envelope::new("queue", "too large", vec![0; 9_001].into());
    let error = queue.enqueue(too_large).await.unwrap_err();
    assert!(matches!(
        error,
        BackendError::TooLarge {
            size: 9001,
            limit: 9000,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn the_memory_queue_forgets_ids_after_the_window() {
    let queue = MemoryQueue::builder()
        .deduplication_window(MINUTE)
        .max_envelopes(3)
        .build();
    let end = async |id: &str| {
        add(&queue, id).await;
        let taken = take(&queue).await;
        assert_eq!((&*taken.id, taken.number), (id, 1));
        done(&queue, &taken).await;
    };
    let is_known =
        async |id: &str| queue.enqueue(envelope(id)).await.unwrap() == Enqueued::Duplicate;
    end("a").await;
    advance(MINUTE - Duration::from_millis(1)).await;
    assert!(is_known("a").await);
    advance(Duration::from_millis(1)).await;
    end("a").await;
    // The queue remembers at most as many ids as it has room for envelopes.
    for id in ["b", "c", "d"] {
        end(id).await;
    }
    for id in ["b", "c", "d"] {
        assert!(is_known(id).await);
    }
    end("a").await;
}

/// Queues are created and removed, and their leases are not confused.
#[tokio::test(start_paused = true)]
async fn a_receipt_belongs_to_one_queue() {
    let queue = MemoryQueue::builder()
        .deduplication_window(Duration::ZERO)
        .build();
    let mut receipts = Vec::new();
    for round in 0..200 {
        let name = format!("queue {}", round % 50);
        let envelope = Envelope::new(name.clone(), "id", Bytes::new());
        assert_eq!(queue.enqueue(envelope).await.unwrap(), Enqueued::Added);
        let taken = queue.take(&name, 1, LEASE).await.unwrap().remove(0);
        for receipt in &receipts {
            assert!(!queue.settle(receipt, Outcome::Done).await.unwrap());
        }
        done(&queue, &taken).await;
        receipts.push(taken.receipt);
    }
}

/// The longest durations are valid.
#[tokio::test(start_paused = true)]
async fn durations_can_be_unlimited() {
    let queue = MemoryQueue::new();
    let never = envelope("never").delay(Duration::MAX);
    queue.enqueue(never).await.unwrap();
    add(&queue, "id").await;
    let taken = queue.take("queue", 2, Duration::MAX).await.unwrap();
    let [taken] = &taken[..] else {
        panic!("{taken:?}")
    };
    assert!(queue.renew(&taken.receipt, Duration::MAX).await.unwrap());
    let after = Duration::MAX;
    let retry = Outcome::Retry { after };
    assert!(queue.settle(&taken.receipt, retry).await.unwrap());
    let none = timeout(MINUTE * 60 * 24, queue.take("queue", 1, LEASE)).await;
    assert!(none.is_err(), "{none:?}");
}

/// A waiting call notices the end of a delay, even if another call noted that delay and was dropped.
#[tokio::test(start_paused = true)]
async fn a_dropped_take_does_not_lose_the_end_of_a_delay() {
    let queue = MemoryQueue::new();
    let mut gone = queue.take("queue", 1, LEASE);
    let mut waits = queue.take("queue", 1, LEASE);
    assert!((&mut gone).now_or_never().is_none());
    assert!((&mut waits).now_or_never().is_none());
    queue.enqueue(envelope("late").delay(LEASE)).await.unwrap();
    assert!((&mut gone).now_or_never().is_none());
    drop(gone);
    let taken = timeout(MINUTE, waits).await.unwrap().unwrap();
    assert_eq!(&*taken[0].id, "late");
}

/// Starts a worker that runs until the test ends.
fn work(queue: impl Queue, options: WorkOptions, handler: impl Handler) -> JoinHandle<()> {
    tokio::spawn(async move {
        let forever = future::pending().boxed();
        let ended = queue.work(options, Arc::new(handler), forever).await;
        panic!("the worker ended with {ended:?}");
    })
}

fn options() -> WorkOptions {
    WorkOptions::new("queue").lease(LEASE)
}

/// Sends its number and the time when it is dropped.
struct Dropped(mpsc::UnboundedSender<(u32, Instant)>, u32);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send((self.1, Instant::now()));
    }
}

/// Starts a worker with a handler that never ends. Returns the leases of started handlers, and the numbers of dropped
/// handlers with the times.
fn stuck(
    queue: &Broken,
) -> (
    mpsc::UnboundedReceiver<Lease>,
    mpsc::UnboundedReceiver<(u32, Instant)>,
) {
    let (leases, begun) = mpsc::unbounded_channel();
    let (sender, dropped) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let guard = Dropped(sender.clone(), delivery.number);
        leases.send(delivery.lease).unwrap();
        async move {
            let _guard = guard;
            future::pending().await
        }
    };
    work(queue.clone(), options(), handler);
    (begun, dropped)
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_lease_is_lost_is_dropped() {
    let queue = Broken::new(Fault::LosesLeases);
    let (mut begun, mut dropped) = stuck(&queue);
    add(&queue, "id").await;
    let started = Instant::now();
    let lease = begun.recv().await.unwrap();
    assert!(lease.is_held());
    lease.ended().await;
    assert!(!lease.is_held());
    let (number, time) = dropped.recv().await.unwrap();
    assert_eq!(number, 1);
    assert_eq!(
        (time - started).as_secs(),
        LEASE.as_secs() / 3,
        "at the first renewal"
    );
    assert!(
        begun.recv().await.unwrap().is_held(),
        "the envelope is delivered again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_in_time_when_the_backend_does_not_answer() {
    let queue = Broken::new(Fault::RenewsForever);
    let (mut begun, mut dropped) = stuck(&queue);
    add(&queue, "id").await;
    let started = Instant::now();
    let lease = begun.recv().await.unwrap();
    lease.ended().await;
    assert!(!lease.is_held());
    let (number, time) = dropped.recv().await.unwrap();
    assert_eq!((number, (time - started).as_secs()), (1, LEASE.as_secs()));
    let (number, time) = dropped.recv().await.unwrap();
    assert_eq!(
        (number, (time - started).as_secs()),
        (2, 2 * LEASE.as_secs())
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_with_its_handler() {
    let queue = Broken::new(Fault::None);
    let (leases, mut begun) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        leases.send(delivery.lease).unwrap();
        future::ready(Outcome::Done)
    };
    work(queue.clone(), options(), handler);
    add(&queue, "id").await;
    let started = Instant::now();
    let lease = begun.recv().await.unwrap();
    lease.ended().await;
    assert!(!lease.is_held());
    assert!(started.elapsed() < LEASE / 3);
}

/// A handler that blocks its thread keeps its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_while_a_handler_computes() {
    const RENEWALS: usize = 7;
    let queue = Broken::new(Fault::None);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let (sender, mut numbers) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let _ = released.lock().unwrap().recv();
        sender
            .send((delivery.number, delivery.lease.is_held()))
            .unwrap();
        future::ready(Outcome::Done)
    };
    // Long enough for a busy machine to renew the lease.
    let lease = Duration::from_secs(3);
    work(queue.clone(), options().lease(lease), handler);
    add(&queue, "id").await;
    until("the lease is renewed", async || {
        queue.calls.load(Ordering::SeqCst) >= RENEWALS
    })
    .await;
    release.send(()).unwrap();
    assert_eq!(numbers.recv().await.unwrap(), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_worker_continues_after_errors() {
    const ENVELOPES: usize = 100;
    let queue = Broken::new(Fault::FailsOften);
    let (sender, mut handled) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let sender = sender.clone();
        async move {
            // Longer than the lease.
            sleep(MINUTE).await;
            sender.send(delivery.id).unwrap();
            Outcome::Done
        }
    };
    work(queue.clone(), options(), handler);
    let mut ids = BTreeSet::new();
    for number in 0..ENVELOPES {
        add(&queue, &number.to_string()).await;
    }
    for _ in 0..ENVELOPES {
        ids.insert(handled.recv().await.unwrap());
    }
    assert_eq!(ids.len(), ENVELOPES, "each is handled once");
    sleep(MINUTE * 2).await;
    assert!(handled.try_recv().is_err(), "each is handled once");
}

/// If the queue settles the envelope but its answer is lost, the worker does not report a lost lease.
#[tokio::test(start_paused = true)]
async fn a_settlement_whose_answer_is_lost_is_no_lost_lease() {
    let log = test_support::Log::start();
    let queue = Broken::new(Fault::SettlesInSilence);
    add(&queue, "id").await;
    let worker = work(queue.clone(), options(), |_| future::ready(Outcome::Done));
    while queue.calls.load(Ordering::SeqCst) < 2 {
        sleep(LEASE / 10).await;
    }
    worker.abort();
    let text = log.text();
    assert!(text.contains("could not settle"), "{text}");
    assert!(!text.contains("has lost the lease"), "{text}");
}

/// A slow settlement does not keep the next handler waiting, and slow settlements do not pile up.
#[tokio::test(start_paused = true)]
async fn handlers_run_while_a_bounded_number_of_outcomes_is_settled() {
    let queue = Broken::new(Fault::SettlesSlowly);
    let (sender, mut handled) = mpsc::unbounded_channel();
    let handler = move |_: Delivery| {
        sender.send(Instant::now()).unwrap();
        future::ready(Outcome::Done)
    };
    let started = Instant::now();
    for id in ["a", "b", "c", "d"] {
        add(&queue, id).await;
    }
    work(queue, options().concurrency(1), handler);
    let mut waited = Vec::new();
    for _ in 0..4 {
        waited.push(handled.recv().await.unwrap() - started);
    }
    assert_eq!(waited[..2], [Duration::ZERO; 2]);
    assert_eq!(waited[2..], [SLOW; 2]);
}

#[tokio::test(start_paused = true)]
async fn pauses_after_errors_grow() {
    let queue = Broken::new(Fault::TakesNothing);
    let calls = queue.calls.clone();
    work(queue, options(), |_| future::ready(Outcome::Done));
    let mut before = 0;
    // Pauses are up to a quarter shorter, at random.
    for expected in [8..=9, 2..=3, 2..=3, 2..=3] {
        sleep(Duration::from_secs(10)).await;
        let now = calls.load(Ordering::SeqCst);
        assert!(expected.contains(&(now - before)), "{}", now - before);
        before = now;
    }
}

async fn check(fault: Fault) {
    let broken = Broken::new(fault);
    conformance::queue(async || broken.clone()).await;
}

async fn check_workers(fault: Fault) {
    let broken = Broken::new(fault);
    conformance::queue_workers(async || broken.clone()).await;
}

async fn check_work(fault: WorkFault) {
    let broken = BrokenWork(fault, MemoryQueue::new());
    conformance::queue(async || broken.clone()).await;
}

/// Defines tests: each fault fails the suite, with a message that names the violated guarantee.
macro_rules! broken {
    ($($name:ident: $check:ident($fault:expr), $message:literal;)*) => {$(
        #[tokio::test(start_paused = true)]
        #[should_panic(expected = $message)]
        async fn $name() {
            $check($fault).await;
        }
    )*};
}

broken! {
    a_queue_that_accepts_all_names_fails: check(Fault::AcceptsAllNames), "must be an error";
    a_queue_that_accepts_all_sizes_fails: check(Fault::AcceptsAllSizes), "must be an error";
    a_queue_that_adds_twice_fails: check(Fault::AddsTwice), "the id is known";
    a_queue_that_delivers_twice_fails: check(Fault::DeliversTwice), "duplicates are not delivered";
    a_queue_that_loses_envelopes_fails: check_workers(Fault::LosesEnvelopes), "every envelope is handled";
    a_queue_that_reverses_the_order_fails: check(Fault::ReversesOrder), "envelopes are taken in order";
    a_queue_that_ignores_priorities_fails: check(Fault::IgnoresPriorities), "a higher priority is taken first";
    a_queue_that_ignores_delays_fails: check(Fault::IgnoresDelays), "a delay";
    a_queue_that_leases_to_all_fails: check(Fault::LeasesToAll), "an active lease";
    a_queue_that_leases_for_too_long_fails: check(Fault::LeasesTooLong), "delivered again when the lease ends";
    a_queue_that_leases_for_too_short_fails: check(Fault::LeasesTooShort), "a lease is as long as requested";
    a_queue_that_does_not_count_fails: check(Fault::CountsNothing), "deliveries are counted";
    a_queue_that_ignores_renewals_fails: check(Fault::IgnoresRenewals), "renewed";
    a_queue_that_renews_lost_leases_fails: check(Fault::RenewsLostLeases), "cannot be renewed";
    a_queue_that_settles_lost_leases_fails: check(Fault::SettlesLostLeases), "cannot be settled again";
    a_queue_that_retries_too_early_fails: check(Fault::RetriesTooEarly), "is earlier than";
    a_queue_that_never_retries_fails: check(Fault::RetriesNever), "took longer than";
    a_worker_that_runs_too_many_fails: check_work(WorkFault::RunsTooMany), "no more handlers run than the limit allows";
    a_worker_that_takes_too_many_fails: check_work(WorkFault::TakesTooMany), "takes no more than it may";
    a_worker_that_ignores_shutdown_fails: check_work(WorkFault::IgnoresShutdown), "a worker ends when";
    a_worker_that_drops_handlers_fails: check_work(WorkFault::DropsHandlers), "the worker waits for its running handlers";
}

/// Shows that the faults cause the failures above: the broken queue without a fault conforms.
#[tokio::test(start_paused = true)]
async fn the_broken_queue_without_a_fault_conforms() {
    check(Fault::None).await;
}

/// A dropped take may disturb the order: a server may notice the drop a moment later.
#[tokio::test(start_paused = true)]
async fn a_queue_that_returns_envelopes_late_conforms() {
    check(Fault::GivesBackLate).await;
}

#[tokio::test(start_paused = true)]
async fn an_envelope_whose_lease_has_ended_while_it_waited_starts_no_handler() {
    let queue = MemoryQueue::new();
    for id in ["first", "second"] {
        add(&queue, id).await;
    }
    let (started, mut starts) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let handler = {
        let go_on = go_on.clone();
        move |delivery: Delivery| {
            let is_first = delivery.id.as_ref() == "first";
            started
                .send((delivery.number, delivery.lease.is_held()))
                .unwrap();
            let go_on = go_on.clone();
            async move {
                if is_first {
                    go_on.notified().await;
                }
                Outcome::Done
            }
        }
    };
    let options = WorkOptions::new("queue")
        .lease(LEASE)
        .concurrency(1)
        .prefetch(1);
    let worker = {
        let queue = queue.clone();
        tokio::spawn(async move {
            queue
                .work(options, Arc::new(handler), Box::pin(future::pending()))
                .await
        })
    };
    assert_eq!(starts.recv().await, Some((1, true)));
    // The process stands still for longer than the lease, and the first handler ends at the same moment.
    go_on.notify_one();
    advance(3 * LEASE).await;
    while let Ok(Some((number, is_held))) = timeout(10 * LEASE, starts.recv()).await {
        assert!(is_held, "delivery {number}");
    }
    worker.abort();
}
