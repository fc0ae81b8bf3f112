//! What a worker does, over the steps that an adapter for a queue has.

use super::backoff::Backoff;
use super::{Queue, Receipt, Taken, clock, observe};
use bytes::Bytes;
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

/// For how long a worker has an envelope before it renews the lease or loses it.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// How many handlers run at once.
pub const DEFAULT_CONCURRENCY: usize = 16;

/// Shorter leases would be lost to ordinary delays.
const SHORTEST_LEASE: Duration = Duration::from_millis(10);

/// The pauses after errors of the backend.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How [`Queue::work`] works.
///
/// ```
/// use std::time::Duration;
/// use tower_promises::backend::WorkOptions;
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
    /// Work on a queue, with the default settings.
    #[must_use]
    pub fn new(queue: impl Into<Arc<str>>) -> Self {
        Self {
            queue: queue.into(),
            concurrency: DEFAULT_CONCURRENCY,
            lease: DEFAULT_LEASE,
        }
    }

    /// How many handlers run at once, default [`DEFAULT_CONCURRENCY`]. It is at least one.
    #[must_use]
    pub fn concurrency(self, handlers: usize) -> Self {
        Self {
            concurrency: handlers.max(1),
            ..self
        }
    }

    /// How long an envelope stays with a worker that shows no sign of life, default [`DEFAULT_LEASE`]. It
    /// bounds how late work goes on after a crash, and not how long a handler may run. All workers of a queue
    /// should have the same. It is at least 10 ms and at most a year.
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

/// What a worker does with the envelopes of a queue. Async functions and closures from [`Delivery`] to
/// [`Outcome`] are handlers.
pub trait Handler: Send + Sync + 'static {
    /// Handles an envelope. It may be delivered again whatever this does, so it must be safe to repeat.
    fn handle(&self, delivery: Delivery) -> BoxFuture<'static, Outcome>;
}

impl<F, T> Handler for F
where
    F: Fn(Delivery) -> T + Send + Sync + 'static,
    T: Future<Output = Outcome> + Send + 'static,
{
    fn handle(&self, delivery: Delivery) -> BoxFuture<'static, Outcome> {
        Box::pin(self(delivery))
    }
}

/// An envelope that is given to a [`Handler`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The id of the envelope.
    pub id: Arc<str>,
    /// Its payload.
    pub payload: Bytes,
    /// How often it has been delivered, this time included: 1 for the first time. The number rises with each
    /// delivery and may skip some.
    pub number: u32,
    /// The right to work on it.
    pub lease: Lease,
}

/// What is to become of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was handled, and is not delivered again.
    Done,
    /// It is delivered again after this time.
    Retry {
        /// The time. It may be up to a second longer, never shorter.
        after: Duration,
    },
    /// It cannot be handled, and is not delivered again. A backend may count it as failed.
    GiveUp,
}

/// The right of one worker to an envelope. It is renewed while the handler runs.
#[derive(Clone, Debug)]
pub struct Lease {
    until: watch::Receiver<Instant>,
}

impl Lease {
    /// Whether the lease is certainly in force at this moment. Before an effect outside of the queue that must
    /// not come from two workers, ask; a thread that stands still between question and effect is fooled, so
    /// what must happen once needs a [`Store`](super::Store) as well.
    #[must_use]
    pub fn is_held(&self) -> bool {
        Instant::now() < *self.until.borrow()
    }

    /// Resolves when the lease is not in force any more: it was lost, or the handler has ended. It is for what a
    /// handler has started elsewhere, in a thread for example; the handler itself is dropped.
    ///
    /// Cancel safety: it only waits.
    pub async fn ended(&self) {
        let mut until = self.until.clone();
        loop {
            let end = *until.borrow_and_update();
            if let Ok(Ok(())) = timeout_at(end, until.changed()).await {
                continue;
            }
            // Nobody renews it any more, or it was not renewed in time.
            return;
        }
    }
}

/// Works on a queue until `shutdown`, and until the handlers have ended.
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
            // None are running: more have to be taken.
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
    // What it takes just now is given back.
    taking.set(Fuse::terminated());
    while running.next().await.is_some() {}
}

/// Takes envelopes, after errors too.
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

/// Runs the handler for an envelope, and settles what it returns.
async fn attend<Q: Queue + ?Sized>(
    queue: &Q,
    options: &WorkOptions,
    handler: Arc<dyn Handler>,
    taken: Taken,
) {
    let kept = Kept {
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
            until: kept.until.subscribe(),
        },
    };
    // In a task, so that leases are renewed while handlers compute, and one that panics is alone.
    let mut task = Task(tokio::spawn(async move { handler.handle(delivery).await }));
    let ended = match select(&mut task.0, pin!(kept.renew())).await {
        Either::Left((ended, _)) => ended,
        Either::Right(((), _)) => {
            // Whatever it has started elsewhere learns it first.
            kept.end();
            observe::lease_lost(&options.queue, &taken.id);
            task.0.abort();
            // Its room is not free before it has really gone.
            let _ = (&mut task.0).await;
            return;
        }
    };
    match ended {
        Ok(outcome) => kept.settle(outcome, &taken.id).await,
        Err(error) if error.is_panic() => observe::handler_panicked(&options.queue, &taken.id),
        // The runtime ends.
        Err(_) => {}
    }
}

/// A lease of this worker. It counts as ended when this is dropped.
struct Kept<'a, Q: Queue + ?Sized> {
    queue: &'a Q,
    options: &'a WorkOptions,
    receipt: Receipt,
    until: watch::Sender<Instant>,
}

impl<Q: Queue + ?Sized> Kept<'_, Q> {
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

    /// Renews the lease again and again. Resolves when it is lost.
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

    /// Settles the envelope, unless the lease ends before.
    async fn settle(&self, outcome: Outcome, id: &str) {
        let mut backoff = Backoff::new(FIRST_PAUSE.min(self.options.lease / 10), LONGEST_PAUSE);
        let mut has_failed = false;
        // One that has stood still for too long does not even try: a backend may not be able to refuse it.
        while !self.is_over() {
            let settle = self.queue.settle(&self.receipt, outcome);
            match timeout_at(self.until(), settle).await {
                Ok(Ok(true)) => return,
                // Most likely it was settled by the call that has failed.
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

impl<Q: Queue + ?Sized> Drop for Kept<'_, Q> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A task that is aborted when this is dropped.
struct Task(JoinHandle<Outcome>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
