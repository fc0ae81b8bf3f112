//! The pauses before the supervisor restarts a process.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;
use tokio::time::Instant;

/// The shortest pause. Each further pause doubles, up to [`LONGEST`]. A random part of up to the same length is added,
/// so that processes that end together do not start together.
const SHORTEST: Duration = Duration::from_secs(1);

const LONGEST: Duration = Duration::from_secs(15);

/// A process that ran at least this long resets the pause.
const SOUND: Duration = Duration::from_secs(30);

pub(crate) struct Pauses {
    backoff: ExponentialBackoff,
    started: Option<Instant>,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self {
            backoff: backoff(),
            started: None,
        }
    }

    /// Records that the process has started.
    pub(crate) fn has_started(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Makes the next pause the shortest.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Returns the pause after the process has ended or failed to start.
    pub(crate) fn next(&mut self) -> Duration {
        let started = self.started.take();
        if started.is_some_and(|started| started.elapsed() >= SOUND) {
            self.reset();
        }
        self.backoff.next().unwrap_or(LONGEST)
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST)
        .with_max_delay(LONGEST)
        .without_max_times()
        .with_jitter()
        .build()
}
