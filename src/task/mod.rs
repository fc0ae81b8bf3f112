//! Tasks: named functions that run elsewhere, on a task service.
//!
//! A [`Task`] is a serde type with a name and a `run`. A [`TaskService`] takes it to a [`Worker`], in this process, in
//! another one or on another machine, and brings back its output. A call is a future, so it can be a promise, and a
//! template that cannot wait shows what another process has made. What is submitted acts for the principal of the
//! request that submits it.
//!
//! # Example
//!
//! ```
//! use axum::{Router, routing::get};
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//! use tower_promises::backend::Backend;
//! use tower_promises::task::Principal;
//! use tower_promises::{
//!     PromiseError, PromiseLayer, Promises, Task, TaskContext, TaskFailure, TaskLayer, TaskService, Tasks,
//! };
//!
//! /// The arguments.
//! #[derive(Serialize, Deserialize)]
//! struct Render {
//!     year: u32,
//! }
//!
//! /// The function.
//! impl Task for Render {
//!     const NAME: &'static str = "render";
//!     type Output = String;
//!
//!     async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
//!         let reader = context.principal().ok_or("nobody may read reports")?;
//!         context.set_progress(50);
//!         Ok(format!("The report of {} for {reader}", self.year))
//!     }
//! }
//!
//! /// Waits for the task, wherever it runs.
//! async fn report(promises: Promises, tasks: Tasks) -> Result<String, PromiseError> {
//!     promises.result_or_try_submit("report", || {
//!         tasks.service("reports").call(Render { year: 2026 }).timeout(Duration::from_secs(30))
//!     })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // The same in all processes.
//! let tasks = Tasks::builder(Backend::memory())
//!     .service(TaskService::builder("reports").task::<Render>().concurrency(2))
//!     .build();
//!
//! // In those that work, which may be this one.
//! let worker = tasks.work().expect("a runtime");
//!
//! // In those that serve.
//! let layer = TaskLayer::new(tasks.clone()).principal(|_| Some(Principal::new("ada")));
//! let app: Router = Router::new().route("/", get(report)).layer(PromiseLayer::new()).layer(layer);
//! # use tower::ServiceExt;
//! # let response = app.oneshot(http::Request::new(axum::body::Body::empty())).await.unwrap();
//! # let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
//! # assert_eq!(body, "The report of 2026 for ada");
//!
//! // At the end: what does not end within half a minute goes to another worker.
//! worker.drain(Duration::from_secs(30)).await;
//! # }
//! ```
//!
//! [`guide`] goes from one machine to many, and says how to size them.
//!
//! # Rules
//!
//! 1. A task that is [submitted](TaskService::submit) or [called](TaskService::call) runs in a worker of its service,
//!    not in the caller.
//! 2. It runs as the principal for whom it was submitted, and as nobody if there was none. [`Principal::current`] says
//!    so deep in what it calls. The trace of the request travels along, too: [`TraceContext`].
//! 3. Within a task, what is submitted or called runs at once, in place, as a part of it: its error is an error of the
//!    outer one, and its conflict makes the outer one be tried again. So a task never waits for a worker that waits for
//!    it. [`is_task`] tells.
//! 4. Where nobody has [added](TasksBuilder::service) a service of that name, the task runs at once, in place, with a
//!    warning that names both. It is not tried again.
//! 5. After a [conflict](TaskFailure::conflict) it is tried again, after a random time within 2<sup>n</sup> seconds,
//!    where n is the number of the attempt. After three [attempts](TasksBuilder::max_attempts) it is a dead letter. Any
//!    other error, a panic and too long a run [end](TaskError::Failed) it, and are logged.
//! 6. An attempt that ends with its worker counts: a task that kills its workers is a dead letter after three of them.
//!    Who has lost a worker has its last attempt alone: beside no other task of its service in that worker, and no
//!    other such task in that process. So what ran beside a task that kills its workers does not die with it. An
//!    attempt that is given back by a worker that [shuts down](Worker::drain) does not count.
//! 7. [Dead letters](TaskService::dead_letters) are kept, listed and [sent again](TaskService::send_again). A task
//!    whose type a worker does not know, or whose arguments it cannot read, is left to other workers, half a minute
//!    later each time, and is one when its attempts are used up. What a worker cannot read as a whole, because another
//!    version of this crate has submitted it, is left to others for its [lifetime](TasksBuilder::lifetime), and then is
//!    a dead letter with its bytes: it can be sent again when a version that can read it is there.
//! 8. Exactly one end of a task is recorded. Each attempt has a token of its own, and only that which the store knows
//!    may record. What a worker has made that has lost its lease is dropped.
//! 9. The output is stored before the queue is told, and kept for a
//!    [time to live](TasksBuilder::result_time_to_live).
//! 10. A task that cannot be serialised, or not so that it can be read again, that is too large or is not known to its
//!     service fails where it is submitted. An output that cannot be read is an error of the call that reads it, and
//!     stays stored for others.
//! 11. The truth is in the store. The bus makes it fast; what it loses is found by a
//!     [poll](TasksBuilder::poll_interval).
//!
//! # What at least once means for your task
//!
//! A task runs until an end of it is recorded. When its worker crashes, or loses touch for longer than the
//! [lease](TasksBuilder::lease), it runs again, and the worker that has lost touch may still be running it for a
//! moment. So what a task does must bear to be done twice:
//!
//! - Write in one database transaction that is committed last. An error, a conflict and a cancel roll it back. Between
//!   the commit and the record of the end a crash is possible: have the transaction insert the task's
//!   [id](TaskContext::id) into a table with a unique index, and a second run finds it.
//! - Give the id, which is the same for all attempts, as idempotency key to other systems.
//! - Keep what cannot be repeated, such as a mail, for the end.
//!
//! # Pitfalls
//!
//! - **Processes must agree.** All that submit to a service and all that work for it add it with the same types.
//! - **Tasks and outputs are small**, [48 KiB](DEFAULT_MAX_TASK_BYTES) each: pass keys and paths, not files.
//! - **A handler with promises runs more than once**, and submits in each pass what stands before them. Make the
//!   [`Submit`] a promise, or give it an [id](Submit::with_id).
//! - **A call needs a worker.** Without one it waits until its [timeout](Call::timeout), that of its promise or that of
//!   its request.
//! - **A spawned future is not the task.** In what `run` gives to `tokio::spawn` there is no [`TaskContext::current`],
//!   no principal, and no cancel: move a clone of the context there.
//! - **Blocking code blocks the worker's thread**, and a runtime that is blocked cannot renew leases. Use
//!   `tokio::task::spawn_blocking`, and [`TaskContext::is_cancelled`] within.
//! - **The memory backend is this process.** What waits in it is lost with it.
//!
//! # Cancel safety
//!
//! Dropping a [`Call`] cancels its task, unless it is [detached](Call::detached) or has an [id](Call::with_id): a
//! promise leaves nothing running when its client has gone. Dropping a [`Worker`] is a crash to its tasks;
//! [`Worker::drain`] is not. The other futures say what it means to drop them.
//!
//! # Panics
//!
//! A panic in a task ends the task. The runtime needs timers.
//!
//! # Security
//!
//! The [`Principal`] is an id, not a permission: a worker looks up what it may do at the time it runs. Who can reach
//! the backend can submit as anybody and read everything, arguments and outputs: keep it in a trusted network, and
//! secrets out of arguments. Ids of tasks are random; still, a handler that shows a [status](Tasks::status) or an
//! output compares the [principal](TaskStatus::principal). An id that a client may choose needs the client's principal
//! in it. Errors of tasks reach [`TaskError`] and the log, not clients. The log has names, ids, principals and errors
//! of tasks, never arguments or outputs, but for what serde quotes of arguments that a worker cannot read.
//!
//! # Difference from its neighbours
//!
//! | | runs | survives | comes back |
//! |---|---|---|---|
//! | a promise | in the request | nothing | as the result of the promise |
//! | `tokio::spawn` | in this process | the request | through the `JoinHandle` |
//! | a task | in any process | the request and, by its backend, processes | as the output, to whoever asks |

