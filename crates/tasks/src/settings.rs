use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_attempts: u32,
    pub(super) lifetime: Duration,
    pub(super) retention: Duration,
    pub(super) dead_letter_retention: Duration,
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
            max_attempts: 3,
            lifetime: DAY * 7,
            retention: Duration::from_secs(60 * 60),
            dead_letter_retention: DAY * 14,
            max_task_bytes: 48 * 1024,
            max_output_bytes: 48 * 1024,
            poll_interval: Duration::from_secs(5),
            progress_interval: Duration::from_secs(1),
            lease: Duration::from_secs(30),
            backend_timeout: Duration::from_secs(10),
        }
    }
}
