use super::{ProcessError, ProcessJob, child, observe};
use futures_util::future::BoxFuture;
use std::any::type_name;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::{self, available_parallelism};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tower_promises_backend::kit::sync::lock;
use tower_service::Service;

/// The number of processes without a call of [`init`](super::init) after which a pool starts no more processes. Each of
/// them has leaked a thread.
const MAX_LOST_STARTS: usize = 16;

/// The default number of waiting jobs per process.
const WAITING_FOR_EACH_RUNNING: usize = 64;

/// Runs jobs in child processes, see [the module](super). Clones share the pool.
///
/// The pool is also a tower [`Service`] that is always ready. A job beyond the limits fails.
#[derive(Clone)]
pub struct ProcessPool {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ProcessPoolBuilder,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    lost_starts: AtomicUsize,
}

/// Builds a [`ProcessPool`].
#[derive(Clone, Copy, Debug)]
#[must_use = "`build` creates the pool"]
pub struct ProcessPoolBuilder {
    max_processes: usize,
    max_waiting: Option<usize>,
    max_bytes: usize,
    timeout: Duration,
    start_timeout: Duration,
}

impl ProcessPool {
    /// Creates a pool with the [default limits](super#default-limits). No process starts before the first job.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Creates a builder for a pool with other limits.
    pub fn builder() -> ProcessPoolBuilder {
        ProcessPoolBuilder {
            max_processes: available_parallelism().map_or(1, usize::from),
            max_waiting: None,
            max_bytes: 64 << 20,
            timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(10),
        }
    }

    /// Runs a job in a process of its own. The future can be a promise: `promises.try_submit("primes", pool.run(job))`.
    ///
    /// # Errors
    ///
    /// The future can fail with any [`ProcessError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the process.
    pub fn run<J: ProcessJob>(&self, job: J) -> ProcessFuture<J::Output> {
        let shared = Arc::clone(&self.shared);
        ProcessFuture {
            running: Box::pin(async move {
                let result = shared.run(job).await;
                if let Err(error) = &result {
                    observe::failed(error);
                }
                result
            }),
        }
    }

    /// Returns the number of processes that currently run.
    #[must_use]
    pub fn running(&self) -> usize {
        let free = self.shared.places.available_permits();
        self.shared.settings.max_processes.saturating_sub(free)
    }

    /// Returns the number of jobs that currently wait for a process.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}

impl Default for ProcessPool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ProcessPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessPool")
            .field("settings", &self.shared.settings)
            .field("running", &self.running())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl<J: ProcessJob> Service<J> for ProcessPool {
    type Response = J::Output;
    type Error = ProcessError;
    type Future = ProcessFuture<J::Output>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ProcessError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: J) -> Self::Future {
        self.run(job)
    }
}

impl ProcessPoolBuilder {
    /// Sets the maximum number of processes, by default the number of cores and at least one.
    pub fn max_processes(mut self, processes: usize) -> Self {
        self.max_processes = processes.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Sets the maximum number of waiting jobs, by default 64 for each process.
    pub fn max_waiting(mut self, jobs: usize) -> Self {
        self.max_waiting = Some(jobs);
        self
    }

    /// Sets the maximum size of a job and of its output, each in bytes of JSON, by default 64 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the timeout of a job, by default 60 seconds. The time starts when the job leaves the queue. A job that
    /// takes longer is killed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the time for a process to call [`init`](super::init) and receive its job, by default 10 seconds.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    fn waiting_limit(&self) -> usize {
        let default = || self.max_processes.saturating_mul(WAITING_FOR_EACH_RUNNING);
        self.max_waiting.unwrap_or_else(default)
    }

    /// Creates the pool.
    #[must_use]
    pub fn build(self) -> ProcessPool {
        ProcessPool {
            shared: Arc::new(Shared {
                settings: self,
                places: Arc::new(Semaphore::new(self.max_processes)),
                waiting: AtomicUsize::new(0),
                lost_starts: AtomicUsize::new(0),
            }),
        }
    }
}

