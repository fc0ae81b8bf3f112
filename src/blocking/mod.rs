//! A bounded pool for work that blocks its thread, fair between requests.
//!
//! A closure that computes for long, or that waits without `await`, must not run on a thread of the async
//! runtime: other requests would wait for that thread. [`Promises::submit_blocking`] runs the closure on a separate
//! thread with tokio's `spawn_blocking`, within the limits of a [`BlockingPool`]. All requests of a
//! [`PromiseLayer`] share the pool.
//!
//! # Example
//!
//! ```
//! use tower_promises::blocking::{self, BlockingPool};
//! use tower_promises::{PromiseError, PromiseLayer, Promises};
//!
//! fn page(promises: &Promises) -> Result<String, PromiseError> {
//!     let primes = promises.result_or_submit_blocking("primes", || {
//!         // Stops early once the promise is cancelled.
//!         (2..10_000_u32)
//!             .take_while(|_| !blocking::is_cancelled())
//!             .filter(|n| (2..*n).all(|d| n % d != 0))
//!             .count()
//!     })?;
//!     Ok(format!("{primes} primes"))
//! }
//!
//! let layer = PromiseLayer::new().blocking(BlockingPool::builder().max_running(4).build());
//! # let _ = (page, layer);
//! ```
//!
//! # Rules
//!
//! 1. At most [`max_running`](BlockingPoolBuilder::max_running) jobs run at a time, and at most
//!    [`max_waiting`](BlockingPoolBuilder::max_waiting) jobs wait in the queue.
//! 2. Requests take turns: a request with a hundred jobs does not delay a request with one job.
//! 3. A job that finds the queue full does not wait: see [`OnSaturation`].
//! 4. A job whose request ends while the job is in the queue never starts. A running job cannot be stopped from
//!    outside; it can poll [`is_cancelled`].
//! 5. Within a job, [`Promises::current`] returns the handle through which the job was submitted.
//!
//! # Default limits
//!
//! By default as many jobs run as the machine has cores. More jobs would not compute faster, and would take time
//! from the threads of the runtime. For closures that wait rather than compute, for example for a file system or a
//! synchronous database driver, set [`max_running`](BlockingPoolBuilder::max_running) to the concurrency that this resource
//! supports. 64 jobs per core may wait, so that a full queue of 10 ms jobs is processed in less than a second. A job
//! beyond that is refused at once rather than kept waiting.
//!
//! # Cancel safety
//!
//! Dropping the promise of a job, with its request or by [`Promises::cancel`], removes the job from the queue. If the
//! job is running, [`is_cancelled`] returns `true` from then on.
//!
//! # Panics
//!
//! A panic in a job becomes the error of its promise. Blocking promises require a tokio runtime.
//!
//! [`PromiseLayer`]: crate::PromiseLayer
//! [`Promises::current`]: crate::Promises::current
//! [`Promises::cancel`]: crate::Promises::cancel
//! [`Promises::submit_blocking`]: crate::Promises::submit_blocking

mod builder;

pub use builder::{BlockingPoolBuilder, OnSaturation};

use crate::gauge::{BLOCKING_JOBS_IN_FLIGHT, BLOCKING_QUEUE_DEPTH, Gauge};
use crate::sync::lock;
use builder::Settings;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Limits the number of blocking jobs that run and wait. Clones share one pool, so layers can share it.
#[derive(Clone)]
#[must_use]
pub struct BlockingPool {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    /// The number of requests so far.
    requests: AtomicU64,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: usize,
    /// The waiting jobs, by request. The first job of the first request is next; its request then moves to the end.
    requests: VecDeque<Request>,
}

struct Request {
    number: u64,
    jobs: VecDeque<oneshot::Sender<Permit>>,
}

/// Permission to run one job. Dropping it passes the permission to the next waiting job.
struct Permit {
    shared: Option<Arc<Shared>>,
}

/// The pool has no room for a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saturated {
    pub(crate) on_saturation: OnSaturation,
}

impl BlockingPool {
    /// Creates a pool with the [default limits](self#default-limits).
    pub fn new() -> Self {
        Self::of(Settings::default())
    }

    /// Creates a builder for a pool with other limits.
    pub fn builder() -> BlockingPoolBuilder {
        BlockingPoolBuilder::new()
    }

