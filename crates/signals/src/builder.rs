use super::Signals;
use super::family::Family;
use std::time::Duration;
use tower_promises_backend::Backend;

/// The default limit on the waiters of all signals in a process: 100,000.
pub const DEFAULT_MAX_WAITERS: usize = 100_000;

/// The default limit on the waiters of one signal in a process: 10,000.
pub const DEFAULT_MAX_WAITERS_PER_NAME: usize = 10_000;

/// The default limit on a value, in bytes of JSON: 32 KiB.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// The default interval at which latches are polled in case a bus message was lost: 30 seconds.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The default timeout of a backend call: 10 seconds.
pub const DEFAULT_BACKEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Builds [`Signals`] with custom settings.
///
/// ```
/// use std::time::Duration;
/// use tower_promises_signals::Signals;
/// use tower_promises_backend::Backend;
///
/// let signals = Signals::builder(Backend::memory())
///     .max_waiters_per_name(100)
///     .poll_interval(Duration::from_secs(10))
///     .build();
/// # let _ = signals;
/// ```
#[derive(Clone, Debug)]
#[must_use = "`build` makes the signals"]
pub struct SignalsBuilder {
    backend: Backend,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_waiters: usize,
    pub(super) max_waiters_per_name: usize,
    pub(super) max_message_bytes: usize,
    pub(super) poll_interval: Duration,
    pub(super) backend_timeout: Duration,
}

impl SignalsBuilder {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            settings: Settings {
                max_waiters: DEFAULT_MAX_WAITERS,
                max_waiters_per_name: DEFAULT_MAX_WAITERS_PER_NAME,
                max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
                poll_interval: DEFAULT_POLL_INTERVAL,
                backend_timeout: DEFAULT_BACKEND_TIMEOUT,
            },
        }
    }

    /// Sets the maximum number of waiters of all signals in this process, by default [`DEFAULT_MAX_WAITERS`]. A further
    /// waiter gets [`SignalError::TooManyWaiters`](super::SignalError::TooManyWaiters).
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.settings.max_waiters = waiters;
        self
    }

    /// Sets the maximum number of waiters of one signal in this process, by default [`DEFAULT_MAX_WAITERS_PER_NAME`]. A
    /// further waiter gets [`SignalError::TooManyWaiters`](super::SignalError::TooManyWaiters).
    pub fn max_waiters_per_name(mut self, waiters: usize) -> Self {
        self.settings.max_waiters_per_name = waiters;
        self
    }

    /// Sets the maximum size of a value, in bytes of JSON, by default [`DEFAULT_MAX_MESSAGE_BYTES`]. Sending a larger
    /// value fails with [`SignalError::TooLarge`](super::SignalError::TooLarge). The bus has a limit of its own; a
    /// message is about 100 bytes larger than its value.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Sets the interval at which the latches of all names with waiters are read in case a bus message was lost, by
    /// default [`DEFAULT_POLL_INTERVAL`] and at least one millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets the timeout of a backend call, by default [`DEFAULT_BACKEND_TIMEOUT`]. A sender that exceeds it gets
    /// [`BackendError::TimedOut`](tower_promises_backend::BackendError::TimedOut). The listening task retries.
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.settings.backend_timeout = timeout;
        self
    }

    /// Creates the signals. Each call creates an independent instance, which reaches others only through the backend.
    #[must_use]
    pub fn build(&self) -> Signals {
        Signals::of(Family::new(self.backend.clone(), self.settings))
    }
}
