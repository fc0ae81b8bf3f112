use tower_promises_backend::kit::clock::now;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// How many bytes a progress message may have. What is longer is cut.
pub const MAX_MESSAGE_BYTES: usize = 1024;

tokio::task_local! {
    static CURRENT: Progress;
}

/// What a handler says about how far it has come, and hears about being cancelled.
///
/// [`OperationLayer`](super::OperationLayer) puts one into the extensions of every request, whether or not it can
/// become an operation, so that a handler need not care. It is cheap to clone, and a clone is the same: give one to
/// a promise, to a blocking job or to another task.
///
/// ```
/// use tower_promises_operations::Progress;
///
/// fn import(rows: &[&str], progress: &Progress) -> usize {
///     for (done, row) in rows.iter().enumerate() {
///         if progress.is_cancelled() {
///             return done;
///         }
///         progress.set(100.0 * done as f64 / rows.len() as f64);
///         progress.message(format!("importing {row}"));
///     }
///     rows.len()
/// }
///
/// // Where no layer is at hand, in a test for example, nobody listens.
/// assert_eq!(import(&["a", "b"], &Progress::detached()), 2);
/// ```
///
/// # Costs
///
/// Setting it takes well under a microsecond and never waits. Only the latest state is kept, so it may be set as often
/// as is convenient; see [`progress_interval`](super::OperationLayerBuilder::progress_interval) for when others see
/// it.
#[derive(Clone)]
pub struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    report: watch::Sender<Report>,
    cancelled: watch::Sender<bool>,
    has_begun: AtomicBool,
}

/// What is known of a work that has not ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// Since when the inner service works on it, in milliseconds since the epoch.
    pub(super) started: Option<u64>,
    pub(super) percent: Option<f64>,
    pub(super) message: Option<Arc<str>>,
}

impl Report {
    /// Whether the inner service was called.
    pub(super) fn is_called(&self) -> bool {
        self.started.is_some()
    }

    /// Whether the work has said something about itself.
    pub(super) fn has_progress(&self) -> bool {
        self.percent.is_some() || self.message.is_some()
    }
}

impl Progress {
    /// A progress that nobody listens to and nobody cancels: for tests, and where no layer is in place.
    #[must_use]
    pub fn detached() -> Self {
        Self::new()
    }

    pub(super) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                report: watch::Sender::new(Report::default()),
                cancelled: watch::Sender::new(false),
                has_begun: AtomicBool::new(false),
            }),
        }
    }

    /// The progress of the request that this task is handling.
    ///
    /// `Some` wherever the handler's own task runs a request that can become an operation, deep in synchronous code
    /// too. `None` in other tasks and threads, so not in what is given to `tokio::spawn`, `spawn_blocking` or to a
    /// blocking promise: give them a clone.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs a future with this as [`Progress::current`].
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).await
    }

    /// Says how much is done, in percent. NaN is ignored, values below 0 or above 100 count as those. 100 does not
    /// end anything: the response does.
    ///
    /// It is also how a handler marks its beginning: a request with an [idempotency key](super#idempotency-keys) never
    /// runs again after that, so call it before anything that must not be done twice.
    pub fn set(&self, percent: impl Into<f64>) {
        let percent = percent.into();
        if percent.is_nan() {
            return;
        }
        // Adding zero makes of a negative zero a positive one.
        let percent = Some(percent.clamp(0.0, 100.0) + 0.0);
        self.begin();
        self.report(|report| std::mem::replace(&mut report.percent, percent) != percent);
    }

    /// Says in words what is being done, for the client to read. At most [`MAX_MESSAGE_BYTES`]. It is shown as text:
    /// markup in it means nothing.
    pub fn message(&self, text: impl Into<String>) {
        let mut text = text.into();
        let end = (0..=MAX_MESSAGE_BYTES.min(text.len())).rev();
        let end = end.into_iter().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        let message = Some(Arc::<str>::from(text));
        self.begin();
        self.report(|report| {
            let changed = report.message != message;
            report.message = message;
            changed
        });
    }

    /// Whether nobody wants the work any more: the operation was cancelled, its lifetime has ended, the server shuts
    /// down, or the client went away before it got a reply. `false` once the work has been done.
    ///
    /// A future is dropped then and need not ask. Code that blocks a thread asks it every now and then.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.shared.cancelled.borrow()
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) turns true, and never before.
    ///
    /// Cancel safety: dropping it changes nothing.
    pub async fn cancelled(&self) {
        let mut cancelled = self.shared.cancelled.subscribe();
        // It cannot fail: the sender is here.
        let _ = cancelled.wait_for(|cancelled| *cancelled).await;
    }

    pub(super) fn cancel(&self) {
        self.shared.cancelled.send_replace(true);
    }

    /// The inner service is ready, and is called.
    pub(super) fn start(&self) {
        self.report(|report| {
            report.started = Some(now());
            true
        });
    }

    /// The inner service does something with the request: it waits, reads the body, reports or responds.
    pub(super) fn begin(&self) {
        self.shared.has_begun.store(true, Ordering::Relaxed);
    }

    /// Whether an error may leave something behind. Layers that refuse a request do that at once, before they do anything
    /// with it.
    pub(super) fn has_begun(&self) -> bool {
        self.shared.has_begun.load(Ordering::Relaxed)
    }

    pub(super) fn latest(&self) -> Report {
        self.shared.report.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Report> {
        self.shared.report.subscribe()
    }

    fn report(&self, change: impl FnOnce(&mut Report) -> bool) {
        self.shared.report.send_if_modified(change);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.latest();
        f.debug_struct("Progress")
            .field("percent", &report.percent)
            .field("message", &report.message)
            .field("is_cancelled", &self.is_cancelled())
            .finish()
    }
}
