use super::Signals;
use super::family::Family;
use crate::backend::Backend;
use std::time::Duration;

/// How many waiters all signals together may have in a process.
pub const DEFAULT_MAX_WAITERS: usize = 100_000;

/// How many waiters a signal may have in a process.
pub const DEFAULT_MAX_WAITERS_PER_NAME: usize = 10_000;

/// How many bytes a value may have as JSON.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// How often latches are looked for in case the bus has lost a message.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// How long the backend may take for an answer.
pub const DEFAULT_BACKEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Builds [`Signals`] that have other than the default settings.
///
/// ```
/// use std::time::Duration;
/// use tower_promises::Signals;
/// use tower_promises::backend::Backend;
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

    /// How many waiters all signals together may have in this process, default [`DEFAULT_MAX_WAITERS`]. One
    /// more gets [`SignalError::TooManyWaiters`](super::SignalError::TooManyWaiters).
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.settings.max_waiters = waiters;
        self
    }

    /// How many waiters a signal may have in this process, default [`DEFAULT_MAX_WAITERS_PER_NAME`]. One more
    /// gets [`SignalError::TooManyWaiters`](super::SignalError::TooManyWaiters).
    pub fn max_waiters_per_name(mut self, waiters: usize) -> Self {
        self.settings.max_waiters_per_name = waiters;
        self
    }

    /// How many bytes a value may have as JSON, default [`DEFAULT_MAX_MESSAGE_BYTES`]. A larger one is
    /// [`SignalError::TooLarge`](super::SignalError::TooLarge) for the sender. The bus has a limit of its
    /// own, and a message has about 100 bytes more than its value.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// How often the latches of all names with waiters are read in case the bus has lost a message, default
    /// [`DEFAULT_POLL_INTERVAL`]. It is at least a millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// How long the backend may take for one answer, default [`DEFAULT_BACKEND_TIMEOUT`]. Then it is
    /// [`BackendError::TimedOut`](crate::backend::BackendError::TimedOut) for a sender, and the listening
    /// task tries again.
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.settings.backend_timeout = timeout;
        self
    }

    /// Makes the signals. Each call makes some of their own, which know of others only through the backend.
    #[must_use]
    pub fn build(&self) -> Signals {
        Signals::of(Family::new(self.backend.clone(), self.settings))
    }
}