    fn of(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                state: Mutex::default(),
                requests: AtomicU64::new(0),
            }),
        }
    }

    pub(crate) fn retry_delay(&self) -> Duration {
        self.shared.settings.retry_after
    }

    /// The number of jobs that are running now.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.shared.state).running
    }

    /// The number of jobs that are waiting now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let mut state = lock(&self.shared.state);
        state.remove_cancelled();
        state.waiting
    }

    /// Returns a number for a new request. Requests with different numbers take turns.
    pub(crate) fn next_request(&self) -> u64 {
        self.shared.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs a job on a separate thread when it is the turn of its request.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        request: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Saturated> {
        let mut permit = self.admit(request)?;
        let permit = match permit.try_recv() {
            Ok(permit) => permit,
            Err(_) => {
                // The gauge belongs to the future, so a dropped future no longer counts as waiting.
                let _waiting = Gauge::one(&BLOCKING_QUEUE_DEPTH);
                match permit.await {
                    Ok(permit) => permit,
                    // Unreachable: the sender is dropped only with the pool, and `self` keeps the pool alive.
                    Err(_) => std::future::pending().await,
                }
            }
        };
        let flag = Arc::new(AtomicBool::new(false));
        let is_cancelled = Arc::clone(&flag);
        let in_flight = Gauge::one(&BLOCKING_JOBS_IN_FLIGHT);
        let handle = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let _in_flight = in_flight;
            if is_cancelled.load(Ordering::Relaxed) {
                return None;
            }
            let _job = CurrentJob::enter(is_cancelled);
            Some(job())
        });
        let mut guard = CancelOnDrop { flag, handle };
        match (&mut guard.handle).await {
            Ok(Some(value)) => Ok(value),
            Ok(None) => unreachable!("only the guard cancels a job"),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is shutting down and drops this future too.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn admit(&self, request: u64) -> Result<oneshot::Receiver<Permit>, Saturated> {
        let (sender, receiver) = oneshot::channel();
        let settings = &self.shared.settings;
        let mut state = lock(&self.shared.state);
        if state.running < settings.max_running {
            state.running += 1;
            drop(state);
            let permit = Permit {
                shared: Some(Arc::clone(&self.shared)),
            };
            // The receiver is still in scope, so sending cannot fail.
            let _ = sender.send(permit);
            return Ok(receiver);
        }
        if state.waiting >= settings.max_waiting {
            state.remove_cancelled();
        }
        if state.waiting >= settings.max_waiting {
            return Err(Saturated {
                on_saturation: settings.on_saturation,
            });
        }
        state.push(request, sender);
        Ok(receiver)
    }
}

impl Default for BlockingPool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.shared.settings;
        let state = lock(&self.shared.state);
        f.debug_struct("BlockingPool")
            .field("max_running", &settings.max_running)
            .field("max_waiting", &settings.max_waiting)
            .field("on_saturation", &settings.on_saturation)
            .field("running", &state.running)
            .field("waiting", &state.waiting)
            .finish_non_exhaustive()
    }
}

impl State {
    fn push(&mut self, number: u64, job: oneshot::Sender<Permit>) {
        self.waiting += 1;
        let same = |request: &&mut Request| request.number == number;
        match self.requests.iter_mut().find(same) {
            Some(request) => request.jobs.push_back(job),
            None => self.requests.push_back(Request {
                number,
                jobs: VecDeque::from([job]),
            }),
        }
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Permit>> {
        loop {
            let mut request = self.requests.pop_front()?;
            let mut next = None;
            while let Some(job) = request.jobs.pop_front() {
                self.waiting -= 1;
                // A job whose promise was dropped must not use up the turn of its request.
                if !job.is_closed() {
                    next = Some(job);
                    break;
                }
            }
            if !request.jobs.is_empty() {
                self.requests.push_back(request);
            }
            if next.is_some() {
                return next;
            }
        }
    }

    /// Removes the jobs whose promise was dropped.
    fn remove_cancelled(&mut self) {
        self.waiting = 0;
        for request in &mut self.requests {
            request.jobs.retain(|job| !job.is_closed());
            self.waiting += request.jobs.len();
        }
        self.requests.retain(|request| !request.jobs.is_empty());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        loop {
            let next = {
                let mut state = lock(&shared.state);
                let next = state.pop();
                if next.is_none() {
                    state.running -= 1;
                }
                next
            };
            let Some(next) = next else {
                return;
            };
            let permit = Self {
                shared: Some(Arc::clone(&shared)),
            };
            match next.send(permit) {
                Ok(()) => return,
                // The job was dropped meanwhile. Offer the permit to the next job.
                Err(mut permit) => permit.shared = None,
            }
        }
    }
}

/// Cancels a job when its future is dropped.
struct CancelOnDrop<T> {
    flag: Arc<AtomicBool>,
    handle: JoinHandle<T>,
}

impl<T> Drop for CancelOnDrop<T> {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
        // Prevents the job from starting if tokio has not assigned a thread yet.
        self.handle.abort();
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Marks a job as the current job of its thread.
struct CurrentJob;

impl CurrentJob {
    fn enter(is_cancelled: Arc<AtomicBool>) -> Self {
        CURRENT.set(Some(is_cancelled));
        Self
    }
}

impl Drop for CurrentJob {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// Whether the blocking job on this thread is cancelled: its promise was cancelled or timed out, or its client
/// disconnected. `false` outside a job.
///
/// A long computation polls this regularly, and returns any value once it is `true`.
#[must_use]
pub fn is_cancelled() -> bool {
    CURRENT.with_borrow(|flag| {
        let flag = flag.as_ref();
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
    })
}