mod attempt;
mod builder;
mod cancel;
mod context;
mod core;
mod dead;
mod definition;
mod error;
mod failure;
mod fingerprint;
mod follow;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod handle;
mod hub;
mod id;
mod layer;
mod observe;
mod principal;
mod record;
mod records;
mod request;
mod scope;
mod service;
mod status;
mod submit;
mod trace;
mod worker;

pub use builder::{
    DEFAULT_BACKEND_TIMEOUT, DEFAULT_DEAD_LETTER_TIME_TO_LIVE, DEFAULT_LIFETIME,
    DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_TASK_BYTES, DEFAULT_POLL_INTERVAL, DEFAULT_PROGRESS_INTERVAL,
    DEFAULT_RESULT_TIME_TO_LIVE, DEFAULT_TASK_CONCURRENCY, DEFAULT_TASK_TIMEOUT,
    TaskServiceBuilder, TasksBuilder,
};
pub use context::{MAX_MESSAGE_BYTES, MissingState, TaskContext};
pub use dead::MAX_DEAD_LETTER_BYTES;
pub use definition::Task;
pub use error::TaskError;
pub use failure::TaskFailure;
pub use handle::{TaskWatch, Tasks};
pub use id::TaskId;
pub use layer::{TaskLayer, WithTasks, WithTasksFuture};
pub use principal::Principal;
pub use scope::is_task;
pub use service::TaskService;
pub use status::{TaskState, TaskStatus};
pub use submit::{Call, Submit};
pub use trace::TraceContext;
pub use worker::Worker;
