//! Tower middleware that gives asynchronous results to handlers that cannot `await`.
//!
//! A template, a deeply nested component and a synchronous rule cannot `await`. With [`PromiseLayer`] such code
//! requests a value by *name*. The layer calls the handler once and discards that response. It then runs all
//! requested futures concurrently, and calls the handler again with their results available.
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
//!     // Deep in a template there is neither the request nor `async`.
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
//! - [`promise`] describes the rules, the pitfalls and the order of middleware. Read the pitfalls before a
//!   handler writes anything: the handler runs more than once.
//! - [`guide`] has guides, each from a problem to production: pages, streaming, N+1 queries, uploads, slow requests,
//!   requests that survive, background work, observability, testing, several machines, and the way from `join!` to
//!   promises and back.
//! - [`Promises`] is the handle that handlers use. Its documentation shows how to test a handler.
//! - [`PromiseLayer`] has the settings and their defaults.
//! - [`body::ReplayBody`] is the request body of every pass. It is also useful by itself.
//!
//! # Which API to use
//!
//! | the work is … | use … |
//! |---|---|
//! | a future that a synchronous component needs | [`result_or_submit`], or [`result_or_try_submit`] if it can fail |
//! | the same, where the code can `await` | [`resolve`], [`try_resolve`] |
//! | a computation, or a call that blocks its thread | [`result_or_submit_blocking`]: module [`blocking`] |
//! | a computation that may crash or must be stoppable | [`ProcessPool::run`] as a promise: module [`process`] |
//! | one of many rows of the same kind | a [`Loader`][trait Loader] with [`load`], or [`load_async`] in async code: module [`loader`] |
//! | reading a large request body in a promise | [`submit_body`] |
//! | reading a body that later passes also need | nothing, because the body is replayed; [`spool_dir`] if it is large |
//! | waiting for a message of another request | [`Signals::wait`] as a promise: module [`signals`] |
//! | longer than a client should wait | [`OperationLayer`] outside, [`Progress`] inside: module [`operations`] |
//! | work that must not be lost or repeated when the process dies | [`durable`] in a durable operation: module [`operations::durable`] |
//! | a wait of hours or days, or the answer of a person | [`sleep`] and [`outside`] in a durable operation |
//! | a function that another process should run | a [`Task`], and [`TaskQueue::call`] as a promise: module [`tasks`] |
//! | work that may continue after the response | [`TaskQueue::submit`]: module [`tasks`] |
//! | a call that should be retried | a retry crate around the future of a promise |
//! | a value that many requests need | a cache crate inside the promise |
//! | a part of a page that may come later | [`Promises::fragment`], with [`FragmentLayer`]: module [`fragment`] |
//! | a placeholder while a promise is pending | [`or_pending`](OrPending::or_pending) |
//!
//! [`result_or_submit`]: Promises::result_or_submit
//! [`result_or_try_submit`]: Promises::result_or_try_submit
//! [`resolve`]: Promises::resolve
//! [`try_resolve`]: Promises::try_resolve
//! [`submit_body`]: Promises::submit_body
//!
//! # Testing a handler
//!
//! [`Promises::with_results`] creates a handle without a server. [`keys`](Promises::keys) returns the names that a
//! handler requests, and [`Promises::loading`] returns the keys that it requests from a loader.
//! [`PromiseResults`](promise::PromiseResults) and [`Promises::prime`] provide results and loaded values.
//! [`Promises::replayed`] compares a handler with the recording of a durable operation. Test a whole stack with
//! `tower::ServiceExt::oneshot`. [`guide::testing`] has an example of each.
//!
//! # Features
//!
//! Only `tracing` is on by default. The module [`fragment`] needs the feature `fragments`. The modules [`blocking`],
//! [`loader`], [`backend`], [`operations`], [`process`], [`signals`] and [`tasks`] need the features of their names; the
//! last five are packages of their own. The [README] has a table of all features, packages and minimum Rust versions.
//!
//! [README]: https://docs.rs/crate/tower-promises/latest

// Items of features: links within this documentation if it has them all, and to docs.rs otherwise.
#![cfg_attr(feature = "full", doc = include_str!("guide/links.md"))]
#![cfg_attr(not(feature = "full"), doc = include_str!("guide/links_to_docs_rs.md"))]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "blocking")]
pub mod blocking;
pub mod body;
#[cfg(feature = "fragments")]
pub mod fragment;
// Its links need the modules of all features.
#[cfg(feature = "full")]
#[cfg_attr(docsrs, doc(auto_cfg = false))]
pub mod guide;
pub mod promise;

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "util")]
mod builder;
mod gauge;
#[cfg(feature = "loader")]
pub mod loader;
mod log;
#[cfg(feature = "metrics")]
#[doc(hidden)]
pub mod metrics;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
pub mod observe;
#[cfg(not(any(feature = "metrics", feature = "server-timing", feature = "tracing")))]
mod observe;
mod panic;
mod problem;
mod sync;

#[cfg(feature = "util")]
pub use builder::ServiceBuilderExt;
pub use promise::error::PromiseError;
pub use promise::layer::PromiseLayer;
pub use promise::or_pending::OrPending;
pub use promise::promises::Promises;
#[cfg(feature = "backend")]
#[doc(inline)]
pub use tower_promises_backend as backend;
#[cfg(feature = "operations")]
#[doc(inline)]
pub use tower_promises_operations as operations;
#[cfg(feature = "process")]
#[doc(inline)]
pub use tower_promises_process as process;
#[cfg(feature = "signals")]
#[doc(inline)]
pub use tower_promises_signals as signals;
#[cfg(feature = "tasks")]
#[doc(inline)]
pub use tower_promises_tasks as tasks;

/// A boxed error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
