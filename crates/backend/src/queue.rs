use super::handler::{Handler, Outcome};
use super::worker::{self, WorkOptions};
use super::{BackendError, check_name};
use crate::kit::limits::check_size;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The port for work that must not be lost: envelopes that workers take, each under a lease.
///
/// Most code uses [`enqueue`](Self::enqueue) and [`work`](Self::work). The other three methods are the steps of `work`.
/// An adapter implements these steps, so that all adapters behave alike.
///
/// ```
/// use std::sync::Arc;
/// use tokio::sync::Notify;
/// use tower_promises_backend::{Backend, Delivery, Envelope, Outcome, WorkOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_promises_backend::BackendError> {
/// let backend = Backend::memory();
/// let welcome = Envelope::new("mail", "welcome/ada", "ada@example.org".into());
/// backend.queue().enqueue(welcome).await?;
///
/// // Here or on another machine: a worker that runs until it is stopped.
/// let stop = Arc::new(Notify::new());
/// let stopped = stop.clone();
/// let send = move |delivery: Delivery| {
///     assert_eq!(delivery.payload, "ada@example.org");
///     stop.notify_one();
///     async { Outcome::Done }
/// };
/// let shutdown = Box::pin(async move { stopped.notified().await });
/// backend.queue().work(WorkOptions::new("mail"), Arc::new(send), shutdown).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees of an adapter
///
/// 1. At least once: an envelope is delivered until a worker [settles](Self::settle) it with [`Outcome::Done`] or
///    [`Outcome::GiveUp`]. A worker may crash at any time. Each adapter documents which other failures an envelope
///    survives.
/// 2. One worker at a time: while a lease is active, no other worker gets the envelope. When the lease ends, because
///    the envelope was neither settled nor [renewed](Self::renew), the envelope is delivered again with a higher
///    [number](Taken::number), at once or up to one second later, never earlier.
/// 3. Fencing: each delivery has its own [`Receipt`]. The receipt of a lease that has ended cannot settle or renew
///    anything.
/// 4. An id is delivered as one envelope: a second envelope with the same queue and id is
///    [accepted](Enqueued::Duplicate) without effect while the first is queued or leased, and at least for the
///    [window](Capabilities::deduplication_window) after the first was enqueued. Each adapter documents whether the ids
///    of envelopes that have ended survive a restart of the backend.
/// 5. Order: envelopes of one queue and priority that one caller enqueues one after the other, without delay, are taken
///    in that order for the first time, unless a [`take`](Self::take) is dropped. If
///    [priorities](Capabilities::priorities) are supported, a due envelope with a higher priority is always taken
///    first, so it can starve others. Repeated deliveries happen when they are due.
/// 6. A delay, before the first delivery or before the next one, is never shorter than requested, and at most one
///    second longer while a worker has room. For delays and leases, this also holds if the clock of a machine is set
///    meanwhile; an adapter documents where it cannot detect that. An envelope without a delay is due at once, whatever
///    the clock shows.
/// 7. Queues are independent of each other, except for limits that they may share. A queue exists from its first
///    envelope or worker on. Queue names and ids follow the rules of [`check_name`](super::check_name). Ids and
///    payloads arrive unchanged. An adapter accepts payloads of at least 64 KiB and reports its
///    [limit](Capabilities::max_payload_bytes).
///
/// A handler may therefore run twice for one envelope, even at the same time: a worker on a suspended machine detects
/// only afterwards that its lease has ended. Use [`Store::compare_and_set`](super::Store::compare_and_set) for effects
/// that must happen once.
///
/// `conformance::queue` (feature `conformance`) checks all guarantees.
pub trait Queue: Send + Sync + 'static {
    /// Returns the optional features and the limits of the adapter.
    fn capabilities(&self) -> Capabilities;

    /// Adds an envelope. The future resolves once the backend will not lose it.
    ///
    /// If two machines enqueue the same queue and id at once, one gets [`Enqueued::Added`], the other
    /// [`Enqueued::Duplicate`]. Only the envelope of the first is kept.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the envelope may or may not have been added. Enqueueing it again
    /// with the same id is safe.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`], [`BackendError::TooLarge`], [`BackendError::Unsupported`] (a delay or priority
    /// that is not among the [`capabilities`](Self::capabilities)) and [`BackendError::Full`]: the envelope was not
    /// added. After any other error, it may or may not have been added.
    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>>;

    /// Takes up to `limit` due envelopes of a queue (at least one), each under a new lease. Waits until there is one.
    ///
    /// If two machines take at once, each envelope goes to one of them. All workers of a queue should use the same
    /// `lease`, because some backends have one lease time for the whole queue.
    ///
    /// # Cancel safety
    ///
    /// No envelope is lost if the future is dropped before it resolves. An envelope that was being taken, or that
    /// arrives just afterwards, is returned, at the latest when its lease ends. It may have used a delivery number, and
    /// other envelopes may be taken before it.
    ///
    /// # Errors
    ///
    /// Fails if the name is invalid or the backend cannot be reached.
    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>>;

    /// Sets the end of a lease to `lease` from now. Returns whether the lease was still active.
    /// A lease that has ended stays lost.
    ///
    /// If another machine takes the envelope at the same time, because the lease is about to end, either the lease is
    /// renewed, or the other machine gets the envelope and this method returns `false`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the lease may or may not have been renewed.
    ///
    /// # Errors
    ///
    /// Fails if the backend cannot be reached. The state of the lease is then unknown.
    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>>;

    /// Ends a lease with the outcome for its envelope. Returns whether the lease was still active. If not, nothing has
    /// changed: another worker has the envelope, or it will be delivered again.
    ///
    /// If another machine takes the envelope at the same time, because the lease is about to end, either the envelope
    /// is settled, or the other machine gets it and this method returns `false`. A second call with the same receipt
    /// also returns `false`, so the call can be repeated after an error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the envelope may or may not have been settled.
    ///
    /// # Errors
    ///
    /// Fails if the backend cannot be reached. The state of the envelope is then unknown.
    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>>;

    /// Passes the envelopes of a queue to a handler until `shutdown` resolves. Then takes no more envelopes, waits for
    /// the running handlers, and resolves.
    ///
    /// - At most [`concurrency`](WorkOptions::concurrency) handlers run at once, each in a task of its own. By default the
    ///   worker takes no more envelopes than it has free handlers; [`prefetch`](WorkOptions::prefetch) lets it take some in
    ///   advance.
    /// - Leases are renewed after a third of their time while their handlers run. If a lease is lost nevertheless, its
    ///   handler is dropped at its next `await`.
    /// - The outcome of a handler is settled, with retries after errors while the lease lasts. The next handler starts
    ///   meanwhile. While a worker settles twice as many envelopes as it may have, it takes no more.
    /// - The envelope of a handler that panics is not settled. It is delivered again when its lease ends, as after a
    ///   crash of the process.
    /// - After an error of the backend the worker retries, with pauses that grow from 50 ms to 5 s, and with a warning
    ///   in the log.
    ///
    /// Any number of workers, on any number of machines, can work on a queue. Each envelope is given to one of them at
    /// a time, under the guarantees above.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the running handlers. Their envelopes are delivered again when their leases end. To
    /// limit the wait for handlers, drop the future some time after `shutdown` has resolved.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] if the name of the queue is invalid. No other error ends the worker.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime with timers enabled.
    fn work<'a>(
        &'a self,
        options: WorkOptions,
        handler: Arc<dyn Handler>,
        shutdown: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            check_name(options.queue())?;
            worker::work(self, &options, &handler, shutdown).await;
            Ok(())
        })
    }
}

