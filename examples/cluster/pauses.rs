//! How long the supervisor waits before it starts a process again.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;
use tokio::time::Instant;

/// The shortest pause. Each further pause is twice as long, up to [`LONGEST`]; a random part of up to as much again is
/// added, so that processes which end together do not start together.
const SHORTEST: Duration = Duration::from_secs(1);

const LONGEST: Duration = Duration::from_secs(15);

/// A process that has run for so long is sound: the next pause is the shortest again.
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

    /// Says that the process runs.
    pub(crate) fn has_started(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Makes the next pause the shortest.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    /// The pause after the process has ended, or has not started.
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
