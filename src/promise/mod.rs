//! Middleware that calls a service again once the promises that it requested have settled.
//!
//! A handler that cannot `await` (a template, a deeply nested component, a synchronous rule) requests a value by
//! *name*. The layer calls the handler once and discards that response. It then runs all requested futures
//! concurrently, and calls the handler again with their results available.
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
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_promises::body::ReplayBody;
//! use tower_promises::{BoxError, PromiseLayer, Promises};
//!
//! # async fn fetch_name() -> String { "Ferris".into() }
//! async fn handle(request: Request<ReplayBody<Full<Bytes>>>) -> Result<Response<Full<Bytes>>, BoxError> {
//!     let promises = request.extensions().get::<Promises>().ok_or("PromiseLayer is missing")?;
//!     // `Err(Pending)` in pass 1, which ends the pass. The name in pass 2.
//!     let name: String = promises.result_or_submit("name", fetch_name)?;
//!     Ok(Response::new(Full::from(format!("Hello, {name}!"))))
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(PromiseLayer::new())
//!     .service_fn(handle);
//!
//! let response = service.oneshot(Request::new(Full::<Bytes>::default())).await?;
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "Hello, Ferris!");
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//!
//! 1. Each pass gets the request as the client sent it: method, URI, version, headers, extensions and
//!    [body](crate::body). Changes by earlier passes are not visible.
//! 2. A pass that requested no missing value is the last pass. Its outcome, a response or an error, is returned
//!    unchanged: the layer adds no header and does not wrap the body.
//! 3. The outcome of any other pass is discarded. The body of a discarded response is not polled. A discarded error
//!    is dropped, so `promises.result(..)?` works in every service whose error type can hold a [`PromiseError`]. The
//!    promises then run concurrently, and the next pass starts when all of them have settled.
//! 4. A later pass may request more promises. Independent promises take two passes. A chain of `n` promises, each of
//!    which depends on the one before, takes `n + 1` passes. [`max_passes`](PromiseLayer::max_passes) limits them.
//! 5. Promises start when the pass that submitted them ends, so a promise that is cancelled before then never
//!    starts. With [`Start::Eager`] promises start at once.
//! 6. A name identifies one promise. The first submission in a pass wins. A name that has a result cannot be
//!    submitted again until it is [cleared](Promises::clear).
//! 7. Reading clones the value, so every component can read it in every pass.
//! 8. The inner service is polled ready before each pass. It is not held ready while promises run.
//! 9. An error of the inner service's `poll_ready` ends the request.
//! 10. A panic in a promise becomes the error of that promise. A panic in the handler propagates as it would without
//!     the layer.
//! 11. A handler may send its request, with [`Promises`] in the extensions, to another service that has a layer of
//!     its own. The inner request can read the settled promises of the outer request. Promises of the inner request
//!     are not visible outside.
//! 12. The layer itself answers a request that it has to reject: see [`Rejection`].
//!
//! # Pitfalls
//!
//! - **The handler runs more than once.** Code before a promise runs in every pass. Reading is safe. Writing belongs
//!   after the last promise, or into a transaction (see [`Promises::will_discard`]), or needs an undo function
//!   ([`Promises::on_discard`]).
//! - **A read that removes is a write.** A flash message, a one-time token or the head of a queue is gone after the
//!   first pass. See [one-time reads](self#one-time-reads).
//! - **Names must be the same in every pass.** Derive names from the request and from results, never from the time,
//!   a counter or a random number. Otherwise each pass requests a new promise, and the request is
//!   [rejected](Rejection::TooManyPasses).
//! - **A name identifies one value.** Include the inputs of the promise in the name: `user:7`, not `user`.
//! - **Errors are cached.** A promise that failed does not run again in the next pass. Clear it to retry.
//! - **Do not swallow `Pending`.** `result.ok()` and `unwrap_or` replace every error by a default, including errors
//!   of settled promises. [`or_pending`](crate::OrPending::or_pending) replaces only `Pending`.
//! - **Await inside a promise.** A promise that needs another promise awaits [`resolve`](Promises::resolve).
//!   `result_or_submit(..)?` in a promise would end it with the error `Pending`. Promises that wait for each other in
//!   a cycle wait until a timeout.
//! - **Upgrade in the last pass only.** Request every promise before accepting an upgrade, for example to a
//!   WebSocket.
//! - **Large bodies need storage.** By default at most 2 MiB of a body are kept for later passes. Raise
//!   [`max_body_bytes`](PromiseLayer::max_body_bytes) to keep more in memory, or set a `spool_dir` (feature `spool`).
//!   The directory should be on a disk; temporary directories are often in memory. See
//!   [the body](crate::body#temporary-files).
//! - **Spawned tasks are independent.** The layer drops its promises with the request. It cannot stop a task that a
//!   discarded pass has passed to `tokio::spawn`.
//!
//! # One-time reads
//!
//! A read that takes a value away, such as a session's `take` or `remove`, gives the value to the first pass, and
//! nothing to the pass whose response is published. Read it as a promise: it is taken once, and every pass gets it.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use std::sync::{Arc, Mutex};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_promises::body::ReplayBody;
//! use tower_promises::{BoxError, PromiseLayer, Promises};
//!
//! # async fn fetch_name() -> String { "Ferris".into() }
//! /// The part of a session that shows a message on the next page, once.
//! #[derive(Clone)]
//! struct Session(Arc<Mutex<Option<String>>>);
//!
//! impl Session {
//!     async fn take_flash(&self) -> Option<String> {
//!         self.0.lock().unwrap().take()
//!     }
//! }
//!
//! async fn handle(request: Request<ReplayBody<Full<Bytes>>>) -> Result<Response<Full<Bytes>>, BoxError> {
//!     let promises = request.extensions().get::<Promises>().ok_or("PromiseLayer is missing")?;
//!     let session = request.extensions().get::<Session>().cloned().ok_or("no session")?;
//!     // Not `session.take_flash().await`: the first pass would take the message and be discarded.
//!     let flash = async move || session.take_flash().await;
//!     let flash: Option<String> = promises.result_or_submit("flash", flash)?;
//!     let name: String = promises.result_or_submit("name", fetch_name)?;
//!     let page = format!("{} Hello, {name}!", flash.unwrap_or_default());
//!     Ok(Response::new(Full::from(page)))
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(PromiseLayer::new())
//!     .service_fn(handle);
//!
//! let mut request = Request::new(Full::default());
//! request.extensions_mut().insert(Session(Arc::new(Mutex::new(Some("Saved.".into())))));
//! let response = service.oneshot(request).await?;
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "Saved. Hello, Ferris!");
//! # Ok(())
//! # }
//! ```
//!
//! Two other places are as good: in the handler after its last promise, where `?` has ended every earlier pass, and in
//! a middleware outside of the layer that puts the value into the request's extensions. What a promise has taken is
//! gone when the request fails afterwards, as it is without the layer.
//!
//! # Order of middleware
//!
//! Middleware *inside* the layer, between the layer and the handler, runs in every pass. Middleware *outside* runs
//! once.
//!
//! | outside | inside |
//! |---|---|
//! | tracing, request ids, metrics of the client's request | transactions, which roll back for a discarded pass |
//! | authentication, CSRF protection, rate limits | what the handler's response depends on, such as a session lock |
//! | compression, response headers, `CatchPanic` | concurrency limits: no slot is held while promises run |
//! | body limits that answer before the handler runs | extractors and their body limits |
//!
//! A timeout outside limits the whole request, as [`timeout`](PromiseLayer::timeout) does. A timeout inside limits
//! each pass.
//!
//! # Cancel safety
//!
//! A server drops the response future when the client disconnects. Dropping it drops the running pass and every
//! promise, and runs the undo functions of the pass. No promise is left running, except blocking jobs that have
//! already started.
//!
//! # Panics
//!
//! With a [`timeout`](PromiseLayer::timeout) or a [`promise_timeout`](PromiseLayer::promise_timeout) the service
//! must be called within a tokio runtime whose timers are enabled. Like most futures, [`PromiseFuture`]
//! panics if it is polled after completion.
//!
//! # Security
//!
//! By default no limit, key, error or panic message reaches the client. All of them go to the log (feature
//! `tracing`, target `tower_promises`). The numbers of promises and passes and the kept bytes of a body are limited.
//! Without a timeout a promise may run as long as the client stays connected.
//!
//! # Difference from similar middleware
//!
//! `tower::retry` calls a service again because its response was bad, with a policy that may wait. Here the handler
//! declares what has to happen before the next call, and the layer performs it. `tower_http::add_extension` gives
//! every request a value that exists from the start. Here the handler requests values that do not exist yet.

