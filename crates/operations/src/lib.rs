//! Middleware that turns a slow request into a resource.
//!
//! `tower-promises` re-exports this crate as `tower_promises::operations`, with its feature of the same name.
//!
//! If a request takes longer than a configured wait, its work continues in the background, and the client gets a reply
//! with the address of an operation. A browser is redirected to a page with progress and a cancel button, which works
//! with and without scripts. Any other client gets a status document to poll, an event stream to follow and a result to
//! fetch later. A request that ends within the wait is answered as if the layer were not there.
//!
//! ```text
//! POST /report ─▶ OperationLayer ─▶ inner service, in its own task
//!                     │                  │
//!                     │ within the wait  ▼
//!                     ├──────────── its response
//!                     │ later
//!                     └─▶ 202 or 303, and from then on
//!                           GET    /.operations/{id}          status, or the page
//!                           GET    /.operations/{id}/events   progress as it happens
//!                           GET    /.operations/{id}/result   202 until it is ready
//!                           DELETE /.operations/{id}          cancel, or remove
//!                           POST   /.operations/{id}/cancel   the same, from a form
//! ```
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, routing::post};
//! use std::time::Duration;
//! use tower_promises_operations::{OperationLayer, Progress};
//!
//! async fn import(progress: Progress) -> &'static str {
//!     for step in 0..10 {
//!         progress.set(step * 10);
//!         tokio::time::sleep(Duration::from_secs(1)).await;
//!     }
//!     "imported"
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let layer = OperationLayer::memory().wait(Duration::from_secs(1));
//! let operations = layer.operations();
//! let app: Router = Router::new()
//!     .route("/import", post(import))
//!     .layer(layer);
//! // Before the server starts: do requests for operations reach the layer?
//! operations
//!     .check_mount::<_, Body>(app.clone())
//!     .await
//!     .expect("the layer is mounted around the whole router");
//! # use http::Request;
//! # use http_body_util::BodyExt;
//! # use tower::ServiceExt;
//! # let response = app.clone().oneshot(Request::post("/import").body(axum::body::Body::empty()).unwrap()).await.unwrap();
//! # assert_eq!(response.status(), 202);
//! # let result = response.headers()["location"].to_str().unwrap().to_owned();
//! # tokio::time::sleep(Duration::from_secs(20)).await;
//! # let response = app.oneshot(Request::get(result).body(axum::body::Body::empty()).unwrap()).await.unwrap();
//! # assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "imported");
//! # }
//! ```
//!
//! [`guide`] leads from a report that takes 40 seconds to production.
//!
//! # Rules
//!
//! 1. A [function](OperationLayer::escalate) decides which requests can become operations. Their responses
//!    have `Vary: Prefer, Accept`, and so have responses to `HEAD` if the same request with `GET` can become an
//!    operation. All other requests pass through. Upgrades and `CONNECT` always pass through, and gRPC calls do unless
//!    the function decides otherwise.
//! 2. The request body is read, up to [`max_body_bytes`](OperationLayer::max_body_bytes), before the inner
//!    service is called. A request with a larger body streams to the inner service, stays on its connection and never
//!    counts as running. A request whose body has not been read yet does not count as running either. Bodies that are
//!    being received have a [limit](OperationLayer::max_receiving) (503, or 429 for one principal) and a
//!    [timeout](OperationLayer::receive_timeout) (408) of their own.
//! 3. The inner call runs in its own task. If its response begins within the wait, the response is the reply, and its
//!    body streams. The wait is [`wait`](OperationLayer::wait), or the value in `Prefer`.
//! 4. Otherwise the request becomes an operation. The reply is `303` to the page if `Accept` names `text/html`, else
//!    `202` with the status document. The reply never names an operation that has ended. If the store does not answer,
//!    the request stays on its connection.
//! 5. The response is then read to its end, up to [`max_result_bytes`](OperationLayer::max_result_bytes), and
//!    stored without the headers that belong to a connection and without trailers. The stored response is the result. A
//!    response with a status of 400 or more makes the operation [`Failed`](OperationStatus). A result never answers a condition
//!    or a range of the request: the inner service does not see `If-Range` and `Range` of a request that can become an
//!    operation, nor `If-Modified-Since` and `If-None-Match` of a `GET`, `HEAD` or `QUERY`. Conditions that protect
//!    from lost updates stay: `If-Match`, `If-Unmodified-Since`, and `If-None-Match` of all other methods.
//! 6. An operation ends once. Cancel, completion and loss are decided by compare-and-set in the store; later changes
//!    have no effect. The inner request never runs a second time, unless it is [durable]. A `DELETE` that arrives while
//!    another request in the same process cancels the operation is answered with 409 instead of removing the cancelled
//!    operation. `If-Match` with the `ETag` of the status document protects in all processes: if `If-Match` or
//!    `If-None-Match` does not hold, `DELETE` and `POST …/cancel` change nothing (412).
//! 7. Any process that shares the backend answers requests for every operation. The process that runs an operation
//!    renews a [lease](OperationLayer::lease). If another process gets a request for the operation and finds the
//!    lease expired, it waits for one more lease, in case the renewal is late. The first request after that marks the
//!    operation as `Failed` with the code `Lost`.
//! 8. Every request carries [`Progress`] and [`Operations`] in its extensions. With the feature `axum`, both are
//!    extractors.
//! 9. The service is always ready, so that status requests do not wait for the inner service. Any other request waits
//!    for the inner service in its own task, and its operation is `NotStarted` until the inner service is ready.
//! 10. Requests for operations must reach the layer. See [how to mount it](guide#mounting-the-layer).
//! 11. [`Operations::drain`] ends the operations of a process before the process ends.
//!
//! # Error codes
//!
//! | code | status | cause |
//! |---|---|---|
//! | `Canceled` | `Canceled` | its owner or the application cancelled the operation |
//! | `LifetimeExceeded` | `Canceled` | the work took longer than [`lifetime`](OperationLayer::lifetime) |
//! | the reason phrase, `NotFound` for example | `Failed` | the inner service has answered with that status |
//! | `Panicked`, `ServiceError` | `Failed` | the inner service has panicked, or its response is an error |
//! | `ResultTooLarge`, `StorageFull`, `StorageFailed` | `Failed` | the result could not be stored |
//! | `Lost` | `Failed` | the process that ran the work is gone; for a durable operation, several in a row |
//! | `ShuttingDown` | `Failed` | the process ended before the work |
//!
//! # Idempotency keys
//!
//! With [`idempotency_keys`](OperationLayer::idempotency_keys), requests of a principal with the same
//! `Idempotency-Key` run once, on whichever machines they arrive:
//!
//! 1. A repeated request waits as `Prefer` says, and gets the reply for the same operation, or its result. While the
//!    client of the first request waits for its reply, a repeated request is answered with 409, unless it is durable. A
//!    repeated request needs no room for another result, so it is answered even when new requests are refused because too
//!    much is stored.
//! 2. A request with the same key and another method, URI, content type or body is answered with 422. A multipart body
//!    is compared part by part, so its boundary may differ.
//! 3. A response that comes within the wait is stored as well, for repeated requests. So it does not stream, and its
//!    size is limited.
//! 4. The work continues when the client disconnects. If running once cannot be guaranteed, the request is refused: 503
//!    if the store does not answer or the process drains, 413 if the body is too large to be read first, 400 if the
//!    body breaks before its end. If the store stops answering after the work was started, the client gets no address,
//!    and the request stays on its connection.
//! 5. The key is free again when the operation is removed or has expired.
//! 6. A refused request is not remembered: its key is free, and the request **runs again** when it is sent again. A
//!    request is refused if
//!    - its response has the status 429 or 503. If the handler has reported progress, or a client has the address of
//!      the operation, the response is a result like any other instead;
//!    - the inner service has returned an error before the work has begun. The work has begun when the inner service
//!      has waited for an event, has read the body, has reported progress or has responded;
//!    - the inner service has returned an error or has panicked before it was ready, so that it was not called;
//!    - the process or the [lifetime](OperationLayer::lifetime) has ended before the work has begun. The client
//!      that waits is answered with 503.
//!
//!    So a handler whose effects must not happen twice reports progress before them, for example with
//!    `progress.set(0)`. Otherwise, effects before a 429 or 503 are repeated, and so are effects before an error of a
//!    handler that has neither waited nor read the body. Load shedding belongs outside of any `Buffer`: waiting in the
//!    queue of a buffer counts as a beginning, so a request that is shed behind a buffer has failed and is remembered.
//! 7. While the first client waits, errors and panics of the inner service reach the outer layers, as they do without a
//!    key. Panics, and errors of work that has begun, are remembered: the operation is `Failed`, and the request does
//!    not run again.
//! 8. The value of the header is a string as in structured fields (RFC 9651), such as `"8e03978e"`. For compatibility,
//!    the quotes may be missing. A key has up to 255 bytes. A malformed value is answered with 400.
//!
//! All clients without a principal share one set of keys, so their keys should be unguessable.
//!
//! # Cancel safety
//!
//! A server drops [`OperationFuture`] when the client disconnects. If the future is not ready yet, the work is dropped
//! or continues, see [`OnDisconnect`]. After the first reply, the work always continues.
//!
//! If a future of [`Operations`] is dropped before it resolves, what it changes may or may not have changed. The call can
//! be repeated.
//!
//! # Panics
//!
//! The service must be called within a tokio runtime whose timers are enabled. A panic of the inner service propagates
//! as it would without the layer while a client waits for the first reply. Later, it makes the operation `Failed`.
//!
//! # Security
//!
//! - **Principals.** Without [`principal`](OperationLayer::principal), any client that knows an id may see and
//!   cancel the operation. With it, other principals get the same 404 as for an id that does not exist. The layer does
//!   not authenticate clients: place it inside of an authentication layer.
//! - **Ids** have 128 random bits. The names in the store and on the bus are digests of ids, and logs of level `INFO`
//!   and above contain eight characters of a digest. The values in the store contain the ids. The layer's own responses
//!   instruct browsers to send no `Referer`; results are unchanged.
//! - **Cross-site requests.** `POST …/cancel` is refused (403) if `Sec-Fetch-Site` or `Origin` names another site, and
//!   a form must have the token that only the page contains. Other methods need a preflight across origins.
//! - **Results** are returned as the inner service made them, including cookies, but from another address than that of
//!   the request. A relative `Location` in a result is resolved against that address.
//! - **Caches** must not store status documents, pages and errors: all have `Cache-Control: no-store`. A result keeps
//!   the `Cache-Control` and `Expires` of the inner service. A result without both, or one that can be read
//!   [once](OperationLayer::result_once) only, gets `no-store` too: at its own address it is the response to a
//!   `GET`, which shared caches may otherwise store and send to other clients.
//! - **Addresses** are never built from `Host` or forwarded headers.
//! - **Limits** are per process: running requests and requests that are being received, per principal and in total;
//!   bytes of a body, of a result, of the results of a principal and of all results; lifetime and retention; the length
//!   of messages. The number of event streams is not limited: limit connections in an outer layer. A stream creates one
//!   event at a time, when its client takes it.
//! - **Internal details** do not reach the client: no panic or error text, no key, no limit.
//!
//! A client may set an address that the server calls only where [`OperationLayer::callbacks`] allows it. Such an address
//! can point into the network of the server, see there.
//!
//! # Difference from its neighbours
//!
//! `tower::timeout` drops the work where this layer continues it. A [`PromiseLayer`] makes a slow page fast by running
//! its parts concurrently; the client still waits for the whole page. A job queue survives the process and runs its
//! jobs again. An operation does neither, because it is a request, unless it is [durable].
//!
//! [`PromiseLayer`]: https://docs.rs/tower-promises/latest/tower_promises/struct.PromiseLayer.html

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "axum")]
mod axum;

mod absence;
mod accept;
mod body;
mod cancel_form;
mod changes;
mod claim;
mod condition;
mod document;
pub mod durable;
mod durable_layer;
mod durable_operations;
mod ending;
mod escalation;
mod events;
mod first_reply;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod idempotency;
mod inner_call;
mod instance;
mod layer;
mod limits;
mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod metrics;
mod mount;
mod observe;
mod on_end;
mod open;
mod operations;
pub mod page;
mod prefer;
mod progress;
mod record;
mod records;
mod reply;
mod result;
mod routes;
mod runner;
mod service;
mod settings;
mod turns;
mod types;

#[cfg(feature = "axum")]
pub use axum::MissingOperationLayer;
pub use body::{OperationBody, OperationRequestBody};
pub use layer::OperationLayer;
pub use mount::UnreachableMount;
pub use operations::{Operation, Operations};
pub use progress::Progress;
pub use record::OperationStatus;
pub use service::{OperationFuture, OperationRoutes, OperationService};
pub use settings::{Escalate, OnDisconnect};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
