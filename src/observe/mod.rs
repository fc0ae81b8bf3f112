//! What an operator can see of the layer: spans and events, timings, metrics.
//!
//! | question | answer |
//! |---|---|
//! | why was this request slow? | [the guide](guide), [spans](#spans) in the log or in OpenTelemetry, [`Passes`] in the response |
//! | the same, in the browser's developer tools | [`ServerTimingLayer`] |
//! | what does the service do all day? | [metrics](#metrics) |
//! | what is wrong with my handler? | [warnings](#warnings) |
//! | what does this line of the log mean? | [the guide](guide) has all spans and events, [metrics](#metrics) all metrics |
//!
//! The example `observability` shows all of it in one service.
//!
//! # Spans
//!
//! With the feature `tracing`, which is on by default, a request that has a promise that runs has a span `promises`
//! with the fields `passes`, `promises`, `outcome` and `duration_ms`. In it there is a span `pass` for each pass
//! (`pass`, `outcome`, `duration_ms`), and in that a span `promise` for each promise which that pass asked for (`key`,
//! `pass`, `outcome`, `duration_ms`). Promises run inside of their span, blocking ones too, so that what they log, and
//! their own spans, are found below it; and a handler runs inside of the span of its pass from the second pass
//! on. A request that is answered in its first pass has no span of this crate: there is nothing to tell.
//!
//! The spans have the level DEBUG and the target `tower_promises`, so the filter `tower_promises=debug` shows them.
//! `pass` as an outcome has `published`, `failed`, `discarded`, `rejected` and `abandoned`; a promise has those of
//! [`PromiseOutcome`](crate::promise::PromiseOutcome). The span of the request opens when its first promise starts, and
//! the duration of a pass is that of the handler without its promises.
//!
//! [tracing-opentelemetry](https://docs.rs/tracing-opentelemetry) exports the spans without further ado.
//!
//! # Warnings
//!
//! Some mistakes are told at WARN, with the names of the promises and what to do. But for the last two they have the
//! target `tower_promises::advice`, so that `tower_promises::advice=off` silences them:
//!
//! - a promise was submitted and its value never read, though the request was a success;
//! - a pass has read none of what the pass before it asked for, and asks for something else: keys that
//!   differ in every pass;
//! - a success was published although a promise was pending when it was read, and nobody has used
//!   [`or_pending`](crate::OrPending::or_pending);
//! - a promise failed because it read another one that was pending;
//! - a body outgrew what is kept for replay, and a promise made another pass necessary.
//!
//! Promises of `()` have nothing to be read and are left out of the first two.
//!
//! # Metrics
//!
//! With the feature `metrics` there are counters, gauges and histograms on the facade of that name: see the module
//! `metrics`.
//!
//! # Costs
//!
//! What a feature does that is off is not compiled. A request without promises costs no clock reading with `tracing`
//! unless the level DEBUG is enabled somewhere; one reading with `server-timing`; and two readings and four updates of
//! metrics with `metrics`. BENCHMARKS.md has the numbers.
//!
//! # Security
//!
//! Names of promises are in spans, warnings and [`Passes`], and go to the client only through [`ServerTimingLayer`],
//! which shows them to nobody unless you say to whom. Values are in none of them. Errors of promises are in events at
//! DEBUG, messages of panics in events at ERROR, and with the feature `axum` the error that a handler returns is in an
//! event at ERROR, with its sources.
//!
//! A name may have what a client has sent. In the log it has at most 256 bytes, lists of names have at most eight, and
//! what would begin a new line is escaped, also in the text of a [`PromiseError`](crate::PromiseError). Errors of your
//! own are written as they display themselves: a formatter that escapes, such as that for JSON, keeps them on their
//! line.
//!
#![cfg_attr(
    feature = "server-timing",
    doc = "[`Passes`]: crate::promise::Passes",
    doc = "[`ServerTimingLayer`]: crate::observe::ServerTimingLayer"
)]
#![cfg_attr(
    not(feature = "server-timing"),
    doc = "[`Passes`]: https://docs.rs/tower-promises/latest/tower_promises/promise/struct.Passes.html",
    doc = "[`ServerTimingLayer`]: https://docs.rs/tower-promises/latest/tower_promises/observe/struct.ServerTimingLayer.html"
)]

pub(crate) mod gauge;
#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
#[doc = include_str!("guide.md")]
pub mod guide {}
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "server-timing")]
mod server_timing;

#[cfg(feature = "server-timing")]
pub use server_timing::{ServerTimingFuture, ServerTimingLayer, ServerTimingService};