#[cfg(feature = "blocking")]
mod blocking;
mod current;
#[cfg(feature = "operations")]
mod durable;
#[cfg(all(feature = "loader", feature = "operations"))]
mod durable_load;
#[cfg(feature = "operations")]
mod durable_wait;
#[cfg(feature = "operations")]
mod durable_within;
pub(crate) mod error;
pub(crate) mod excerpt;
#[cfg(feature = "fragments")]
pub(crate) mod fragment_error;
mod future;
mod handover;
mod key;
pub(crate) mod layer;
#[cfg(feature = "loader")]
mod load;
mod observe;
pub(crate) mod or_pending;
mod original;
mod outcome;
pub(crate) mod promises;
mod read;
pub(crate) mod registry;
mod rejection;
mod results;
mod running;
mod service;
mod settings;
mod submit;
mod wait;
mod waiters;

#[cfg(feature = "operations")]
pub use durable_within::Remember;
pub use error::{MissingPromiseLayer, SubmitError};
pub use future::PromiseFuture;
pub use key::{AnyKey, IntoKey, Key, PromiseKey};
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
pub use observe::PromiseOutcome;
#[cfg(feature = "server-timing")]
pub(crate) use observe::TimingsWanted;
#[cfg(feature = "server-timing")]
pub use observe::{PassTiming, Passes, PromiseTiming};
pub use rejection::{
    DefaultResponseForRejection, EmptyResponseForRejection, Rejection, ResponseForRejection,
};
pub use results::PromiseResults;
pub use service::PromiseService;
pub use settings::{OnTimeout, Start};

// Their public address is the root of the crate.
pub(crate) use error::PromiseError;
#[cfg(feature = "fragments")]
pub(crate) use future::Rest;
#[cfg(doc)]
pub(crate) use layer::PromiseLayer;
pub(crate) use promises::Promises;
#[cfg(feature = "fragments")]
pub(crate) use running::poll_deadline;
