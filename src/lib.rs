//! Tower middleware that lets a handler ask for what it cannot wait for.
//!
//! A template, a deeply nested component or a synchronous rule cannot `await`. With [`PromiseLayer`] it says
//! what it needs by *name*. The layer lets the handler run once, throws that response away, runs everything
//! that was asked for at the same time, and runs the handler again with the answers in place.
//!
//! ```text
//! request ─▶ PromiseLayer ─▶ inner service  (pass 1: registers promises, response discarded)
//!                │  ▲
//!                ▼  │ results
//!            promises run concurrently
//!                │
//!                └────────▶ inner service  (pass 2: results present, response published)
//! ```
//!
//! # Example
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};
//!
//! # async fn fetch_name() -> String { "Ferris".into() }
//! # async fn count_messages() -> u64 { 7 }
//! fn greeting() -> Result<String, PromiseError> {
//!     // No request at hand, no `async`: this may be deep in a template.
//!     let promises = Promises::current().expect("a request is being handled");
//!     let name = promises.result_or_submit("name", fetch_name).or_pending(String::new())?;
//!     let messages = promises.result_or_submit("messages", count_messages).or_pending(0)?;
//!     Ok(format!("Hello, {name}! You have {messages} messages."))
//! }
//!
//! let app: Router = Router::new()
//!     .route("/", get(async || greeting()))
//!     .layer(PromiseLayer::new());
//! # use tower::ServiceExt;
//! # let response = app.oneshot(http::Request::new(axum::body::Body::empty()));
//! # let response = futures_util::FutureExt::now_or_never(response).unwrap().unwrap();
//! # let body = http_body_util::BodyExt::collect(response.into_body());
//! # let body = futures_util::FutureExt::now_or_never(body).unwrap().unwrap();
//! # assert_eq!(body.to_bytes(), "Hello, Ferris! You have 7 messages.");
//! ```
//!
//! # Where to go from here
//!
//! - [`promise`] has the rules, the pitfalls and the order of middleware. Read the pitfalls before your
//!   handler writes anything: it runs more than once.
//! - [`Promises`] is the handle that handlers use, and shows how to test them.
//! - [`PromiseLayer`] has the settings and their defaults.
//! - [`body::ReplayBody`] is the request body of the later passes, and useful by itself.
//!
//! # What to use for what
//!
//! | my work is … | use … |
//! |---|---|
//! | a future that a synchronous component needs | [`result_or_submit`], or [`result_or_try_submit`] if it can fail |
//! | the same, where the code can `await` | [`resolve`], [`try_resolve`] |
//! | a computation, or a call that blocks its thread | `result_or_submit_blocking`: module `blocking` |
//! | a computation that may crash, or must be stopped | `ProcessPool::run` as a promise: module `process` |
//! | one of many rows of the same kind | a `Loader` and `load`, or `load_async` where the code can `await`: module `loader` |
//! | reading a large request body | [`submit_body`] |
//! | reading a body that later passes need, too | nothing: it replays; `spool_dir` if it is large |
//! | waiting for what another request says | `Signals::wait` as a promise: module `signal` |
//! | longer than a client should wait | `OperationLayer` outside, `Progress` inside: module `operation` |
//! | a function that another process should run | a `Task`, and `TaskService::call` as a promise: module `task` |
//! | work that may go on after the response | `TaskService::submit`: module `task` |
//! | a call that should be tried again | a retry crate around the future of a promise |
//! | a value that many requests need | a cache crate inside of the promise |
//! | a default while something else is being waited for | [`or_pending`](OrPending::or_pending) |
//!
//! [`result_or_submit`]: Promises::result_or_submit
//! [`result_or_try_submit`]: Promises::result_or_try_submit
//! [`resolve`]: Promises::resolve
//! [`try_resolve`]: Promises::try_resolve
//! [`submit_body`]: Promises::submit_body
//!
//! # Testing a handler
//!
//! [`Promises::with_results`] makes a handle without a server: what a handler asks for shows in
//! [`keys`](Promises::keys), and for a loader in `Promises::loading`; what it does with the answers shows when it
//! is given [`PromiseResults`], and values by `Promises::prime`. [`Promises`] has an example. A whole stack is
//! tested with `tower::ServiceExt::oneshot`.
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `tracing` | yes | spans of passes and promises, events, warnings with advice: module `observe` |
//! | `server-timing` | no | `Passes` in the extensions of responses, and the `Server-Timing` header: module `observe` |
//! | `metrics` | no | counters, gauges and histograms on the facade of that name: module `observe` |
//! | `axum` | no | [`Promises`], `Operations`, `Progress` and `Tasks` as extractors, errors as responses: module `axum` |
//! | `blocking` | no | promises that block a thread, on a bounded pool: module `blocking` |
//! | `loader` | no | many keys asked for in a pass become one call: module `loader` |
//! | `process` | no | `ProcessPool`, jobs in child processes: module `process`; needs Rust 1.86 |
//! | `spool` | no | bodies too large for memory go on in a temporary file |
//! | `signal` | no | `Signals`, promises that wait for other requests: module `signal`; has `backend` |
//! | `operations` | no | `OperationLayer`, slow requests as resources: module `operation`; has `backend` |
//! | `tasks` | no | `Tasks`, named functions that run in other processes: module `task`; has `backend` |
//! | `backend` | no | the ports `Bus`, `Store` and `Queue`, and their adapters for one process: module `backend` |
//! | `sqlite` | no | those ports between the processes of one machine, kept over restarts: module `backend::sqlite`; needs Rust 1.94 |
//! | `nats` | no | those ports between many machines, on a server of NATS with JetStream: module `backend::nats`; needs Rust 1.89 |
//! | `util` | no | `ServiceBuilderExt` |
//! | `full` | no | all of the above |
//! | `conformance` | no | test suites for adapters of the ports, for use in tests |

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "blocking")]
pub mod blocking;
pub mod body;
pub mod promise;

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "backend")]
pub mod backend;
#[cfg(feature = "util")]
mod builder;
#[cfg(any(
    feature = "operations",
    feature = "process",
    feature = "signal",
    feature = "tasks"
))]
mod json;
#[cfg(feature = "loader")]
pub mod loader;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
pub mod observe;
#[cfg(not(any(feature = "metrics", feature = "server-timing", feature = "tracing")))]
mod observe;
#[cfg(feature = "operations")]
pub mod operation;
mod panic;
mod problem;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "signal")]
pub mod signal;
mod sync;
#[cfg(feature = "tasks")]
pub mod task;

#[cfg(feature = "util")]
pub use builder::ServiceBuilderExt;
#[cfg(feature = "loader")]
pub use loader::Loader;
#[cfg(feature = "operations")]
pub use operation::{OperationLayer, Operations, Progress};
#[cfg(feature = "process")]
pub use process::{ProcessError, ProcessJob, ProcessPool};
pub use promise::{
    Key, OnTimeout, OrPending, PromiseError, PromiseKey, PromiseLayer, PromiseResults, Promises,
    Rejection, Start, SubmitError,
};

#[cfg(feature = "signal")]
pub use signal::{SignalError, Signals};
#[cfg(feature = "tasks")]
pub use task::{Task, TaskContext, TaskError, TaskFailure, TaskLayer, TaskService, Tasks};

/// A boxed error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
