//! Tasks: named functions that run in other processes.
//!
//! `tower-promises` re-exports this crate as `tower_promises::tasks`, with its feature of the same name.
//!
//! A [`Task`] is a serde type with a name and a `run` function. A [`TaskQueue`] sends it to a [`Worker`], in this
//! process, in another process or on another machine, and returns its output. A call is a future, so it can be a
//! promise, and a template that cannot wait can show a result from another process. A submitted task acts on behalf of
//! the principal of the request that submits it.
//!
//! # Example
//!
//! ```
//! use axum::{Router, routing::get};
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//! use tower_promises::{PromiseError, PromiseLayer, Promises};
//! use tower_promises_backend::Backend;
//! use tower_promises_tasks::{
//!     Principal, Task, TaskContext, TaskFailure, TaskLayer, TaskQueueOptions, Tasks,
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
//!         let reader = context.principal().ok_or("reading a report needs a principal")?;
//!         context.set_progress(50);
//!         Ok(format!("The report of {} for {reader}", self.year))
//!     }
//! }
//!
//! /// Waits for the task, wherever it runs.
//! async fn report(promises: Promises, tasks: Tasks) -> Result<String, PromiseError> {
//!     promises.result_or_try_submit("report", || {
//!         tasks.queue("reports").call(Render { year: 2026 }).timeout(Duration::from_secs(30))
//!     })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // The same in all processes.
//! let tasks = Tasks::builder(Backend::memory())
//!     .queue(TaskQueueOptions::new("reports").task::<Render>().concurrency(2))
//!     .build();
//!
//! // In the processes that run tasks. The web process can be one of them.
//! let worker = tasks.work().expect("a runtime");
//!
//! // In the processes that serve requests.
//! let layer = TaskLayer::new(tasks.clone()).principal(|_| Some(Principal::new("ada")));
//! let app: Router = Router::new().route("/", get(report)).layer(PromiseLayer::new()).layer(layer);
//! # use tower::ServiceExt;
//! # let response = app.oneshot(http::Request::new(axum::body::Body::empty())).await.unwrap();
//! # let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
//! # assert_eq!(body, "The report of 2026 for ada");
//!
//! // At shutdown: tasks that do not end within 30 seconds go to another worker.
//! worker.drain(Duration::from_secs(30)).await;
//! # }
//! ```
//!
//! [`guide`] explains how to move from one machine to several, and how to size them.
//!
//! # Rules
//!
//! 1. A [submitted](TaskQueue::submit) or [called](TaskQueue::call) task runs in a worker of its queue, not in the
//!    caller.
//! 2. A task acts for the principal that submitted it, or for none. [`Principal::current`] returns the principal, also
//!    in nested code. The trace context of the request travels along: [`TraceContext`].
//! 3. Within a task, submitted and called tasks run at once, in place, as part of the outer task. Their errors are
//!    errors of the outer task, and their conflicts cause a retry of the outer task. So a task never waits for a worker
//!    that waits for the task. [`is_task`] returns whether the code runs in a task.
//! 4. If no queue of the name was [added](TasksBuilder::queue), the task runs at once, in place, with a warning that
//!    contains both names. It is not retried.
//! 5. After a [conflict](TaskFailure::conflict), the task is retried after a random time of up to 2<sup>n</sup>
//!    seconds, where n is the number of the attempt. After three [attempts](TasksBuilder::max_attempts) it is a dead
//!    letter. Any other error, a panic and a timeout [end](TaskError::Failed) the task, and are logged. A type can have
//!    another [policy](Task::retry_policy), and a [failure](TaskFailure) can set the pause or rule out a retry.
//! 6. An attempt that ends with its worker counts: a task that kills its workers becomes a dead letter after three of
//!    them. A task that has lost a worker runs its last attempt alone: beside no other task of its queue in that
//!    worker, and beside no other such task in that process. So the neighbours of a crashing task do not become dead
//!    letters with it. An attempt that a worker returns on [shutdown](Worker::drain) does not count.
//! 7. [Dead letters](TaskQueue::dead_letters) are kept, listed and can be [sent again](TaskQueue::send_again). A worker
//!    leaves a task with an unknown type or unreadable arguments to other workers, half a minute later each time. Such
//!    a task becomes a dead letter when its attempts are used up. An envelope that a worker cannot read as a whole,
//!    because another version of this crate has submitted it, is left to other workers for its
//!    [lifetime](TasksBuilder::lifetime). Then it is a dead letter with its bytes, and can be sent again when a version
//!    that can read it runs.
//! 8. Exactly one end of a task is recorded. Each attempt has its own token, and only the attempt whose token is in the
//!    store can record the end. The output of a worker that has lost its lease is dropped.
//! 9. The output is stored before the queue is updated, and kept for the
//!    [retention](TasksBuilder::retention).
//! 10. Submitting fails for a task that cannot be serialised, that could not be read again, that is too large, or whose
//!     type is not registered with its queue. An output that cannot be read is an error of the call that reads it, and
//!     stays stored.
//! 11. The store is authoritative. The bus only reduces latency; a lost message is covered by
//!     [polling](TasksBuilder::poll_interval).
//!
//! 12. At most as many tasks with the same key run at once as their [limit](Task::limit) says, in all processes
//!     together, also after a worker was killed. The others wait in the store, in the order of their submission, and
//!     delay no task of another key.
//! 13. An [id](Submit::with_id) belongs to one task. Its [policy](Unique) says whether a later submission keeps the
//!     task, replaces it while it waits, or is refused.
//! 14. A task that is submitted [within a transaction](Submit::within) of the application exists if and only if that
//!     transaction commits.
//! 15. [`Tasks::list`] returns tasks by queue, type, state and principal, in pages. A [page](guide#the-page-of-tasks) for
//!     operators (feature `page`) shows them.
//!
//! # At-least-once execution
//!
//! A task runs until an end is recorded. When its worker crashes, or is unreachable for longer than the
//! [lease](TasksBuilder::lease), the task runs again. A worker that was unreachable may still run it for a moment. So
//! the effects of a task must be idempotent:
//!
//! - Write in one database transaction that is committed last. An error, a conflict and a cancel roll it back. A crash
//!   is possible between the commit and the record of the end: insert the task's [id](TaskContext::id) into a table
//!   with a unique index, so that a second run detects the first.
//! - Use the id, which is the same for all attempts, as the idempotency key for other systems.
//! - Do steps that cannot be repeated, such as sending a mail, at the end.
//!
//! # Pitfalls
//!
//! - **Processes must agree.** All processes that submit to a queue or work for it must add it with the same types.
//! - **Tasks and outputs are small**, [48 KiB](TasksBuilder::max_task_bytes) each: pass keys and paths, not files.
//! - **A handler with promises runs more than once**, and submits again in each pass. Make the [`Submit`] a promise, or
//!   give it an [id](Submit::with_id).
//! - **A schedule needs a worker of its queue.** Processes that only submit tasks do not keep schedules.
//! - **A call needs a worker.** Without one, it waits until its [timeout](Call::timeout), or that of its promise or
//!   request.
//! - **A spawned future is not part of the task.** Code in `tokio::spawn` has no [`TaskContext::current`], no principal
//!   and no cancellation: move a clone of the context there.
//! - **Blocking code blocks the worker's thread**, and a blocked runtime cannot renew leases. Use
//!   `tokio::task::spawn_blocking`, and check [`TaskContext::is_cancelled`] within.
//! - **The memory backend lives in this process.** Queued tasks are lost with it.
//!
//! # Cancel safety
//!
//! Dropping a [`Call`] cancels its task, unless it is [detached](Call::detached) or has an [id](Call::with_id): a
//! promise leaves no task running when its client disconnects. For the running tasks, dropping a [`Worker`] has the
//! effect of a crash; [`Worker::drain`] does not. The futures that submit, cancel and send
//! again document the effect of dropping them. Those that read change nothing.
//!
//! # Panics
//!
//! A panic in a task ends the task. The tokio runtime must have timers enabled.
//!
//! # Security
//!
//! A [`Principal`] is an id, not a permission: a worker looks up the current permissions. A process with access to the
//! backend can submit as any principal and read all arguments and outputs, so keep the backend in a trusted network,
//! and secrets out of arguments.
//!
//! The ids of tasks are random. Nevertheless, a handler that shows a [status](Tasks::status) or an output must compare
//! the [principal](TaskStatus::principal). An id that a client can choose must contain the client's principal.
//!
//! Errors of tasks are available in [`TaskError`] and in the log, and are not sent to clients. The log contains names,
//! ids, principals and errors of tasks. It contains no arguments or outputs, except for values that serde quotes in an
//! error about unreadable arguments.
//!
//! A webhook whose address a client chooses is sent to public addresses only, see the [guide](guide#webhooks). The URL
//! is part of the task: it is stored in the backend, and not logged.
//!
//! # Comparison
//!
//! | | runs | survives | result |
//! |---|---|---|---|
//! | a promise | in the request | nothing | the result of the promise |
//! | `tokio::spawn` | in this process | the request | through the `JoinHandle` |
//! | a task | in any process | the request and, depending on the backend, processes | the output, for any process |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
mod attempt;
#[cfg(feature = "axum")]
mod axum;
mod builder;
mod caller;
mod cancel;
mod context;
mod dead_letters;
mod destination;
mod draft;
mod ended;
mod enqueue;
mod error;
mod failure;
mod fingerprint;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod in_place;
mod layer;
mod limit;
mod list;
mod meters;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod metrics;
mod news;
mod observe;
mod on_end;
#[cfg(feature = "operations")]
mod operation_end;
mod options;
#[cfg(feature = "page")]
mod page;
mod principal;
mod progress;
mod queue;
mod read;
mod record;
mod records;
mod retry;
mod run;
#[cfg(feature = "schedules")]
mod schedule;
#[cfg(feature = "schedules")]
mod schedules;
mod scope;
mod settings;
mod slots;
mod state;
mod status;
mod submission;
mod submit;
mod task;
mod task_id;
mod tasks;
mod trace;
mod unique;
mod watch;
#[cfg(feature = "webhooks")]
mod webhook;
mod within;
mod worker;

