//! A bounded pool of child processes, for computations that may crash or never end.
//!
//! A thread that computes cannot be stopped, and one that aborts takes the server with it. A [`ProcessPool`] runs a
//! [`ProcessJob`] in a child process of its own, started from the same program: nothing is to be installed, a crash
//! ends that job and nothing else, a timeout kills it, and the memory it has used is given back whole.
//!
//! # Example
//!
//! ```standalone_crate
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//! use tower_promises::process::{self, ProcessJob, ProcessPool};
//! use tower_promises::{PromiseError, Promises};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Primes {
//!     below: u32,
//! }
//!
//! impl ProcessJob for Primes {
//!     type Output = usize;
//!
//!     fn run(self) -> usize {
//!         (2..self.below).filter(|n| (2..*n).all(|d| n % d != 0)).count()
//!     }
//! }
//!
//! fn page(promises: &Promises, pool: &ProcessPool) -> Result<String, PromiseError> {
//!     let primes = promises.result_or_try_submit("primes", || pool.run(Primes { below: 10_000 }))?;
//!     Ok(format!("{primes} primes"))
//! }
//!
//! fn main() {
//!     // Child processes go no further than this.
//!     process::init();
//!
//!     let pool = ProcessPool::builder().timeout(Duration::from_secs(10)).build();
//!     // The server comes here.
//! #   let runtime = tokio::runtime::Runtime::new().unwrap();
//! #   let primes = runtime.block_on(pool.run(Primes { below: 100 }));
//! #   assert_eq!(primes.unwrap(), 25);
//! #   let _ = page;
//! }
//! ```
//!
//! In a task (module `task`), `pool.run(..).await?` does the same: give the pool to `TasksBuilder::state`.
//!
//! # Rules
//!
//! 1. [`init`] is the first thing in `main`. A child starts the program again, from its beginning, and what stands
//!    before `init` runs in each of them.
//! 2. Each job has a process of its own. At most [`max_processes`](ProcessPoolBuilder::max_processes) run at a time, at
//!    most [`max_waiting`](ProcessPoolBuilder::max_waiting) jobs wait for their turn, first come, first served. One for
//!    which there is no room is [`ProcessError::Saturated`] at once.
//! 3. The fields of a job are its arguments. They travel as JSON, and so does the output, each at most
//!    [`max_bytes`](ProcessPoolBuilder::max_bytes) long.
//! 4. A child that ends without a result, by an abort, an exit or a signal, makes [`ProcessError::Died`].
//! 5. A job that takes longer than [`timeout`](ProcessPoolBuilder::timeout), from when its turn has come, is killed.
//! 6. Nothing starts before the future is polled: a promise that is cancelled in time costs nothing.
//!
//! # Default limits
//!
//! As many processes as the machine has cores, for more would not compute faster, and 64 times as many jobs that wait.
//! A minute for a job, ten seconds for a process to start, 64 MiB for the arguments and as much for the output.
//!
//! # Pitfalls
//!
//! - A child is a new process: it shares no variables, connections or locks with the server, and what `main` sets up
//!   after `init` is not there. What a job needs is in its fields.
//! - Starting a process takes milliseconds, and more for a large program. Work that is shorter, and trusted, is better
//!   off on a thread: module `blocking`.
//! - A job's standard output and error are those of the server, its standard input is empty.
//! - A runtime's threads, if a job makes some, and processes that a job starts, are the job's own affair: killing the
//!   job does not end *its* children.
//! - A result is there when its process has ended. Destructors of thread-locals and handlers of C libraries run after
//!   the job, and if they hold it up for longer than [`END_TIMEOUT`] it is aborted. One that somebody stops (`SIGSTOP`)
//!   just then keeps its place until it goes on.
//! - If the server is killed, or exits while a job runs, the job is aborted within [`WATCH_INTERVAL`]. In Windows it
//!   runs to its end. For this a child has a thread of its own, so a job cannot do what only a process of one thread
//!   may do.
//! - A program that exits, or waits, before it calls `init` makes [`ProcessError::Start`], and so does a child that
//!   is killed in its first milliseconds. Such a start leaves a thread and a socket in the temporary directory
//!   behind, which procspawn gives no way to end. With [`MAX_LOST_STARTS`] of those a pool refuses all jobs.
//! - Tests are child processes too, and their `main` is not yours. Put `procspawn::enable_test_support!();` into the
//!   test file, with `procspawn` and its feature `test-support` in the dev-dependencies.
//!
//! # Cancel safety
//!
//! Dropping the future of a job takes it out of the queue, or kills its process (`SIGKILL`, in Windows
//! `TerminateProcess`) within [`POLL_INTERVAL`], one that is still starting as soon as it has started. A process keeps
//! its place in the pool until it has ended.
//!
//! # Panics
//!
//! A panic in a job is [`ProcessError::Panicked`]. A program that is built with `panic = "abort"` gets `Died`. The
//! future panics on a runtime of tokio that has no time.
//!
//! # Security
//!
//! A child has the user, the environment, the arguments and the files of the server: it contains crashes, not attacks.
//! Do not run code in it that you do not trust. Nobody else can hand it work: it takes one job, from the process that
//! has started it. What a job returns is data of the child, bounded in size, and checked by `Deserialize` alone.
//!
//! # Platforms
//!
//! Linux and macOS, and Windows as far as procspawn supports it. Child and server are the same executable file, on
//! Linux even when the file has been replaced in the meantime. Where executables cannot start themselves, as on iOS and
//! in WebAssembly, there is [`ProcessError::Start`].
//!
//! # Neighbours
//!
//! The module `blocking` runs closures on threads of the server, cheaply, and cannot stop them. The module `task` runs
//! functions that must not be forgotten, possibly on other machines; their workers can use a pool.

mod child;
mod error;
mod job;
mod observe;
mod pool;
mod watch;

pub use error::ProcessError;
pub use job::ProcessJob;
pub use pool::{
    DEFAULT_MAX_JOB_BYTES, DEFAULT_PROCESS_TIMEOUT, DEFAULT_START_TIMEOUT, END_TIMEOUT,
    MAX_LOST_STARTS, POLL_INTERVAL, ProcessFuture, ProcessPool, ProcessPoolBuilder, WATCH_INTERVAL,
};

/// Runs the job and ends the process, in a child of a [`ProcessPool`]. Elsewhere it does nothing but allow this program
/// to have children.
///
/// Call it first in `main`, before a runtime, threads, log files or sockets are made.
pub fn init() {
    procspawn::init();
}
