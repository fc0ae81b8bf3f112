use super::attempt::Attempts;
use super::core::{Core, Service};
use super::request::queue_of;
use super::{TaskError, Tasks, observe};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, RwLock, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::{BackendError, WorkOptions};

/// The pause after a worker has ended with an error. Each further error doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. A worker that ran at least this long resets the pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs the tasks of services, in the process that [started](super::Tasks::work) it.
///
/// Any number of workers, in any number of processes, can work for one service.
///
/// # Cancel safety
///
/// Dropping the worker drops its running tasks. Other workers receive them when their leases expire, and the
/// interrupted attempts count. Use [`drain`](Self::drain) for a graceful shutdown.
#[must_use = "a worker ends when it is dropped"]
pub struct Worker {
    phase: watch::Sender<Phase>,
    services: JoinSet<()>,
    backend_timeout: Duration,
}

/// The phase of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Working,
    /// Takes no more tasks.
    Draining,
    /// Returns its running tasks to the queue.
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
        // Dropping the worker aborts all tasks that wait for a phase.
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

    /// Shuts the worker down. It takes no more tasks, waits for running tasks for at most `patience`, and returns the
    /// remaining ones to the queue. Other workers receive them at once, and the interrupted attempts do not count.
    ///
    /// Returns `true` if all running tasks have ended by themselves.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has the same effect as dropping the worker.
    pub async fn drain(mut self, patience: Duration) -> bool {
        self.phase.send_replace(Phase::Draining);
        if timeout(patience, self.ended()).await.is_ok() {
            return true;
        }
        self.phase.send_replace(Phase::GivenUp);
        // Two backend calls for each task: one to the store, one to the queue.
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

/// Runs a service until the worker is drained, and restarts after errors of the backend.
async fn work(attempts: Arc<Attempts>) {
    let core = attempts.tasks.core();
    let handler = {
        let attempts = attempts.clone();
        Arc::new(move |delivery| attempts.clone().attend(delivery))
    };
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
            .work(options, handler.clone(), Box::pin(shutdown))
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