#[cfg(feature = "axum")]
pub use axum::MissingTaskLayer;
pub use builder::TasksBuilder;
pub use context::MissingState;
pub use ended::EndedTask;
pub use error::TaskError;
pub use failure::TaskFailure;
pub use layer::{TaskFuture, TaskLayer, TaskService};
pub use limit::TaskLimit;
pub use list::{TaskFilter, TaskList};
pub use options::TaskQueueOptions;
#[cfg(feature = "page")]
pub use page::{TasksPage, TasksPageBody, TasksPageFuture};
pub use principal::Principal;
pub use queue::TaskQueue;
pub use retry::RetryPolicy;
#[cfg(feature = "schedules")]
pub use schedule::{InvalidSchedule, Missed, Schedule};
#[cfg(feature = "schedules")]
pub use schedules::ScheduleStatus;
pub use scope::is_task;
pub use state::TaskState;
pub use status::TaskStatus;
pub use submit::{Call, Submit};
pub use task::Task;
pub use task_id::TaskId;
pub use tasks::{TaskContext, Tasks};
pub use trace::TraceContext;
pub use unique::Unique;
pub use watch::TaskWatch;
#[cfg(feature = "webhooks")]
pub use webhook::{
    InvalidWebhookSecret, Webhook, WebhookSecret, WebhookSender, WebhookSenderBuilder,
};
pub use within::SubmitWithin;
pub use worker::Worker;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