/// The optional features and the limits of a [`Queue`] adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether [delays](Envelope::delay) are supported.
    pub delays: bool,
    /// Whether [`Priority`] is supported. An adapter without priorities accepts [`Priority::Normal`] only.
    pub priorities: bool,
    /// The maximum size of a payload, in bytes. It is at least 64 KiB.
    pub max_payload_bytes: usize,
    /// The minimum time for which an id stays known after it was enqueued.
    pub deduplication_window: Duration,
}

impl Capabilities {
    /// Creates capabilities with delays and priorities, and these limits.
    #[must_use]
    pub const fn new(max_payload_bytes: usize, deduplication_window: Duration) -> Self {
        Self {
            delays: true,
            priorities: true,
            max_payload_bytes,
            deduplication_window,
        }
    }

    /// Checks an envelope. Adapters call this method first, so that all of them behave alike.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`], [`BackendError::TooLarge`] or [`BackendError::Unsupported`].
    pub fn check(&self, envelope: &Envelope) -> Result<(), BackendError> {
        check_name(&envelope.queue)?;
        check_name(&envelope.id)?;
        check_size(envelope.payload.len(), self.max_payload_bytes)?;
        if !self.delays && !envelope.delay.is_zero() {
            return Err(BackendError::Unsupported { what: "delays" });
        }
        if !self.priorities && envelope.priority != Priority::Normal {
            return Err(BackendError::Unsupported { what: "priorities" });
        }
        Ok(())
    }
}

