use super::limits::check_size;
use super::work::{self, Handler, Outcome, WorkOptions};
use super::{BackendError, check_name};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The port for work that must not be forgotten: envelopes that workers take, each for the time of a lease.
///
/// [`enqueue`](Self::enqueue) and [`work`](Self::work) are what most code uses. The other three methods are the
/// steps of which `work` is made, so that all adapters behave alike.
///
/// ```
/// use std::sync::Arc;
/// use tokio::sync::Notify;
/// use tower_promises::backend::{Backend, Delivery, Envelope, Outcome, WorkOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_promises::backend::BackendError> {
/// let backend = Backend::memory();
/// let welcome = Envelope::new("mail", "welcome/ada", "ada@example.org".into());
/// backend.queue().enqueue(welcome).await?;
///
/// // Here or on another machine: a worker, until something stops it.
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
/// # What an adapter guarantees
///
/// 1. At least once: an envelope that was enqueued is delivered until a worker [settles](Self::settle) it with
///    [`Outcome::Done`] or [`Outcome::GiveUp`]. What it survives is the adapter's to say; a worker may crash at
///    any time.
/// 2. One worker at a time: while a lease is in force, nobody else is given the envelope. When it ends, because
///    it was neither settled nor [renewed](Self::renew), the envelope is delivered again, with a higher
///    [number](Taken::number), at once or up to one second later, never earlier.
/// 3. Fencing: each delivery has a [`Receipt`] of its own. That of a lease that has ended settles and renews
///    nothing, whoever has the envelope by then.
/// 4. An id is delivered as one envelope: a second one with the same queue and id is
///    [accepted](Enqueued::Duplicate) and does nothing while the first is queued or leased, and at least for
///    the [window](Capabilities::deduplication_window) after the first was enqueued. Whether the ids of those that
///    have ended survive a restart of the backend is the adapter's to say.
/// 5. Order: envelopes of one queue and priority that one caller enqueues one after the other, without delay,
///    are taken in that order for the first time, unless a [`take`](Self::take) is dropped. Where
///    [priorities](Capabilities::priorities) are supported, a higher one that is due is always taken first, so it
///    can starve the others. Those that are delivered again come when they are due.
/// 6. A delay, before the first delivery or before the next one, is never shorter than asked for, and at most one
///    second longer while a worker has room. As for leases, that holds where the clock of a machine is set meanwhile; an
///    adapter says where it cannot see that. What has no delay is due, whatever the clock.
/// 7. Queues do not disturb each other, but for limits that they may share, and exist from the first envelope or
///    worker on. Their names and the ids follow the rules of [`check_name`](super::check_name). Ids and payloads
///    arrive as they were sent. An adapter takes payloads of at least 64 KiB and says what its
///    [limit](Capabilities::max_payload_bytes) is.
///
/// So a handler may run twice for one envelope, even at the same time: a worker whose machine stood still notices
/// only afterwards that its lease has ended. What must happen once is to be decided with
/// [`Store::compare_and_set`](super::Store::compare_and_set).
///
/// [`conformance::queue`](super::conformance::queue()) checks all of it.
pub trait Queue: Send + Sync + 'static {
    /// What this adapter can do beyond what all can.
    fn capabilities(&self) -> Capabilities;

    /// Adds an envelope, and resolves once the backend would not lose it.
    ///
    /// When two machines enqueue the same queue and id at once, one gets [`Enqueued::Added`], the other
    /// [`Enqueued::Duplicate`], and there is one envelope: that of the first.
    ///
    /// Cancel safety: dropped before it resolves, the envelope may or may not have been added. To enqueue it
    /// again, with the same id, is always right.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`], [`BackendError::TooLarge`], [`BackendError::Unsupported`] (a delay or
    /// priority that [`capabilities`](Self::capabilities) does not have) and [`BackendError::Full`] say that
    /// nothing was added; with any other error it may or may not have been.
    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>>;

    /// Takes up to `limit` envelopes of a queue (at least one) that are due, each under a new lease. Waits
    /// until there is one.
    ///
    /// When two machines take at once, each envelope goes to one of them. All workers of a queue should ask for
    /// the same `lease`: some backends have one for the whole queue.
    ///
    /// Cancel safety: dropped before it resolves, no envelope is lost. One that was just being taken, or that comes
    /// just afterwards, is given back, at the latest when its lease ends. It may have used up a delivery number, and
    /// others may be taken before it.
    ///
    /// # Errors
    ///
    /// Where the name is not valid or the backend cannot be reached.
    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>>;

    /// Makes a lease last for `lease` from now on. Returns whether it was still in force; if not, it stays
    /// lost.
    ///
    /// When another machine takes the envelope at the same time, because the lease ends just now, either the
    /// lease is renewed, or the other one has it and this is `false`.
    ///
    /// Cancel safety: dropped before it resolves, the lease may or may not have been renewed.
    ///
    /// # Errors
    ///
    /// Where the backend cannot be reached. Whether the lease is in force is then not known.
    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>>;

    /// Ends a lease with what became of the envelope. Returns whether it was still in force; if not, nothing
    /// has changed: the envelope is another worker's, or is delivered again.
    ///
    /// When another machine takes the envelope at the same time, because the lease ends just now, either it is
    /// settled, or the other one has it and this is `false`. A second call with the same receipt is `false`
    /// too, so it can be repeated after an error.
    ///
    /// Cancel safety: dropped before it resolves, it may or may not have been settled.
    ///
    /// # Errors
    ///
    /// Where the backend cannot be reached. Whether it is settled is then not known.
    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>>;

    /// Gives the envelopes of a queue to a handler, until `shutdown` resolves; then takes no more, waits for the
    /// handlers that run, and resolves.
    ///
    /// - At most [`concurrency`](WorkOptions::concurrency) handlers run at once, each in a task of its own.
    /// - The lease of each is renewed at a third of its time while the handler runs. When it is lost all the
    ///   same, the handler is dropped at its next `await`.
    /// - What a handler returns is settled, and tried again after an error as long as the lease lasts.
    /// - A handler that panics is not settled: its envelope is delivered again when its lease ends, as after a
    ///   crash of the process.
    /// - After an error of the backend it goes on, after a pause that grows from 50 ms to 5 s (feature
    ///   `tracing`: with a warning in the log).
    ///
    /// Any number of workers, on any number of machines, can work on a queue at once; each envelope is given to
    /// one of them at a time, under the guarantees above.
    ///
    /// Cancel safety: dropped, the handlers that run are dropped too, and what they had is delivered again when
    /// the leases end. To bound the wait for handlers, drop it some time after `shutdown` has resolved.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] where the name of the queue is not valid. No other error ends it.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio with time enabled.
    fn work<'a>(
        &'a self,
        options: WorkOptions,
        handler: Arc<dyn Handler>,
        shutdown: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            check_name(options.queue())?;
            work::work(self, &options, &handler, shutdown).await;
            Ok(())
        })
    }
}

