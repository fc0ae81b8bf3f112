//! Observability of the layer: spans and events, timings, metrics.
//!
//! | question | answer |
//! |---|---|
//! | why was this request slow? | [the guide](guide), [spans](#spans), [`Passes`] in the response |
//! | the same, in the browser's developer tools | [`ServerTimingLayer`] |
//! | how does the service perform over time? | [metrics](#metrics) |
//! | what is wrong with my handler? | [warnings](#warnings) |
//! | what does this log line mean? | [the guide](guide) lists all spans and events, [metrics](#metrics) all metrics |
//!
//! The example [`observability`](https://github.com/tower-promises/tower-promises/tree/main/examples/observability) uses all of them in one service.
//!
//! # Spans
//!
//! With the feature `tracing`, which is on by default, a request with a promise that starts has a span `promises` with
//! the fields `passes`, `promises`, `outcome` and `duration_ms`. It contains a span `pass` for each pass (`pass`,
//! `outcome`, `duration_ms`). The span of a pass contains a span `promise` for each promise that the pass requested
//! (`key`, `pass`, `outcome`, `duration_ms`). Promises, including blocking ones, run inside their span, so their events
//! and spans belong to it. From the second pass on, the handler runs inside the span of its pass. A request that is
//! answered in its first pass has no span of this crate.
//!
//! The spans have the level DEBUG and the target `tower_promises`, so the filter `tower_promises=debug` shows them. The
//! outcome of a pass is `published`, `failed`, `discarded`, `rejected` or `abandoned`. The outcome of a promise is one
//! of [`PromiseOutcome`](crate::promise::PromiseOutcome). The span of the request opens when its first promise starts.
//! The duration of a pass is that of the handler, without the promises.
//!
//! Each fragment that follows its page is rendered in a span `fragment` (`name`, `since_request_ms`). The span of the
//! request stays open until the last fragment.
//!
//! [tracing-opentelemetry](https://docs.rs/tracing-opentelemetry) exports the spans without further configuration.
//!
//! # Warnings
//!
//! Some mistakes cause events at WARN, with the names of the promises and a remedy. Except for the last two, they have
//! the target `tower_promises::advice`, so `tower_promises::advice=off` silences them:
//!
//! - A promise was submitted and its value was never read, although the request succeeded.
//! - A pass read no promise that the pass before it had requested, and requested others: the keys differ in every pass.
//! - A success was published although a promise was pending when it was read, and the handler did not use
//!   [`or_pending`](crate::OrPending::or_pending).
//! - A promise failed because it read another promise that was pending.
//! - A body exceeded the limit of kept bytes, and a promise made another pass necessary.
//!
//! Fragments that cannot replace their fallbacks, fragments that are pending when their time is over, and headers that
//! contradict fragments cause warnings of their own: see [the guide](guide).
//!
//! The first two do not apply to promises of `()`, because they have no value to read.
//!
//! # Metrics
//!
//! With the feature `metrics` there are counters, gauges and histograms for the `metrics` facade: see the module
//! `metrics`.
//!
//! # Costs
//!
//! Disabled features are not compiled. A request that no observer is interested in costs no clock reading: without the
//! level DEBUG, a recorder of metrics, and a layer that wants timings. With the feature `metrics` such a request looks
//! for a recorder when it begins and when a pass or a promise ends. BENCHMARKS.md has the numbers.
//!
//! # Security
//!
//! Names of promises appear in spans, in warnings and in [`Passes`]. They reach the client only through
//! [`ServerTimingLayer`], which shows them only to the requests that the application selects. Values appear nowhere.
//! Errors of promises are in events at DEBUG, and panic messages in events at ERROR. With the feature `axum`, the error
//! that a handler returns is in an event at ERROR, with its sources.
//!
//! A name may contain input of a client. The log shows at most 256 bytes of a name and at most eight names of a list.
//! Characters that start a new line are escaped, also in the text of a [`PromiseError`](crate::PromiseError). Errors of
//! the application are logged as they display themselves. A formatter that escapes, such as that for JSON, keeps them
//! on one line.
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

#[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
#[doc = include_str!("guide.md")]
pub mod guide {}
#[cfg(feature = "server-timing")]
mod server_timing;

#[cfg(feature = "metrics")]
#[doc(inline)]
pub use crate::metrics;
#[cfg(feature = "server-timing")]
pub use server_timing::{ServerTimingFuture, ServerTimingLayer, ServerTimingService};
