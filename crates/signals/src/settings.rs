use std::time::Duration;

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

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_waiters: usize,
    pub(super) max_waiters_per_name: usize,
    pub(super) max_message_bytes: usize,
    pub(super) poll_interval: Duration,
    pub(super) backend_timeout: Duration,
}

/// The defaults, which [`SignalsBuilder`](super::SignalsBuilder) documents.
impl Default for Settings {
    fn default() -> Self {
        Self {
            max_waiters: DEFAULT_MAX_WAITERS,
            max_waiters_per_name: DEFAULT_MAX_WAITERS_PER_NAME,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            poll_interval: DEFAULT_POLL_INTERVAL,
            backend_timeout: DEFAULT_BACKEND_TIMEOUT,
        }
    }
}
