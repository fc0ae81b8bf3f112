//! Middleware that calls a service again once the promises it asked for are kept.
//!
//! A handler that cannot wait (a template, a deeply nested component, a synchronous rule) says what it
//! needs by *name*. The layer lets the handler run once, throws that response away, runs everything
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
//!     // In pass 1 this is `Err(Pending)`, which ends the pass. In pass 2 it is the name.
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
//! 1. Each pass sees the request as the client sent it: method, URI, version, headers, extensions and
//!    [body](crate::body), whatever earlier passes did to theirs.
//! 2. A pass that has not asked in vain is the last one. Its outcome, a response or an error, is returned
//!    untouched: no header is added, no body wrapped.
//! 3. Otherwise its outcome is discarded, be it a response, whose body is not polled, or an error, so that
//!    `promises.result(..)?` works in any service whose error type can hold ours. The promises run
//!    concurrently, and when all have settled the next pass starts.
//! 4. A later pass may ask for more. So independent promises take two passes, and a chain of `n` promises,
//!    each of which needs the one before it, takes `n + 1`. There are at most
//!    [`max_passes`](PromiseLayer::max_passes).
//! 5. Promises start when the pass that submitted them ends, so one that is cancelled before never
//!    starts, or at once with [`Start::Eager`].
//! 6. A name is one promise: the first submission in a pass wins, and a name that has a result cannot be
//!    submitted again until it is [cleared](Promises::clear).
//! 7. Values are cloned out, so every component in every pass can read them.
//! 8. Before each pass the inner service is polled ready; it is not kept ready while promises run.
//! 9. An error of the inner service's `poll_ready` ends the request.
//! 10. A panic in a promise is that promise's error. A panic in the handler propagates as it would without
//!     the layer.
//! 11. A request that carries [`Promises`] already, because a handler sends it to another service with a
//!     layer of its own, sees the settled promises of the outer request; its own stay its own.
//! 12. A request that the layer must give up is answered by it: see [`Rejection`].
//!
//! # Pitfalls
//!
//! - **The handler runs twice.** What stands before a promise runs in every pass. Reading is fine; writing
//!   belongs after the last promise, into a transaction (see [`Promises::will_discard`]), or is undone by
//!   [`Promises::on_discard`].
//! - **A read that removes is a write.** A flash message, a one-time token or the head of a queue is gone after the
//!   first pass. See [one-time reads](self#one-time-reads).
//! - **Names must not differ from pass to pass.** Derive them from the request and from results, never from
//!   the time, a counter or a random number: the handler would ask for something new forever, and the
//!   request be [rejected](Rejection::TooManyPasses).
//! - **A name stands for one thing.** Put what the promise depends on into the name: `user:7`, not `user`.
//! - **A cached error is a result.** A promise that failed does not run again in the next pass. Clear it if
//!   you want another try.
//! - **Do not swallow `Pending`.** `result.ok()` and `unwrap_or` turn every error into a default, also those
//!   of settled promises. [`OrPending::or_pending`] touches nothing else.
//! - **Inside of a promise, wait.** A promise that needs another one awaits [`resolve`](Promises::resolve).
//!   `result_or_submit(..)?` in a promise would end it with the error `Pending`. Promises that wait for each
//!   other in a circle wait until a timeout.
//! - **Upgrade in the last pass only.** Ask for everything before you accept an upgrade, a WebSocket's for
//!   instance.
//! - **Large bodies need a place.** More than 2 MiB of a body are not kept unless you raise
//!   [`max_body_bytes`](PromiseLayer::max_body_bytes), which is memory, or set a `spool_dir` (feature `spool`),
//!   which should not be: temporary directories often are. See [the body](crate::body#temporary-files).
//! - **What a handler spawns is its own.** The layer drops its promises with the request; it cannot stop a
//!   task that a discarded pass has given to `tokio::spawn`.
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
//! What stands *inside* of the layer, between it and the handler, runs in every pass; what stands *outside*
//! runs once.
//!
//! | outside | inside |
//! |---|---|
//! | tracing, request ids, metrics of the client's request | transactions, which roll back for a discarded pass |
//! | authentication, CSRF protection, rate limits | what the handler's response depends on, such as a session lock |
//! | compression, response headers, `CatchPanic` | concurrency limits of the handler: no slot is held while promises run |
//! | body limits that answer before the handler runs | extractors and their body limits |
//!
//! A timeout outside limits everything together, as [`timeout`](PromiseLayer::timeout) does; one inside
//! limits each pass.
//!
//! # Cancel safety
//!
//! Dropping the response future, which is what a server does when the client goes away, drops the running
//! pass and every promise, and runs the undo work of the pass. Nothing is left running that could be
//! stopped.
//!
//! # Panics
//!
//! With a [`timeout`](PromiseLayer::timeout) or a [`promise_timeout`](PromiseLayer::promise_timeout) the service
//! must be called within a tokio runtime whose timers are enabled. Like most futures, [`PromiseFuture`]
//! panics if it is polled after it was ready.
//!
//! # Security
//!
//! No limit, key, error or panic text reaches the client by default; all of it reaches the log (feature
//! `tracing`, target `tower_promises`). Promises, passes and the bytes of a body that are kept have limits.
//! Without a timeout a promise may take as long as the client stays connected.
//!
//! # Difference from its neighbours
//!
//! `tower::retry` calls a service again because its answer was bad, with a policy that waits. Here the
//! handler says what has to happen before it is called again, and the layer makes it happen.
//! `tower_http::add_extension` gives every request a value that is there from the start; here the handler
//! asks for values that are not.

#[cfg(feature = "blocking")]
mod blocking;
mod current;
mod error;
mod excerpt;
mod future;
mod key;
mod layer;
#[cfg(feature = "loader")]
mod load;
mod observe;
mod original;
mod promises;
mod read;
mod registry;
mod rejection;
mod results;
mod running;
mod service;
mod settings;
mod slot;
mod submit;
mod wait;
mod waiters;

pub use error::{MissingPromiseLayer, OrPending, PromiseError, SubmitError};
pub use future::PromiseFuture;
pub use key::{AnyKey, IntoKey, Key, PromiseKey};
pub use layer::PromiseLayer;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
pub use observe::PromiseOutcome;
#[cfg(feature = "server-timing")]
pub use observe::{PassTiming, Passes, PromiseTiming};
pub use promises::Promises;
pub use rejection::{
    DefaultResponseForRejection, EmptyResponseForRejection, Rejection, ResponseForRejection,
};
pub use results::PromiseResults;
pub use service::PromiseService;
pub use settings::{OnTimeout, Start};
