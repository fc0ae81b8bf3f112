use super::attempt::Attempts;
use super::enqueue::backend_queue;
use super::tasks::{Core, Provided};
use super::{TaskError, Tasks, observe};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::kit::drain::{Drain, Running};
use tower_promises_backend::{BackendError, WorkOptions};

/// Runs the tasks of queues, in the process that [started](super::Tasks::work) it.
///
/// Any number of workers, in any number of processes, can work for one queue.
///
/// # Cancel safety
///
/// Dropping the worker drops its running tasks. Other workers receive them when their leases expire, and the
/// interrupted attempts count. Use [`drain`](Self::drain) for a graceful shutdown.
#[must_use = "a worker ends when it is dropped"]
pub struct Worker {
    drain: Arc<Drain>,
    given_up: Arc<AtomicUsize>,
    queues: JoinSet<()>,
    backend_timeout: Duration,
}

impl Tasks {
    /// Starts a worker for all queues. It runs tasks in this process until the [`Worker`] is drained or dropped.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub fn work(&self) -> Result<Worker, TaskError> {
        let queues = self.core.queues.iter();
        let queues = queues.map(|(name, provided)| (name.clone(), provided.clone()));
        Worker::start(self, queues)
    }
}

impl Worker {
    pub(super) fn start(
        tasks: &Tasks,
        queues: impl IntoIterator<Item = (Arc<str>, Provided)>,
    ) -> Result<Self, TaskError> {
        Core::runtime()?;
        let drain = Arc::<Drain>::default();
        let given_up = Arc::<AtomicUsize>::default();
        let mut set = JoinSet::new();
        for (name, provided) in queues {
            #[cfg(feature = "schedules")]
            for schedule in tasks.core.schedules.values() {
                if schedule.queue == name {
                    let (core, schedule) = (tasks.core.clone(), schedule.clone());
                    set.spawn(super::schedules::keep(core, schedule, drain.clone()));
                }
            }
            let attempts = Attempts::new(tasks, name, provided, drain.clone(), given_up.clone());
            set.spawn(work(Arc::new(attempts), drain.enter()));
        }
        Ok(Self {
            drain,
            given_up,
            queues: set,
            backend_timeout: tasks.core.records.backend.timeout(),
        })
    }

    /// Shuts the worker down. It takes no more tasks, waits for running tasks for at most `limit`, and returns the
    /// remaining ones to the queue. Other workers receive them at once, and the interrupted attempts do not count.
    ///
    /// Returns how many tasks were given up: 0 if all running tasks have ended by themselves.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has the same effect as dropping the worker.
    pub async fn drain(self, limit: Duration) -> usize {
        self.drain.drain(limit).await;
        // Two backend calls for each task: one to the store, one to the queue.
        let patience = self.backend_timeout.saturating_mul(2);
        let _ = timeout(patience, self.drain.ended()).await;
        self.given_up.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queues", &self.queues.len())
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

/// Runs a queue until the worker is drained, and restarts after errors of the backend.
async fn work(attempts: Arc<Attempts>, _running: Running) {
    let core = &attempts.tasks.core;
    let handler = {
        let attempts = attempts.clone();
        Arc::new(move |delivery| attempts.clone().attend(delivery))
    };
    let mut backoff = Backoff::default();
    loop {
        let started = Instant::now();
        let options = WorkOptions::new(backend_queue(&attempts.name))
            .concurrency(attempts.provided.concurrency)
            .prefetch(attempts.provided.prefetch)
            .lease(core.settings.lease);
        let shutdown = attempts.drain.draining();
        let queue = core.records.backend.queue();
        let ended: Result<(), BackendError> = queue
            .work(options, handler.clone(), Box::pin(shutdown))
            .await;
        if attempts.drain.is_draining() {
            return;
        }
        let pause = backoff.pause_after(started.elapsed());
        observe::worker_lost(&attempts.name, ended.as_ref().err(), pause);
        if timeout(pause, attempts.drain.draining()).await.is_ok() {
            return;
        }
    }
}
