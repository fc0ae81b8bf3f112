use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tower_promises_backend::kit::clock::now;
use tower_promises_backend::kit::progress;

tokio::task_local! {
    static CURRENT: Progress;
}

/// Reports the progress of a handler, and notifies the handler of cancellation.
///
/// [`OperationLayer`](super::OperationLayer) puts a `Progress` into the extensions of every request, whether or not the
/// request can become an operation, so that handlers need no special case. Clones are cheap and share their state: pass
/// a clone to a promise, a blocking job or another task.
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
///         progress.set_message(format!("importing {row}"));
///     }
///     rows.len()
/// }
///
/// // In a test, or without a layer, nothing reads the reports.
/// assert_eq!(import(&["a", "b"], &Progress::detached()), 2);
/// ```
///
/// # Costs
///
/// Reporting takes well under a microsecond and never waits. Only the latest report is kept, so a handler may report
/// often. [`progress_interval`](super::OperationLayer::progress_interval) limits how often it is stored.
#[derive(Clone)]
pub struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    report: watch::Sender<Report>,
    cancelled: watch::Sender<bool>,
    has_begun: AtomicBool,
    is_stored: AtomicBool,
}

/// The latest report of work that has not ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// When the inner service was called, in milliseconds since the epoch.
    pub(super) started: Option<u64>,
    pub(super) progress: progress::Report,
}

impl Report {
    /// Whether the inner service was called.
    pub(super) fn is_called(&self) -> bool {
        self.started.is_some()
    }

    /// Whether the work has reported progress or a message.
    pub(super) fn has_progress(&self) -> bool {
        self.progress != progress::Report::default()
    }
}

impl Progress {
    /// Creates a `Progress` without an operation, for tests and for code without a layer. Its reports are not read, and
    /// it is never cancelled.
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
                is_stored: AtomicBool::new(false),
            }),
        }
    }

    /// Returns the progress of the request that this task handles.
    ///
    /// Returns `Some` in the handler's own task, also deep in synchronous code, if the request can become an operation.
    /// Returns `None` in other tasks and threads, for example in a future passed to `tokio::spawn`, and in closures
    /// passed to `spawn_blocking` or to a blocking promise: pass a clone there.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs a future in which [`Progress::current`] returns this progress.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).await
    }

    /// Reports how much is done, in percent. NaN is ignored, and values outside of 0 to 100 are clamped. 100 does not
    /// end the operation: only the response does.
    ///
    /// A report also marks the beginning of the work: a request with an [idempotency key](super#idempotency-keys) never
    /// runs again after a report, so call this method before effects that must not happen twice.
    pub fn set(&self, percent: impl Into<f64>) {
        let percent = percent.into();
        if !percent.is_nan() {
            self.begin();
            self.report(|report| report.progress.set_percent(percent));
        }
    }

    /// Sets a message that describes the current work, for the client to read. Text beyond 1024 bytes is cut off. The
    /// page shows markup in it as text.
    pub fn set_message(&self, text: impl Into<String>) {
        let text = text.into();
        self.begin();
        self.report(|report| report.progress.set_message(text));
    }

    /// Whether the work is cancelled: the operation was cancelled, its lifetime has ended, the server shuts down, or
    /// the client disconnected before it got a reply. `false` after the work has ended.
    ///
    /// A cancelled future is dropped and need not check. Code that blocks a thread should check regularly.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.shared.cancelled.borrow()
    }

    /// Resolves when [`is_cancelled`](Self::is_cancelled) becomes true, and never otherwise.
    ///
    /// Cancel safety: dropping the future has no effect.
    pub async fn cancelled(&self) {
        let mut cancelled = self.shared.cancelled.subscribe();
        // Never fails: `self` owns the sender.
        let _ = cancelled.wait_for(|cancelled| *cancelled).await;
    }

    pub(super) fn cancel(&self) {
        self.shared.cancelled.send_replace(true);
    }

    /// Records that the inner service is ready and is called.
    pub(super) fn start(&self) {
        self.report(|report| {
            report.started = Some(now());
            true
        });
    }

    /// Whether the response of this request is stored before a client gets it: the request is an operation, or has an
    /// idempotency key. There is no use in sending such a response in parts.
    ///
    /// A request can become an operation at any time, so the answer may change from `false` to `true`.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.shared.is_stored.load(Ordering::Relaxed)
    }

    /// Records that the response is stored.
    pub(super) fn store(&self) {
        self.shared.is_stored.store(true, Ordering::Relaxed);
    }

    /// Records that the work has begun: the inner service waits, reads the body, reports or responds.
    pub(super) fn begin(&self) {
        self.shared.has_begun.store(true, Ordering::Relaxed);
    }

    /// Whether the work has begun, so that an error may leave effects behind. Layers that refuse a request do so at
    /// once, before the work has begun.
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
            .field("percent", &report.progress.percent)
            .field("message", &report.progress.message)
            .field("is_cancelled", &self.is_cancelled())
            .finish()
    }
}
