//! Middleware that makes a resource of a slow request.
//!
//! A request that takes longer than its client should wait leaves its connection and goes on. The client gets a
//! reply that names it: a browser is sent to a page with progress and a cancel button, with or without scripts; any
//! other client gets a status document to ask for, an event stream to follow and a result to come back for. What
//! ends in time is answered as if the layer were not there.
//!
//! ```text
//! POST /report ─▶ OperationLayer ─▶ inner service, in a task of its own
//!                     │                  │
//!                     │ within the wait  ▼
//!                     ├──────────── its response
//!                     │ later
//!                     └─▶ 202 or 303, and from then on
//!                           GET    /.operations/{id}          status, or the page
//!                           GET    /.operations/{id}/events   progress as it happens
//!                           GET    /.operations/{id}/result   202 until it is there
//!                           DELETE /.operations/{id}          cancel, or remove
//!                           POST   /.operations/{id}/cancel   the same, from a form
//! ```
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, routing::post};
//! use std::time::Duration;
//! use tower_promises_backend::Backend;
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
//! let layer = OperationLayer::builder(Backend::memory())
//!     .wait(Duration::from_secs(1))
//!     .build();
//! let operations = layer.operations();
//! let app: Router = Router::new()
//!     .route("/import", post(import))
//!     .layer(layer);
//! // Before the server starts: do the addresses that clients get lead here?
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
//! [`guide`] goes from a report that takes 40 seconds to production.
//!
//! # Rules
//!
//! 1. A [predicate](OperationLayerBuilder::predicate) says which requests can become operations. Their responses
//!    have `Vary: Prefer, Accept`, and so have those to `HEAD` where `GET` can. All others pass through; upgrades and
//!    `CONNECT` always do, and gRPC calls unless a predicate says otherwise.
//! 2. The request body is read, up to [`max_body_bytes`](OperationLayerBuilder::max_body_bytes), before the inner
//!    service is called. With a larger one the request streams through, stays on its connection and never counts as
//!    running. Until it has been read the request does not count as running either. Bodies that are being received
//!    have a [limit](OperationLayerBuilder::max_receiving) (503, or 429 for one principal) and a
//!    [time](OperationLayerBuilder::receive_timeout) (408) of their own.
//! 3. The inner call runs in its own task. If its response begins within the wait, that is the reply, and its body
//!    streams on. The wait is [`wait`](OperationLayerBuilder::wait), or what `Prefer` asks for.
//! 4. Otherwise the request becomes an operation. The reply is `303` to the page where `Accept` names `text/html`,
//!    else `202` with the status document. It never names an operation that has ended. If the store does not answer,
//!    the request stays on its connection.
//! 5. The response is then read to its end, up to [`max_result_bytes`](OperationLayerBuilder::max_result_bytes), and
//!    stored without the headers that belong to a connection. It is the [result](Status): a status of 400 or more is
//!    `Failed`. Trailers are not kept. It never answers a condition or a range of the request: the inner service does
//!    not see `If-Range` and `Range` of a request that can become an operation, nor `If-Modified-Since` and
//!    `If-None-Match` of a `GET`, `HEAD` or `QUERY`. Conditions that protect from lost updates stay: `If-Match`,
//!    `If-Unmodified-Since`, and `If-None-Match` of all other methods.
//! 6. An operation ends once. Cancel, completion and loss decide by compare-and-set in the store; what comes later
//!    changes nothing. The inner request is never run a second time. A `DELETE` that arrives while another one of the
//!    same process cancels is told so (409): it does not remove what it was to cancel. `If-Match` with the `ETag` of
//!    the status document makes sure of that everywhere: where that or `If-None-Match` does not hold, `DELETE` and
//!    `POST …/cancel` change nothing (412).
//! 7. Any process that shares the backend answers for every operation. The one that works on it renews a
//!    [lease](OperationLayerBuilder::lease). When that ends, a process that is asked waits for one more lease, in case the
//!    other one renews it late. Asked again after that, it marks the operation as `Failed` with the code `Lost`.
//! 8. Every request carries [`Progress`] and [`Operations`] in its extensions; with the feature `axum` both are
//!    extractors.
//! 9. The service is always ready, so that status requests do not wait for the inner service. A request waits for it
//!    in its own task, and is `NotStarted` until it is ready.
//! 10. The layer has to see the requests for operations. See [how to mount it](guide#mounting-the-layer).
//! 11. [`Operations::drain`] ends the operations of a process before the process ends.
//!
//! # Error codes
//!
//! | code | status | why |
//! |---|---|---|
//! | `Canceled` | `Canceled` | its owner, or the application |
//! | `LifetimeExceeded` | `Canceled` | it took longer than [`lifetime`](OperationLayerBuilder::lifetime) |
//! | the reason phrase, `NotFound` for example | `Failed` | the inner service has answered with that status |
//! | `Panicked`, `ServiceError` | `Failed` | the inner service has panicked, or its response is an error |
//! | `ResultTooLarge`, `StorageFull`, `StorageFailed` | `Failed` | the result could not be kept |
//! | `Lost` | `Failed` | the process that worked on it is gone |
//! | `ShuttingDown` | `Failed` | the process has ended before the work |
//!
//! # Idempotency keys
//!
//! With [`idempotency_keys`](OperationLayerBuilder::idempotency_keys), of all requests of a principal with the same
//! `Idempotency-Key` one runs, on whatever machine they arrive:
//!
//! 1. A request that was sent before gets the reply for the same operation, or its result, and waits for it as it
//!    prefers to. While the client of the first one waits for its reply, it is answered with 409. It needs no room
//!    for another result, so it is answered also where new requests are refused because too much is stored.
//! 2. Another method, URI, content type or body with the same key is answered with 422. A multipart body is compared
//!    part by part, so it may have another boundary.
//! 3. A response that comes in time is stored too, for the next one who asks, so it does not stream and is bounded.
//! 4. The work goes on when the client goes away. Where running once cannot be promised, the request is refused: 503
//!    where the store does not answer or the process drains, 413 where the body is too large to be read first, 400
//!    where the body breaks before its end. Where the store does not answer afterwards, the client gets no address: the
//!    request stays on its connection.
//! 5. The key is free again when the operation is removed or has expired.
//! 6. What was refused is not remembered: the key is free, and the request **runs again** when it is sent again. It
//!    was refused when
//!    - its response has the status 429 or 503, unless the handler has reported progress, or a client was told the
//!      address of the operation: then the response is a result like any other;
//!    - the inner service has returned an error before the work has begun. It has begun when the inner service has
//!      waited for something, has read the body, has reported progress or has responded;
//!    - the inner service has returned an error or has panicked before it was ready, so that it was not called;
//!    - the process or the [lifetime](OperationLayerBuilder::lifetime) has ended before the work has begun. The client
//!      that waits is answered with 503.
//!
//!    So a handler that does something which must not be done twice reports progress before it, such as
//!    `progress.set(0)`. Without that, what it does before it answers 429 or 503 is done again, and so is what it does
//!    before an error without having waited or read. Load shedding stands outside of any `Buffer`: waiting in the
//!    queue of a buffer is a beginning, so a request that is shed behind it has failed and is remembered.
//! 7. While the first client waits, errors and panics of the inner service reach the layers outside, as they do
//!    without a key. Panics, and errors of work that has begun, are remembered: the request is `Failed`, and does not
//!    run again.
//! 8. The value of the header is a string of structured fields (RFC 9651), such as `"8e03978e"`. For compatibility the
//!    quotes may be missing. A key has up to 255 bytes. A value that is malformed is answered with 400.
//!
//! All clients without a principal share one set of keys, so these should be unguessable.
//!
//! # Cancel safety
//!
//! Dropping [`OperationFuture`] before it is ready is what a server does when the client goes away. The work is
//! dropped, or goes on: see [`OnDisconnect`]. Afterwards it always goes on.
//!
//! # Panics
//!
//! The service must be called within a tokio runtime whose timers are enabled. A panic of the inner service propagates
//! as it would without the layer while a client waits, and is `Failed` after that.
//!
//! # Security
//!
//! - **Principals.** Without [`principal`](OperationLayerBuilder::principal), who knows an id may see and cancel the
//!   operation. With it, others get the same 404 as for an id that does not exist. The layer authenticates nobody:
//!   put it inside of what does.
//! - **Ids** have 128 random bits. The store and the bus know their digests as names, and logs of level `INFO` and
//!   above show eight characters of those. The store has the ids themselves in its values. The layer's own responses
//!   ask browsers to send no `Referer`; results are left as they are.
//! - **Cross-site requests.** `POST …/cancel` is refused (403) when `Sec-Fetch-Site` or `Origin` say that another site
//!   makes it, and a form must have the token that only the page has. Other methods need a preflight across origins.
//! - **Results** are handed out as the inner service made them, cookies included, from another address than that which
//!   was asked for. A relative `Location` in them means another place there.
//! - **Caches** keep nothing that the layer says: it all has `Cache-Control: no-store`. A result has what the inner
//!   service says in `Cache-Control` or `Expires`. Where that is nothing, or the result can be read
//!   [once](OperationLayerBuilder::result_once) only, it has `no-store` too: at its own address it is the response to a
//!   `GET`, which shared caches may keep and give to others unless they are told.
//! - **Addresses** are never made from `Host` or forwarded headers.
//! - **Limits**, all per process: requests at work and requests that are received, per principal and in all; bytes of a body, of a result, of the
//!   results of a principal and of all results; lifetime and retention; the length of messages. Event streams are not
//!   limited: put a limit on connections outside. One event at a time is made for each, when its client takes it.
//! - **Nothing internal** reaches the client: no panic or error text, no key, no limit.
//!
//! # Difference from its neighbours
//!
//! `tower::timeout` gives up where this layer lets the work go on. A [`PromiseLayer`](crate::PromiseLayer) makes a slow
//! page fast by running its parts at once; the client still waits for the whole. A job queue survives the process, and
//! runs its jobs again: an operation does neither, because it is a request.

