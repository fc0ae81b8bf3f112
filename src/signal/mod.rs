//! Signals: a promise waits for something that another request says.
//!
//! [`Signals`] is a handle that all requests share. One waits for a name, another sends a value to it, in the
//! same process or, over a [backend](crate::backend), in another one. A wait is a future, so it can be a
//! promise, and a template that cannot wait shows what another request has said.
//!
//! # Example
//!
//! ```
//! use axum::extract::State;
//! use axum::{Router, routing::get};
//! use std::time::Duration;
//! use tower_promises::{PromiseError, PromiseLayer, Promises, Signals};
//!
//! /// Waits for the next message, and gives up after half a minute.
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
//! 1. A [wait](Signals::wait) is subscribed when it is created, gets one value and is over. To wait for the
//!    next one, wait again; what is sent in between is lost.
//! 2. A [send](Signals::send) reaches everybody who waits at that moment, and nobody later.
//!    [`send_one`](Signals::send_one) reaches one of them.
//! 3. A [latch](Signals::latch) also reaches those who come within its time to live. The sender stores, then
//!    publishes; the waiter subscribes, reads the store, then waits: it cannot miss the value.
//! 4. Within the process nothing is lost. Between processes signals are as good as the bus, at most once: what
//!    is sent while the bus is interrupted, or faster than a process can read, does not arrive. Latches do,
//!    because they are read again after every interruption and, in case nobody noticed one, every
//!    [`poll_interval`](SignalsBuilder::poll_interval).
//! 5. Values are serde values, JSON between two processes and within one: sender and waiter need not have the
//!    same type, but one that serialises alike. What is not a `T` is an error of that wait, with a warning in
//!    the log; other waiters get the value, and a latch stays. A NaN, an infinity and what is nested more than
//!    127 levels deep are errors of the sender. `Some(())` and `Some(None)` arrive as `None`.
//! 6. [Namespaces](Signals::namespace) keep names apart, whatever characters they have.
//! 7. One task for each [`Signals::new`] listens to the bus, from the first wait on. After an error it listens
//!    again, first after 0.1 seconds, then after twice as long each time, up to 10 seconds. It ends with the
//!    last handle and wait. It lives on the runtime of the first wait; when that runtime ends before another,
//!    the next wait starts it again.
//!
//! # Cancel safety
//!
//! Dropping a [`Wait`] unsubscribes it at once, so a waiter that is a promise is gone when its client is. The
//! futures of senders say what it means to drop them.
//!
//! # Panics
//!
//! The runtime needs timers.
//!
//! # Security
//!
//! Names are not secret, and whoever can reach the backend can send: check in the handler who may wait for what.
//! Names may come from a client: the number of waiters, in all and for each name, and the sizes of names
//! and values have limits, see [`SignalsBuilder`]. Errors and the log say names, never values.
//!
//! # Difference from its neighbours
//!
//! | | reaches | late comers | between processes |
//! |---|---|---|---|
//! | `tokio::sync::Notify` | one or all waiters, no value | one permit | no |
//! | `tokio::sync::broadcast` | every receiver, every value | no | no |
//! | `tokio::sync::watch` | every receiver, the latest value | always | no |
//! | `Signals` | who waits for a name, the next value | within the time to live of a latch | yes |
//!
//! The channels of tokio are better where both sides share a channel and want a series of values. Signals are
//! for two requests that know nothing but a name.

mod builder;
mod error;
mod family;
mod handle;
mod listener;
mod message;
mod name;
mod observe;
mod wait;
mod waiters;

pub use builder::{
    DEFAULT_BACKEND_TIMEOUT, DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_WAITERS,
    DEFAULT_MAX_WAITERS_PER_NAME, DEFAULT_POLL_INTERVAL, SignalsBuilder,
};
pub use error::SignalError;
pub use handle::Signals;
pub use name::MAX_SIGNAL_NAME_BYTES;
pub use wait::Wait;
