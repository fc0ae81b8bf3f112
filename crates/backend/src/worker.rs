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
use tokio::sync::{Semaphore, watch};
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
    prefetch: usize,
    lease: Duration,
}

impl WorkOptions {
    /// Creates options for a queue, with the default settings.
    #[must_use]
    pub fn new(queue: impl Into<Arc<str>>) -> Self {
        Self {
            queue: queue.into(),
            concurrency: 16,
            prefetch: 0,
            lease: DEFAULT_LEASE,
        }
    }

    /// Sets the number of concurrent handlers, by default 16 and at least one.
    #[must_use]
    pub fn concurrency(self, handlers: usize) -> Self {
        Self {
            concurrency: handlers.clamp(1, Semaphore::MAX_PERMITS),
            ..self
        }
    }

    /// Sets how many envelopes the worker takes in advance, while all its handlers are busy, by default 0.
    ///
    /// Handlers then follow one another without a pause for the backend, and a call to the backend takes more envelopes.
    /// A worker asks for more when half of the envelopes that it has in advance are used up. This pays for handlers that
    /// take less time than a call to the backend: set it to what one handler handles in some milliseconds, times the
    /// [concurrency](Self::concurrency).
    ///
    /// An envelope that waits for a handler is leased, and its lease is renewed. So no other worker gets it meanwhile: it
    /// waits behind slow handlers of its own worker even if another worker is free, and envelopes that are enqueued later
    /// with a higher priority do not overtake it. A worker that is shut down returns what waits at once, behind the other
    /// envelopes of the queue. After a crash, it is delivered again when its lease ends. In both cases its [number of
    /// deliveries](Delivery::number) has increased although no handler has run.
    #[must_use]
    pub fn prefetch(self, envelopes: usize) -> Self {
        Self {
            prefetch: envelopes,
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

    /// The number of envelopes to take now, `None` if they are too few for a call.
    ///
    /// `handled` envelopes wait for a handler or have one. `settled` ones are being settled, without a handler. A worker has
    /// at most twice as many of these, so that a slow backend is not given more and more to settle: twice, because the
    /// handlers of a whole batch may end together.
    fn room(&self, handled: usize, settled: usize) -> Option<usize> {
        let most = self.concurrency.saturating_add(self.prefetch);
        let room = most.saturating_sub(handled.max(settled.saturating_sub(most)));
        // A few large calls instead of many small ones.
        (room > self.prefetch / 2).then_some(room)
    }
}

/// Works on a queue until `shutdown` resolves and the running handlers have ended.
pub(super) async fn work<Q: Queue + ?Sized>(
    queue: &Q,
    options: &WorkOptions,
    handler: &Arc<dyn Handler>,
    mut shutdown: BoxFuture<'_, ()>,
) {
    enum Event<'a, Q: Queue + ?Sized> {
        Shutdown,
        Handled(Option<Handled<'a, Q>>),
        Settled,
        Taken(Vec<Taken>),
    }

    // Closed by the shutdown, so that envelopes that wait for a handler are returned.
    let handlers = Semaphore::new(options.concurrency);
    let mut handling = FuturesUnordered::new();
    let mut settling = FuturesUnordered::new();
    let mut taking = pin!(Fuse::terminated());
    while !(handlers.is_closed() && handling.is_empty() && settling.is_empty()) {
        let may_take = taking.is_terminated() && !handlers.is_closed();
        let room = options.room(handling.len(), settling.len());
        if let Some(room) = room.filter(|_| may_take) {
            taking.set(take(queue, options, room).fuse());
        }
        let event = poll_fn(|context| {
            if !handlers.is_closed() && shutdown.poll_unpin(context).is_ready() {
                return Poll::Ready(Event::Shutdown);
            }
            // `None` means that there is nothing to handle or to settle.
            if let Poll::Ready(Some(handled)) = handling.poll_next_unpin(context) {
                return Poll::Ready(Event::Handled(handled));
            }
            if let Poll::Ready(Some(())) = settling.poll_next_unpin(context) {
                return Poll::Ready(Event::Settled);
            }
            taking.as_mut().poll(context).map(Event::Taken)
        });
        match event.await {
            Event::Shutdown => {
                handlers.close();
                // Dropping the call returns the envelopes that it takes.
                taking.set(Fuse::terminated());
            }
            Event::Handled(handled) => settling.extend(handled.map(Handled::settle)),
            Event::Settled => {}
            Event::Taken(taken) => {
                let taken = taken.into_iter();
                handling.extend(
                    taken.map(|taken| handle(queue, options, &handlers, handler.clone(), taken)),
                );
            }
        }
    }
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

/// An envelope whose outcome is known, under its lease.
struct Handled<'a, Q: Queue + ?Sized> {
    lease: HeldLease<'a, Q>,
    id: Arc<str>,
    outcome: Outcome,
}

impl<Q: Queue + ?Sized> Handled<'_, Q> {
    async fn settle(self) {
        self.lease.settle(self.outcome, &self.id).await;
    }
}

/// Waits for a free handler and runs it. Returns `None` if there is nothing to settle.
async fn handle<'a, Q: Queue + ?Sized>(
    queue: &'a Q,
    options: &'a WorkOptions,
    handlers: &Semaphore,
    handler: Arc<dyn Handler>,
    taken: Taken,
) -> Option<Handled<'a, Q>> {
    let lease = HeldLease {
        queue,
        options,
        receipt: taken.receipt,
        until: watch::Sender::new(taken.leased_until),
    };
    let id = taken.id.clone();
    let delivery = Delivery {
        id: taken.id,
        payload: taken.payload,
        number: taken.number,
        lease: Lease {
            until: lease.until.subscribe(),
        },
    };
    let outcome = lease.handle(handlers, handler, delivery).await?;
    Some(Handled { lease, id, outcome })
}

