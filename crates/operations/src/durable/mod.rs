//! Durable operations: requests that survive the death of their process.
//!
//! A request that [`OperationLayer::durable`](super::OperationLayer::durable) chooses is stored before it runs, and its
//! promises that have names are remembered. If its process is lost, another process runs the handler again and finds
//! what is remembered by name, so it continues where the first one stood. If all that the request waits for are due
//! times and settlements from outside, it is *suspended*: nothing of it stays in memory until then.
//!
//! ```text
//! POST /order ─▶ OperationLayer ─▶ store: request, status        Operations::work, in any process
//!                                  queue: envelope ────────────▶ run: the handler, with what is remembered
//!                                            ▲                     │ a promise settles: remembered, then read
//!                                            │                     │ the process dies: the envelope comes again
//!                                            └── due time, ◀───────┘ everything waits: suspended
//!                                                settlement
//! ```
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, routing::post};
//! use http::Method;
//! use std::time::Duration;
//! use tower_promises::{PromiseError, PromiseLayer, Promises};
//! use tower_promises_operations::OperationLayer;
//!
//! # async fn charge(_: Option<String>) -> String { "receipt 7".into() }
//! # async fn mail(_: String) {}
//! async fn order(promises: Promises) -> Result<String, PromiseError> {
//!     let key = promises.idempotency_key("charge");
//!     let receipt = promises.durable("charge", move || charge(key))?;
//!     let url = promises.outside_url("approval")?;
//!     promises.durable("mail", move || mail(url))?;
//!     // Suspended until a client posts `{"value": "Ada"}` to the address.
//!     let name: String = promises.outside("approval")?;
//!     promises.sleep("cool off", Duration::from_secs(24 * 60 * 60))?;
//!     Ok(format!("{receipt}, approved by {name}"))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let layer = OperationLayer::memory()
//!     .durable(|request| request.method == Method::POST && request.uri.path() == "/order")
//!     .lifetime(Duration::from_secs(7 * 24 * 60 * 60));
//! let operations = layer.operations();
//! let inner = Router::new().route("/order", post(order)).layer(PromiseLayer::new());
//! let app: Router = inner.clone().layer(layer);
//! // In each process that takes up runs:
//! tokio::spawn(async move { operations.work::<_, Body, _>(inner).await });
//! # let request = http::Request::post("/order").header("prefer", "respond-async").body(Body::empty()).unwrap();
//! # let response = tower::ServiceExt::oneshot(app, request).await.unwrap();
//! # assert_eq!(response.status(), 202);
//! # }
//! ```
//!
//! [`guide`] leads from here to production: effects that happen once, deployments, tokens, sizes and tests.
//!
//! # Rules
//!
//! 1. Remembered are the values of durable promises, and failures of the promises themselves with their kind: a
//!    timeout stays a timeout, and an error stays an error, as text. Panics, cancelled promises and rejections are not
//!    remembered, nor are promises that are not durable: they run again in each run.
//! 2. An outcome is stored before any pass reads it. If the store fails, storing is repeated while the run lasts. So
//!    the work of a promise may happen twice if its process is lost in between, and what was read never changes.
//!    [`DurableRun::idempotency_key`] is what makes an effect in another service happen once.
//! 3. Runs travel on the queue of the backend: at least once, one at a time, each under the
//!    [lease](super::OperationLayer::lease). A run that was replaced can store nothing more: each change of an
//!    operation names its run and is one compare-and-set.
//! 4. A run that is lost begins again. If that happens more than [`max_recoveries`](super::OperationLayer::max_recoveries)
//!    times in a row without anything new that is remembered, the operation is `Failed` with the code `Lost`.
//!    [`Operations::send_again`](super::Operations::send_again) begins it again.
//! 5. A handler that awaits anything but its promises is not suspended, and neither is a request with ordinary promises
//!    that are pending. Waits of less than a second are not worth a suspension.
//! 6. Names identify promises, positions do not: code may be reordered and extended while requests are under way. A
//!    value that no longer fits its type is an error that names both types.
//! 7. Stored are the method, the URI, the body, the principal and the
//!    [chosen headers](super::OperationLayer::durable_headers), which have no credentials by default. Middleware outside
//!    of the layer does not see later runs, and [`rebuild`](super::OperationLayer::rebuild) adds what it would add.
//! 8. Everything expires together with the operation.
//! 9. A promise whose result another task holds, such as the call of a task queue, is found again if it gets the
//!    [idempotency key](DurableRun::idempotency_key) as its id.
//!
//! # Cancel safety
//!
//! A durable operation continues when its client disconnects, from the time when it is stored. A run may be dropped at
//! any `await`, as after the loss of its process.
//!
//! # Panics
//!
//! [`Operations::work`](super::Operations::work) needs a tokio runtime with timers. A panic of the handler ends the
//! operation; a panic in a promise is the error of that promise, as in any other request.
//!
//! # Security
//!
//! The address of a promise is a capability: a client that knows it can settle that promise. It begins with the address of
//! the operation, which alone protects an operation without a [principal](super::OperationLayer::principal). Its token
//! has 128 bits and is a keyed hash of the name. The store has no token, but it has the key, unless the application
//! adds a [secret](super::OperationLayer::durable_secret). The store keeps request bodies, principals and remembered
//! values as they are. Names of promises are not shown to clients [by default](super::OperationLayer::show_waiting).
//!
//! # Limits
//!
//! | what | setting, default |
//! |---|---|
//! | runs at once in a process | [`max_runs`](super::OperationLayer::max_runs), 64 |
//! | remembered entries and bytes of an operation | [`max_remembered`](super::OperationLayer::max_remembered), 1,000, and [`max_remembered_bytes`](super::OperationLayer::max_remembered_bytes), 1 MiB |
//! | operations that have not ended, suspended ones included | [`max_open`](super::OperationLayer::max_open), 10,000, and of a principal [`max_open_per_principal`](super::OperationLayer::max_open_per_principal), 100. Further requests are refused with 503 and 429 |
//! | stored results of a process | [`max_stored_bytes`](super::OperationLayer::max_stored_bytes), 32 MiB. Beyond it, the process refuses requests with 503 |
//! | lifetime | [`lifetime`](super::OperationLayer::lifetime), an hour |
//! | envelopes | the limit of the queue, which has up to three for each operation. Beyond it, requests are refused with 503 |
//! | a settlement over HTTP | 64 KiB |

mod accept;
mod again;
mod endpoint;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod held;
mod lost;
mod not_remembered;
mod owned;
mod recollection;
mod recording;
mod request;
mod run;
mod running;
mod settle;
mod takeover;
mod token;
mod wake;
mod within;
mod worker;

pub use crate::memory::{RememberedError, RememberedValue, Settlement};
pub(super) use accept::answer;
pub(super) use again::{forget_from, recorded, resume, send_again};
pub(super) use endpoint::answer as answer_promise;
pub(super) use lost::lost;
pub use not_remembered::NotRemembered;
pub use recording::{ChangedType, Recording, Replayed};
pub use run::DurableRun;
pub use settle::Settling;
pub(super) use settle::{Target, settle};
pub use within::RememberWithinError;
pub(super) use worker::work;
