//! The end of a process: no new work, and a limit for the work that runs.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Counts the work that runs, and tells it when to end.
#[derive(Debug, Default)]
pub struct Drain {
    running: watch::Sender<usize>,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Working,
    /// New work is refused.
    Draining,
    /// Running work is given up.
    GivenUp,
}

/// Counts as running work until it is dropped.
#[derive(Debug)]
pub struct Running(Arc<Drain>);

impl Drain {
    /// Counts new work. The caller then asks whether new work [is refused](Self::is_draining): in this order, a drain
    /// waits for work that begins at the same time.
    pub fn enter(self: &Arc<Self>) -> Running {
        self.running.send_modify(|running| *running += 1);
        Running(self.clone())
    }

    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Resolves when new work is refused. Cancel safe.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves when running work is given up. Cancel safe.
    pub async fn given_up(&self) {
        self.reached(Phase::GivenUp).await;
    }

    /// Resolves when no work runs. Cancel safe.
    pub async fn ended(&self) {
        let _ = self.running.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Refuses new work, waits for running work, at most for this time, and gives up the rest. Returns how many were
    /// given up. They [end](Self::ended) later.
    pub async fn drain(&self, limit: Duration) -> usize {
        // Another drain may have given up already.
        self.phase
            .send_modify(|phase| *phase = Phase::Draining.max(*phase));
        let _ = timeout(limit, self.ended()).await;
        let given_up = self.running();
        self.phase.send_replace(Phase::GivenUp);
        given_up
    }

    async fn reached(&self, phase: Phase) {
        let mut phases = self.phase.subscribe();
        // Cannot fail: `self` holds the sender.
        let _ = phases.wait_for(|reached| *reached >= phase).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_in_time_is_waited_for() {
        let drain = Arc::new(Drain::default());
        let (running, start) = (drain.enter(), Instant::now());
        assert!(!drain.is_draining() && drain.draining().now_or_never().is_none());
        let work = async {
            drain.draining().await;
            assert!(drain.is_draining() && drain.given_up().now_or_never().is_none());
            tokio::time::sleep(LIMIT / 2).await;
            drop(running);
        };
        let (given_up, ()) = tokio::join!(drain.drain(LIMIT), work);
        assert_eq!((given_up, start.elapsed()), (0, LIMIT / 2));
        assert!(drain.given_up().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_given_up_for_good() {
        let drain = Arc::new(Drain::default());
        let (running, start) = ([drain.enter(), drain.enter()], Instant::now());
        let work = async {
            drain.given_up().await;
            assert_eq!(drain.running(), 2);
            drop(running);
        };
        let (given_up, ()) = tokio::join!(drain.drain(LIMIT), work);
        assert_eq!((given_up, start.elapsed()), (2, LIMIT));
        drain.ended().await;
        assert_eq!(drain.drain(LIMIT).now_or_never(), Some(0));
        assert!(drain.given_up().now_or_never().is_some());
    }
}
