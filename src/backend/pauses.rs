use std::time::Duration;

/// The pause after the first failure of the bus. Each further failure doubles it.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause. A subscription that has held that long makes the next pause short again.
const LONGEST: Duration = Duration::from_secs(10);

/// How long a listener waits before it listens to the bus again.
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The pause after a subscription that has held so long.
    pub(crate) fn after(&mut self, held: Duration) -> Duration {
        let pause = match held >= LONGEST {
            true => FIRST,
            false => self.next,
        };
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}
