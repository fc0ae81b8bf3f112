use std::time::Duration;

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
            max_waiters: 100_000,
            max_waiters_per_name: 10_000,
            max_message_bytes: 32 * 1024,
            poll_interval: Duration::from_secs(30),
            backend_timeout: Duration::from_secs(10),
        }
    }
}