/// A unit of work for a [`Queue`].
///
/// ```
/// use std::time::Duration;
/// use tower_promises_backend::{Envelope, Priority};
///
/// let envelope = Envelope::new("mail", "welcome/ada", "ada@example.org".into())
///     .priority(Priority::High)
///     .delay(Duration::from_secs(60));
/// # let _ = envelope;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The name of the queue.
    pub queue: Arc<str>,
    /// The id, unique within the queue. An id is delivered as one envelope.
    pub id: Arc<str>,
    /// The data for the handler.
    pub payload: Bytes,
    /// The priority within the queue, by default [`Priority::Normal`].
    pub priority: Priority,
    /// The minimum time before the first delivery, by default zero.
    pub delay: Duration,
}

impl Envelope {
    /// Creates an envelope with the default settings.
    #[must_use]
    pub fn new(queue: impl Into<Arc<str>>, id: impl Into<Arc<str>>, payload: Bytes) -> Self {
        Self {
            queue: queue.into(),
            id: id.into(),
            payload,
            priority: Priority::Normal,
            delay: Duration::ZERO,
        }
    }

    /// Sets the priority within the queue.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Sets the minimum time before the first delivery.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// The priority of an [`Envelope`] within its queue. There are only three, so that a message broker can use a queue for
/// each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Taken after all others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Taken before all others.
    High,
}

/// The result of [`Queue::enqueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The envelope was added.
    Added,
    /// The id was known. Nothing has changed.
    Duplicate,
}

/// An envelope that a worker has [taken](Queue::take).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Taken {
    /// The id of the envelope.
    pub id: Arc<str>,
    /// The payload of the envelope.
    pub payload: Bytes,
    /// The number of this delivery, starting at 1. It increases with each delivery and may skip numbers.
    pub number: u32,
    /// The time until which the lease is guaranteed, by the clock of this process.
    pub leased_until: Instant,
    /// Identifies the lease.
    pub receipt: Receipt,
}

impl Taken {
    /// Creates a taken envelope, for adapters.
    #[must_use]
    pub fn new(
        id: impl Into<Arc<str>>,
        payload: Bytes,
        number: u32,
        leased_until: Instant,
        receipt: Receipt,
    ) -> Self {
        Self {
            id: id.into(),
            payload,
            number,
            leased_until,
            receipt,
        }
    }
}

/// Identifies a lease, in a format of the adapter. Receipts are unique. A receipt is valid for the adapter, or a clone
/// of the adapter, that has [taken](Queue::take) the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt(Arc<str>);

impl Receipt {
    /// Creates a receipt, for adapters.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the text of the receipt.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<Q: Queue + ?Sized> Queue for Arc<Q> {
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        (**self).enqueue(envelope)
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        (**self).take(queue, limit, lease)
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        (**self).renew(receipt, lease)
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        (**self).settle(receipt, outcome)
    }

    fn work<'a>(
        &'a self,
        options: WorkOptions,
        handler: Arc<dyn Handler>,
        shutdown: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        (**self).work(options, handler, shutdown)
    }
}