mod absence;
mod accept;
mod body;
mod builder;
mod cancel;
mod claim;
mod condition;
mod core;
mod events;
mod first_client;
mod first_reply;
mod future;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod hub;
mod idempotency;
mod layer;
mod limits;
mod mount;
mod observe;
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
mod status;
mod work;

pub use body::{OperationBody, OperationRequestBody};
pub use builder::OperationLayerBuilder;
pub use future::OperationFuture;
pub use layer::OperationLayer;
pub use mount::{OperationRoutes, UnreachableMount};
pub use operations::{Operation, Operations};
pub use progress::{MAX_MESSAGE_BYTES, Progress};
pub use service::OperationService;
pub use settings::{
    DEFAULT_BACKEND_TIMEOUT, DEFAULT_HEARTBEAT, DEFAULT_LEASE, DEFAULT_LIFETIME,
    DEFAULT_MAX_BODY_BYTES, DEFAULT_MAX_RESULT_BYTES, DEFAULT_MAX_RUNNING,
    DEFAULT_MAX_RUNNING_PER_PRINCIPAL, DEFAULT_MAX_STORED_BYTES, DEFAULT_MAX_WAIT, DEFAULT_MOUNT,
    DEFAULT_PROGRESS_INTERVAL, DEFAULT_RETENTION, DEFAULT_RETRY_AFTER, DEFAULT_WAIT, Escalate,
    OnDisconnect,
};
pub use status::Status;