/// A lease of this worker. Dropping it marks the lease as ended.
struct HeldLease<'a, Q: Queue + ?Sized> {
    queue: &'a Q,
    options: &'a WorkOptions,
    receipt: Receipt,
    until: watch::Sender<Instant>,
}

impl<Q: Queue + ?Sized> HeldLease<'_, Q> {
    /// Runs a handler when one is free, while the lease is renewed. Returns `None` without an outcome.
    async fn handle(
        &self,
        handlers: &Semaphore,
        handler: Arc<dyn Handler>,
        delivery: Delivery,
    ) -> Option<Outcome> {
        let id = delivery.id.clone();
        let mut renewals = pin!(self.renew());
        let _permit = match select(pin!(handlers.acquire()), &mut renewals).await {
            Either::Left((Ok(permit), _)) => permit,
            // The worker shuts down.
            Either::Left((Err(_), _)) => {
                let after = Duration::ZERO;
                return Some(Outcome::Retry { after });
            }
            Either::Right(((), _)) => {
                observe::lease_lost(&self.options.queue, &id);
                return None;
            }
        };
        // The process may have stood still while the envelope waited. Another worker may have it by now.
        if self.is_over() {
            observe::lease_lost(&self.options.queue, &id);
            return None;
        }
        // In a task of its own, so that leases are renewed while handlers compute, and a panic affects one handler only.
        let mut task = Task(tokio::spawn(async move { handler.handle(delivery).await }));
        let ended = match select(&mut task.0, renewals).await {
            Either::Left((ended, _)) => ended,
            Either::Right(((), _)) => {
                // The handler may have moved the lease to other tasks. They are notified before the handler is aborted.
                self.end();
                observe::lease_lost(&self.options.queue, &id);
                task.0.abort();
                // The permit is only free after the handler is gone.
                let _ = (&mut task.0).await;
                return None;
            }
        };
        match ended {
            Ok(outcome) => Some(outcome),
            Err(error) => {
                // Otherwise the runtime is shutting down.
                if error.is_panic() {
                    observe::handler_panicked(&self.options.queue, &id);
                }
                None
            }
        }
    }

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
