use std::time::Duration;
use tower_promises_backend::kit::limits::DEFAULT_LEASE;

/// The default number of tasks of a service that a worker runs at once: 4.
pub const DEFAULT_TASK_CONCURRENCY: usize = 4;

/// The default timeout of an attempt: one hour.
pub const DEFAULT_TASK_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The default number of attempts, counting those that end with a conflict or with their worker: 3.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 3;

/// The default time that a task may wait for its attempts: 7 days.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The default time for which the output or the error of a task is kept: one hour.
pub const DEFAULT_RESULT_TIME_TO_LIVE: Duration = Duration::from_secs(60 * 60);

/// The default time for which a dead letter is kept: 14 days.
pub const DEFAULT_DEAD_LETTER_TIME_TO_LIVE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The default limit on a task and on its output, each in bytes of JSON: 48 KiB.
pub const DEFAULT_MAX_TASK_BYTES: usize = 48 * 1024;

/// The default interval at which the store is polled in case a bus message was lost: 5 seconds.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The default interval at which the progress of a task is stored: one second.
pub const DEFAULT_PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The default timeout of a backend call: 10 seconds.
pub const DEFAULT_BACKEND_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_attempts: u32,
    pub(super) lifetime: Duration,
    pub(super) result_time_to_live: Duration,
    pub(super) dead_letter_time_to_live: Duration,
    pub(super) max_task_bytes: usize,
    pub(super) max_output_bytes: usize,
    pub(super) poll_interval: Duration,
    pub(super) progress_interval: Duration,
    pub(super) lease: Duration,
    pub(super) backend_timeout: Duration,
}

/// The defaults, which [`TasksBuilder`](super::TasksBuilder) documents.
impl Default for Settings {
    fn default() -> Self {
        Self {
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            lifetime: DEFAULT_LIFETIME,
            result_time_to_live: DEFAULT_RESULT_TIME_TO_LIVE,
            dead_letter_time_to_live: DEFAULT_DEAD_LETTER_TIME_TO_LIVE,
            max_task_bytes: DEFAULT_MAX_TASK_BYTES,
            max_output_bytes: DEFAULT_MAX_TASK_BYTES,
            poll_interval: DEFAULT_POLL_INTERVAL,
            progress_interval: DEFAULT_PROGRESS_INTERVAL,
            lease: DEFAULT_LEASE,
            backend_timeout: DEFAULT_BACKEND_TIMEOUT,
        }
    }
}
