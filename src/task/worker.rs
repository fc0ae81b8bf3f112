use super::attempt::Attempts;
use super::core::{Core, Service};
use super::request::queue_of;
use super::{TaskError, Tasks, observe};
use crate::backend::backoff::Backoff;
use crate::backend::{BackendError, Delivery, Handler, Outcome, WorkOptions};
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, RwLock, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// The pause after a worker has ended. Each further end doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. A worker that has worked that long makes the next pause short again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs the tasks of services, in the process in which it was [made](super::Tasks::work).
///
/// Any number of workers, in any number of processes, can work for one service.
///
/// # Cancel safety
///
/// Dropping it drops the tasks that run: they are given to other workers when their leases end, which counts as an
/// attempt. [`drain`](Self::drain) is the friendly way to end it.
#[must_use = "a worker ends when it is dropped"]
pub struct Worker {
    phase: watch::Sender<Phase>,
    services: JoinSet<()>,
    backend_timeout: Duration,
}

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Working,
    /// It takes no more.
    Draining,
    /// It gives back what it has.
    GivenUp,
}

impl Phase {
    pub(super) async fn given_up(phase: &mut watch::Receiver<Self>) {
        Self::reached(phase, Self::GivenUp).await;
    }

    pub(super) async fn draining(phase: &mut watch::Receiver<Self>) {
        Self::reached(phase, Self::Draining).await;
    }

    async fn reached(phase: &mut watch::Receiver<Self>, at_least: Self) {
        // A worker that was dropped has aborted all who ask.
        if phase.wait_for(|phase| *phase >= at_least).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Worker {
    pub(super) fn start(
        tasks: &Tasks,
        services: impl IntoIterator<Item = (Arc<str>, Service)>,
    ) -> Result<Self, TaskError> {
        Core::runtime()?;
        let phase = watch::Sender::new(Phase::Working);
        let mut set = JoinSet::new();
        for (name, service) in services {
            let attempts = Attempts {
                tasks: tasks.unbound(),
                service,
                name,
                phase: phase.subscribe(),
                company: RwLock::new(()),
                last: Mutex::new(()),
            };
            set.spawn(work(Arc::new(attempts)));
        }
        Ok(Self {
            phase,
            services: set,
            backend_timeout: tasks.core().records.timeout,
        })
    }

    /// Ends the worker: takes no more tasks, waits for those that run, at most so long, and gives the rest back to the
    /// queue, where other workers have them at once. To be given back does not count as an attempt. Returns whether all
    /// have ended by themselves.
    ///
    /// Cancel safety: dropped, the worker ends as if it was dropped.
    pub async fn drain(mut self, patience: Duration) -> bool {
        self.phase.send_replace(Phase::Draining);
        if timeout(patience, self.ended()).await.is_ok() {
            return true;
        }
        self.phase.send_replace(Phase::GivenUp);
        // The store is told, then the queue.
        let _ = timeout(self.backend_timeout.saturating_mul(2), self.ended()).await;
        false
    }

    async fn ended(&mut self) {
        while self.services.join_next().await.is_some() {}
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("services", &self.services.len())
            .field("phase", &*self.phase.borrow())
            .finish_non_exhaustive()
    }
}

impl Handler for Arc<Attempts> {
    fn handle(&self, delivery: Delivery) -> BoxFuture<'static, Outcome> {
        Box::pin(self.clone().attend(delivery))
    }
}

/// Works for a service until the worker is drained, whatever the backend does.
async fn work(attempts: Arc<Attempts>) {
    let core = attempts.tasks.core();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let started = Instant::now();
        let mut phase = attempts.phase.clone();
        let options = WorkOptions::new(queue_of(&attempts.name))
            .concurrency(attempts.service.concurrency)
            .lease(core.settings.lease);
        let shutdown = async move { Phase::draining(&mut phase).await };
        let queue = core.records.backend.queue();
        let ended: Result<(), BackendError> = queue
            .work(options, Arc::new(attempts.clone()), Box::pin(shutdown))
            .await;
        if *attempts.phase.borrow() >= Phase::Draining {
            return;
        }
        let pause = backoff.pause_after(started.elapsed());
        observe::worker_lost(&attempts.name, ended.as_ref().err(), pause);
        let mut phase = attempts.phase.clone();
        let shutdown = Phase::draining(&mut phase);
        if timeout(pause, shutdown).await.is_ok() {
            return;
        }
    }
}
