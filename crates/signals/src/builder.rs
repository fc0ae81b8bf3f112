use super::Signals;
use super::instance::Instance;
use super::settings::Settings;
use std::time::Duration;
use tower_promises_backend::Backend;

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
#[must_use = "`build` creates the signals"]
pub struct SignalsBuilder {
    backend: Backend,
    settings: Settings,
}

impl Signals {
    /// Creates signals on top of a backend, with the default settings.
    ///
    /// Each call creates an independent instance, as if in a process of its own. Instances reach each other only
    /// through the backend. A process needs one; clones share it.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        Self::builder(backend).build()
    }

    /// Creates signals within this process, with the default settings.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Backend::memory())
    }

    /// Creates a builder for signals with other settings.
    pub fn builder(backend: Backend) -> SignalsBuilder {
        SignalsBuilder {
            backend,
            settings: Settings::default(),
        }
    }
}

impl SignalsBuilder {
    /// Sets the maximum number of waiters of all signals in this process, by default 100,000. A further waiter gets
    /// [`SignalError::TooManyWaiters`](super::SignalError::TooManyWaiters).
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.settings.max_waiters = waiters;
        self
    }

    /// Sets the maximum number of waiters of one signal in this process, by default 10,000. A further waiter gets
    /// [`SignalError::TooManyWaiters`](super::SignalError::TooManyWaiters).
    pub fn max_waiters_per_name(mut self, waiters: usize) -> Self {
        self.settings.max_waiters_per_name = waiters;
        self
    }

    /// Sets the maximum size of a value, in bytes of JSON, by default 32 KiB. Sending a larger value fails with
    /// [`SignalError::TooLarge`](super::SignalError::TooLarge). The bus has a limit of its own; a message is about 100
    /// bytes larger than its value.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Sets the interval at which the latches of all names with waiters are read in case a bus message was lost, by
    /// default 30 seconds and at least one millisecond.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets the timeout of a backend call, by default 10 seconds. A sender that exceeds it gets
    /// [`BackendError::TimedOut`](tower_promises_backend::BackendError::TimedOut). The listening task retries.
    pub fn backend_timeout(mut self, timeout: Duration) -> Self {
        self.settings.backend_timeout = timeout;
        self
    }

    /// Creates the signals. Each call creates an independent instance, which reaches others only through the backend.
    #[must_use]
    pub fn build(self) -> Signals {
        Signals::of(Instance::new(self.backend, self.settings))
    }
}
