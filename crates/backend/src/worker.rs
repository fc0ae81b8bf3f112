//! The worker loop on top of the steps that a queue adapter implements.

use super::handler::{Delivery, Handler, Lease, Outcome};
use crate::kit::backoff::Backoff;
use crate::kit::clock;
use crate::kit::limits::DEFAULT_LEASE;
use crate::{Queue, Receipt, Taken, observe};
use futures_util::future::{BoxFuture, Either, Fuse, FusedFuture, poll_fn, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Shorter leases would be lost to ordinary delays.
const SHORTEST_LEASE: Duration = Duration::from_millis(10);

/// The first pause and the longest pause after errors of the backend.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Options of [`Queue::work`].
///
/// ```
/// use std::time::Duration;
/// use tower_promises_backend::WorkOptions;
///
/// let options = WorkOptions::new("mail").concurrency(4).lease(Duration::from_secs(60));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct WorkOptions {
    queue: Arc<str>,
    concurrency: usize,
    lease: Duration,
}

impl WorkOptions {
    /// Creates options for a queue, with the default settings.
    #[must_use]
    pub fn new(queue: impl Into<Arc<str>>) -> Self {
        Self {
            queue: queue.into(),
            concurrency: 16,
            lease: DEFAULT_LEASE,
        }
    }

    /// Sets the number of concurrent handlers, by default 16 and at least one.
    #[must_use]
    pub fn concurrency(self, handlers: usize) -> Self {
        Self {
            concurrency: handlers.max(1),
            ..self
        }
    }

    /// Sets how long a worker that shows no sign of life keeps an envelope, by default 30 seconds. The value is clamped
    /// to 10 ms to 100 years.
    ///
    /// The lease limits the delay after a crash. It does not limit the time of a handler. All workers of a queue should
    /// use the same lease.
    #[must_use]
    pub fn lease(self, time: Duration) -> Self {
        Self {
            lease: time.clamp(SHORTEST_LEASE, clock::LONGEST),
            ..self
        }
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }
}

/// Works on a queue until `shutdown` resolves and the running handlers have ended.
pub(super) async fn work<Q: Queue + ?Sized>(
    queue: &Q,
    options: &WorkOptions,
    handler: &Arc<dyn Handler>,
    mut shutdown: BoxFuture<'_, ()>,
) {
    enum Event {
        Shutdown,
        Ended,
        Taken(Vec<Taken>),
    }

    let mut running = FuturesUnordered::new();
    let mut taking = pin!(Fuse::terminated());
    loop {
        let room = options.concurrency.saturating_sub(running.len());
        if taking.is_terminated() && room > 0 {
            taking.set(take(queue, options, room).fuse());
        }
        let event = poll_fn(|context| {
            if shutdown.poll_unpin(context).is_ready() {
                return Poll::Ready(Event::Shutdown);
            }
            // `None` means that no handler runs. The worker then only waits for envelopes.
            if let Poll::Ready(Some(())) = running.poll_next_unpin(context) {
                return Poll::Ready(Event::Ended);
            }
            taking.as_mut().poll(context).map(Event::Taken)
        });
        match event.await {
            Event::Shutdown => break,
            Event::Ended => {}
            Event::Taken(taken) => {
                running.extend(
                    taken
                        .into_iter()
                        .map(|taken| attend(queue, options, handler.clone(), taken)),
                );
            }
        }
    }
    // Dropping the call returns the envelopes that it takes.
    taking.set(Fuse::terminated());
    while running.next().await.is_some() {}
}

/// Takes envelopes, with retries after errors.
async fn take<Q: Queue + ?Sized>(queue: &Q, options: &WorkOptions, room: usize) -> Vec<Taken> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match queue.take(&options.queue, room, options.lease).await {
            Ok(taken) => return taken,
            Err(error) => observe::take_failed(&options.queue, &error),
        }
        sleep(backoff.pause()).await;
    }
}

/// Runs the handler of an envelope and settles the outcome.
async fn attend<Q: Queue + ?Sized>(
    queue: &Q,
    options: &WorkOptions,
    handler: Arc<dyn Handler>,
    taken: Taken,
) {
    let held = HeldLease {
        queue,
        options,
        receipt: taken.receipt,
        until: watch::Sender::new(taken.leased_until),
    };
    let delivery = Delivery {
        id: taken.id.clone(),
        payload: taken.payload,
        number: taken.number,
        lease: Lease {
            until: held.until.subscribe(),
        },
    };
    // In a task of its own, so that leases are renewed while handlers compute, and a panic affects one handler only.
    let mut task = Task(tokio::spawn(async move { handler.handle(delivery).await }));
    let ended = match select(&mut task.0, pin!(held.renew())).await {
        Either::Left((ended, _)) => ended,
        Either::Right(((), _)) => {
            // The handler may have moved the lease to other tasks. They are notified before the handler is aborted.
            held.end();
            observe::lease_lost(&options.queue, &taken.id);
            task.0.abort();
            // The concurrency slot is only free after the handler is gone.
            let _ = (&mut task.0).await;
            return;
        }
    };
    match ended {
        Ok(outcome) => held.settle(outcome, &taken.id).await,
        Err(error) if error.is_panic() => observe::handler_panicked(&options.queue, &taken.id),
        // The runtime is shutting down.
        Err(_) => {}
    }
}

/// A lease of this worker. Dropping it marks the lease as ended.
struct HeldLease<'a, Q: Queue + ?Sized> {
    queue: &'a Q,
    options: &'a WorkOptions,
    receipt: Receipt,
    until: watch::Sender<Instant>,
}

impl<Q: Queue + ?Sized> HeldLease<'_, Q> {
    fn until(&self) -> Instant {
        *self.until.borrow()
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until()
    }

    fn end(&self) {
        let now = Instant::now();
        self.until.send_if_modified(|until| {
            let is_early = *until > now;
            *until = now.min(*until);
            is_early
        });
    }

    /// Renews the lease repeatedly. Resolves when the lease is lost.
    async fn renew(&self) {
        let lease = self.options.lease;
        let mut wait = lease / 3;
        loop {
            let end = self.until();
            sleep_until(end.min(Instant::now() + wait)).await;
            let asked = Instant::now();
            match timeout_at(end, self.queue.renew(&self.receipt, lease)).await {
                Ok(Ok(true)) => {
                    self.until.send_replace(asked + lease);
                    wait = lease / 3;
                }
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    observe::renew_failed(&self.options.queue, &error);
                    wait = lease / 10;
                }
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// Settles the envelope, with retries until the lease ends.
    async fn settle(&self, outcome: Outcome, id: &str) {
        let mut backoff = Backoff::new(FIRST_PAUSE.min(self.options.lease / 10), LONGEST_PAUSE);
        let mut has_failed = false;
        // Skipped after the end of the lease, because some backends cannot refuse a late call.
        while !self.is_over() {
            let settle = self.queue.settle(&self.receipt, outcome);
            match timeout_at(self.until(), settle).await {
                Ok(Ok(true)) => return,
                // The failed call has probably settled the envelope.
                Ok(Ok(false)) if has_failed => return,
                Ok(Ok(false)) | Err(_) => break,
                Ok(Err(error)) => observe::settle_failed(&self.options.queue, &error),
            }
            has_failed = true;
            sleep_until(self.until().min(Instant::now() + backoff.pause())).await;
        }
        observe::lease_lost(&self.options.queue, id);
    }
}

impl<Q: Queue + ?Sized> Drop for HeldLease<'_, Q> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A task that is aborted on drop.
struct Task(JoinHandle<Outcome>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
