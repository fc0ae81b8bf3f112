//! Signals: a promise waits for a value from another request.
//!
//! `tower-promises` re-exports this crate as `tower_promises::signals`, with its feature of the same name.
//!
//! [`Signals`] is a handle that all requests share. One request waits for a name, another request sends a value to it,
//! in the same process or, over a [backend](tower_promises_backend), in another one. A wait is a future, so it can be a
//! promise, and a template that cannot wait can show a value from another request.
//!
//! # Example
//!
//! ```
//! use axum::extract::State;
//! use axum::{Router, routing::get};
//! use std::time::Duration;
//! use tower_promises::{PromiseError, PromiseLayer, Promises};
//! use tower_promises_signals::Signals;
//!
//! /// Waits for the next message, at most 30 seconds.
//! async fn next(signals: State<Signals>, promises: Promises) -> Result<String, PromiseError> {
//!     promises.result_or_try_submit("message", || {
//!         signals.wait::<String>("message").timeout(Duration::from_secs(30))
//!     })
//! }
//!
//! async fn say(signals: State<Signals>, text: String) -> String {
//!     match signals.send("message", &text).await {
//!         Ok(heard) => format!("{heard} heard it"),
//!         Err(error) => error.to_string(),
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let signals = Signals::memory();
//! let app: Router = Router::new()
//!     .route("/", get(next).layer(PromiseLayer::new()).post(say))
//!     .with_state(signals.clone());
//! # use http::Request;
//! # use http_body_util::BodyExt;
//! # use tower::ServiceExt;
//! # let asked = tokio::spawn(app.clone().oneshot(Request::new(axum::body::Body::empty())));
//! # while signals.waiters("message") == 0 { tokio::task::yield_now().await }
//! # let said = app.oneshot(Request::post("/").body(axum::body::Body::from("hello")).unwrap()).await.unwrap();
//! # assert_eq!(said.into_body().collect().await.unwrap().to_bytes(), "1 heard it");
//! # let asked = asked.await.unwrap().unwrap();
//! # assert_eq!(asked.into_body().collect().await.unwrap().to_bytes(), "hello");
//! # }
//! ```
//!
//! # Rules
//!
//! 1. A [wait](Signals::wait) is subscribed when it is created, and ends with the first value. Wait again for the next
//!    value; values that are sent in between are lost.
//! 2. A [send](Signals::send) reaches all current waiters, and no later ones. [`send_one`](Signals::send_one) reaches
//!    one waiter.
//! 3. A [latch](Signals::latch) also reaches waiters that arrive within its time to live. The sender stores the value,
//!    then publishes it. The waiter subscribes, then reads the store, then waits, so it cannot miss the value.
//! 4. Within a process no signal is lost. Between processes signals are delivered at most once, like messages on the
//!    bus: a signal is lost if it is sent while the bus is interrupted, or faster than a process reads. Latches are not
//!    lost: they are read again after each interruption and, in case one went unnoticed, once per
//!    [`poll_interval`](SignalsBuilder::poll_interval).
//! 5. Values are serde values, sent as JSON both between processes and within one. Sender and waiter may use different
//!    types that serialise alike. A value that is not a `T` is an error of that wait, with a warning in the log; other
//!    waiters get the value, and a latch stays. Sending fails for NaN, infinities and values nested more than 127
//!    levels deep. `Some(())` and `Some(None)` arrive as `None`.
//! 6. [Namespaces](Signals::namespace) separate names, whatever characters they contain.
//! 7. Each [`Signals::new`] has one task that listens to the bus, from the first wait on. After an error the task
//!    retries, first after 0.1 seconds, then after twice as long each time, up to 10 seconds. Each pause is up to a
//!    quarter shorter, at random. The task ends with the last handle and the last wait. It runs on the runtime of the
//!    first wait; if that runtime ends, the next wait on another runtime starts it again.
//!
//! # Cancel safety
//!
//! Dropping a [`Wait`] unsubscribes at once, so a waiter that is a promise ends with its request. The methods that send
//! document the effect of dropping their futures.
//!
//! # Panics
//!
//! The tokio runtime must have timers enabled.
//!
//! # Security
//!
//! Names are not secret, and any process with access to the backend can send: check in the handler which client may
//! wait for which name. Names may come from a client: the number of waiters, in total and for each name, and the sizes
//! of names and values are limited, see [`SignalsBuilder`]. Errors and the log contain names, never values.
//!
//! # Comparison
//!
//! | | reaches | late waiters | between processes |
//! |---|---|---|---|
//! | `tokio::sync::Notify` | one or all waiters, no value | one permit | no |
//! | `tokio::sync::broadcast` | every receiver, every value | no | no |
//! | `tokio::sync::watch` | every receiver, the latest value | always | no |
//! | `Signals` | all waiters for a name, the next value | within the time to live of a latch | yes |
//!
//! Use the channels of tokio if both sides share a channel and need a series of values. Use signals between requests
//! that share only a name.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod error;
mod instance;
mod listener;
mod message;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod metrics;
mod name;
mod observe;
mod settings;
mod shared;
mod signals;
mod wait;
mod waiters;

pub use builder::SignalsBuilder;
pub use error::SignalError;
pub use signals::Signals;
pub use wait::Wait;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