impl Shared {
    async fn run<J: ProcessJob>(self: Arc<Self>, job: J) -> Result<J::Output, ProcessError> {
        let name = type_name::<J>();
        let runtime = Handle::try_current().map_err(|_| ProcessError::NoRuntime { job: name })?;
        let place = self.place(name).await?;
        if self.lost_starts.load(Ordering::Relaxed) >= MAX_LOST_STARTS {
            return Err(never_started(name));
        }

        let place = Arc::new(Mutex::new(Some(place)));
        let (started, has_started) = oneshot::channel::<()>();
        let (lost, is_lost) = oneshot::channel::<()>();
        // The start is watched in a task of its own, because the future of the job may be dropped.
        let watched = Arc::clone(&place);
        let shared = Arc::clone(&self);
        runtime.spawn(async move {
            let limit = shared.settings.start_timeout;
            if tokio::time::timeout(limit, has_started).await.is_err() {
                shared.lose(&watched);
                // Fails if the future of the job was dropped.
                let _ = lost.send(());
            }
        });

        let (sender, receiver) = oneshot::channel();
        let max_bytes = self.settings.max_bytes;
        let shared = Arc::clone(&self);
        let work = move || {
            let process = child::start(&job, max_bytes);
            drop(job);
            drop(started);
            let result = match process {
                Ok(process) => child::finish::<J>(process, max_bytes, || sender.is_closed()),
                Err(error) => Some(Err(error)),
            };
            shared.leave(&place);
            if let Some(result) = result {
                // Fails if the future of the job was dropped.
                let _ = sender.send(result);
            }
        };
        let thread = thread::Builder::new().name("process-job".to_owned());
        thread
            .spawn(work)
            .map_err(|error| ProcessError::StartFailed {
                job: name,
                error: Arc::new(error),
            })?;

        let ended = async {
            tokio::select! {
                result = receiver => result.unwrap_or(Err(ProcessError::Died { job: name })),
                Ok(()) = is_lost => Err(never_started(name)),
            }
        };
        let after = self.settings.timeout;
        let ended = tokio::time::timeout(after, ended).await;
        ended.unwrap_or(Err(ProcessError::TimedOut { job: name, after }))
    }

    /// Waits for a slot, unless the queue is full.
    async fn place(&self, job: &'static str) -> Result<OwnedSemaphorePermit, ProcessError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let limit = self.settings.waiting_limit();
        let one_more = |waiting: usize| (waiting < limit).then(|| waiting + 1);
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map_err(|_| ProcessError::Saturated { job, limit })?;
        let _waiting = Waiting(&self.waiting);
        let place = Arc::clone(&self.places).acquire_owned().await;
        Ok(place.unwrap_or_else(|_| unreachable!("the semaphore is never closed")))
    }

    /// Gives up a process that does not start: its slot is free, although its thread may wait forever.
    fn lose(&self, place: &Mutex<Option<OwnedSemaphorePermit>>) {
        let mut kept = lock(place);
        let place = kept.take();
        if place.is_some() {
            // Under the lock, so that this happens before `leave` subtracts.
            self.lost_starts.fetch_add(1, Ordering::Relaxed);
        }
        drop(kept);
    }

    /// Called at the end of the thread of a process. Releases the slot, or corrects the count if the start was given
    /// up.
    fn leave(&self, place: &Mutex<Option<OwnedSemaphorePermit>>) {
        let place = lock(place).take();
        if place.is_none() {
            self.lost_starts.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn never_started(job: &'static str) -> ProcessError {
    let error = "processes do not call `tower_promises_process::init` in time";
    ProcessError::StartFailed {
        job,
        error: Arc::from(tower_promises_backend::BoxError::from(error)),
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Future of a job that runs or waits for a process. Dropping it kills the process.
#[must_use = "futures do nothing unless they are polled"]
pub struct ProcessFuture<T> {
    running: BoxFuture<'static, Result<T, ProcessError>>,
}

impl<T> Future for ProcessFuture<T> {
    type Output = Result<T, ProcessError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.running.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for ProcessFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessFuture").finish_non_exhaustive()
    }
}