/// What an adapter for [`Queue`] can do beyond what all can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether an envelope can be [delayed](Envelope::delay).
    pub delays: bool,
    /// Whether [`Priority`] makes a difference. An adapter without it takes [`Priority::Normal`] only.
    pub priorities: bool,
    /// How many bytes a payload may have, at least 64 KiB.
    pub max_payload_bytes: usize,
    /// For how long at least an id is known after it was enqueued. An adapter may know it longer.
    pub deduplication_window: Duration,
}

impl Capabilities {
    /// Delays and priorities, with these limits.
    #[must_use]
    pub const fn new(max_payload_bytes: usize, deduplication_window: Duration) -> Self {
        Self {
            delays: true,
            priorities: true,
            max_payload_bytes,
            deduplication_window,
        }
    }

    /// Checks an envelope against them. Adapters call it first, so that all of them behave alike.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::enqueue`] that say that trying again does not help.
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

/// Something to be done, for a [`Queue`].
///
/// ```
/// use std::time::Duration;
/// use tower_promises::backend::{Envelope, Priority};
///
/// let envelope = Envelope::new("mail", "welcome/ada", "ada@example.org".into())
///     .priority(Priority::High)
///     .delay(Duration::from_secs(60));
/// # let _ = envelope;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The queue it belongs to.
    pub queue: Arc<str>,
    /// What it is known by in its queue. The same id is delivered as one envelope.
    pub id: Arc<str>,
    /// What the handler gets.
    pub payload: Bytes,
    /// Whether it is taken before or after others, default [`Priority::Normal`].
    pub priority: Priority,
    /// How long it is not delivered, default zero.
    pub delay: Duration,
}

impl Envelope {
    /// An envelope with the default settings.
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

    /// Whether it is taken before or after others.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// How long it is not delivered.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// Which [`Envelope`]s of a queue are taken first. There are only three, so that a message broker can have a queue
/// for each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After all others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// What became of a [`Queue::enqueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The envelope was added.
    Added,
    /// Its id was known, so nothing has changed.
    Duplicate,
}

/// An envelope that a worker has [taken](Queue::take).
#[derive(Clone, Debug)]
pub struct Taken {
    /// The id of the envelope.
    pub id: Arc<str>,
    /// Its payload.
    pub payload: Bytes,
    /// How often it has been delivered, this time included: 1 for the first time. The number rises with each
    /// delivery and may skip some.
    pub number: u32,
    /// Until when the lease is certainly in force, by the clock of this process.
    pub leased_until: Instant,
    /// What the lease is known by.
    pub receipt: Receipt,
}

/// What a lease is known by, in the words of its adapter. No two leases have the same. It is for the adapter, or a
/// clone of it, that has [taken](Queue::take) the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt(Arc<str>);

impl Receipt {
    /// The receipt with this text, for adapters.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Its text.
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
