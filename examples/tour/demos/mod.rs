//! The demos, each a small program.

mod approver;
mod batching;
mod blocking;
mod durable;
mod operation;
mod passes;
mod shop;
mod signal;
mod streaming;
mod task;

use crate::stage::Stage;
use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use std::convert::Infallible;
use tower::Service;
use tower_promises::tasks::Worker;
use tower_promises::{BoxError, PromiseError};

/// What pages and their parts return.
type Result<T, E = PromiseError> = std::result::Result<T, E>;

/// What the tour shows of a demo.
pub(crate) struct Demo {
    /// The name of its file.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) problem: &'static str,
    /// The file that runs.
    pub(crate) source: &'static str,
    pub(crate) windows: &'static [Window],
}

/// A page of a demo, which the tour shows in a frame.
pub(crate) struct Window {
    pub(crate) title: &'static str,
    pub(crate) path: &'static str,
    /// In CSS pixels. A frame cannot have the height of its content without a script.
    pub(crate) height: u16,
}

/// The code that is shown is the file of the module with this name.
macro_rules! demo {
    ($name:ident, $title:literal, $problem:literal, $($window:literal at $path:literal, $height:literal),+) => {
        Demo {
            name: stringify!($name),
            title: $title,
            problem: $problem,
            source: include_str!(concat!(stringify!($name), ".rs")),
            windows: &[$(Window { title: $window, path: $path, height: $height }),+],
        }
    };
}

pub(crate) const ALL: [Demo; 8] = [
    demo!(
        passes,
        "Two passes",
        "A template cannot await. It asks for values by name; the layer discards the first pass, fetches them all at \
         once, and runs the handler again.",
        "The page" at "/passes", 330
    ),
    demo!(
        batching,
        "N+1 queries become one",
        "Each row of a list looks up its own author. A pass is the batch: one query, however many rows.",
        "The list" at "/batching", 500
    ),
    demo!(
        streaming,
        "A page that begins at once",
        "One slow service holds back the whole page. Fragments follow in the same response, from a synchronous template.",
        "The product" at "/streaming", 450
    ),
    demo!(
        blocking,
        "Computations on a bounded pool",
        "Computations block the runtime. Promises run them on a pool that all requests share, here of two threads.",
        "The table" at "/blocking", 410
    ),
    demo!(
        operation,
        "A slow request leaves its connection",
        "A request of five seconds is a spinner, a timeout, a second click. It becomes a page with progress, and can \
         be cancelled.",
        "The report" at "/operation", 420
    ),
    demo!(
        durable,
        "A request that survives",
        "A worker dies after the charge and before the receipt. Another one runs the handler again, and finds by name \
         what is done.",
        "The customer" at "/durable", 400,
        "The approver" at "/durable/mail", 190
    ),
    demo!(
        signal,
        "A request waits for another one",
        "A page needs something that only another request knows. Start the first window, then speak in the second.",
        "One request" at "/signal", 260,
        "Another request" at "/signal/say", 150
    ),
    demo!(
        task,
        "A worker does it, and tries again",
        "Two writers meet. The function runs on a worker, here or on another machine, and a conflict is one more \
         attempt.",
        "The invoice" at "/task", 360
    ),
];

/// Returns the pages of all demos, and the worker of the tasks.
pub(crate) fn router(stage: &Stage) -> Result<(Router, Worker), BoxError> {
    let (task, worker) = task::router(stage)?;
    let router = task
        .merge(passes::router(stage)?)
        .merge(batching::router(stage)?)
        .merge(streaming::router(stage)?)
        .merge(blocking::router(stage)?)
        .merge(operation::router(stage)?)
        .merge(durable::router(stage)?)
        .merge(signal::router(stage)?);
    Ok((router, worker))
}

/// Serves requests for a service and for the addresses that its layer adds. The layer sees the paths that clients send.
fn at<S>(paths: [&str; 2], service: &S) -> Router
where
    S: Service<Request, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
{
    let routes = paths.into_iter();
    routes.fold(Router::new(), |router, path| {
        router.route_service(path, service.clone())
    })
}
