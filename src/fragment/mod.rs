//! Middleware that sends a page before it is complete, and its slow parts after it.
//!
//! A *fragment* is a region of a page that may come later. What a handler reads outside of fragments holds back the
//! page, so status, headers, redirects and cookies are decided when they are known. What it reads inside of a fragment
//! holds back only the fragment. The template engine stays synchronous, and the browser needs no script.
//!
//! ```text
//! request ─▶ FragmentLayer ─▶ inner service  (passes, until everything outside of fragments is known)
//!                │
//!                ├─▶ head and page, with fallbacks      <h1>Tea</h1> <?start name="tp1">…<?end>
//!                │
//!                ├─▶ each fragment when it is ready     <template for="tp1">42 €</template>
//!                │
//!                └─▶ the end of the page                </body></html>
//! ```
//!
//! # Example
//!
//! ```
//! use axum::{Router, response::Html, routing::get};
//! use tower_promises::fragment::FragmentLayer;
//! use tower_promises::{PromiseError, Promises};
//!
//! # async fn fetch_title() -> String { "Tea".into() }
//! # async fn fetch_price() -> u32 { tokio::time::sleep(std::time::Duration::from_secs(1)).await; 42 }
//! async fn product(promises: Promises) -> Result<Html<String>, PromiseError> {
//!     // Comes later: the page does not wait for the price.
//!     let price = promises.fragment("price", "<p>…</p>", |promises| {
//!         let price = promises.result_or_submit("price", fetch_price)?;
//!         Ok::<_, PromiseError>(format!("<p>{price} €</p>"))
//!     });
//!     // Holds back the page, which could also be a 404.
//!     let title = promises.result_or_submit("title", fetch_title)?;
//!     Ok(Html(format!("<body><h1>{title}</h1>{price}</body>")))
//! }
//!
//! let app: Router = Router::new()
//!     .route("/", get(product))
//!     // Instead of `PromiseLayer::new()`, which it contains.
//!     .layer(FragmentLayer::new());
//! # use http_body_util::BodyExt;
//! # use tower::ServiceExt;
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! # let request = http::Request::get("/").header("accept", "text/html").body(axum::body::Body::empty()).unwrap();
//! # let page = app.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
//! # let page = String::from_utf8(page.to_vec()).unwrap();
//! # assert!(page.starts_with("<body><h1>Tea</h1><?start name=\"tp1\"><p>…</p><?end>"), "{page}");
//! # assert!(page.ends_with("<template for=\"tp1\"><p>42 €</p></template>\n</body>"), "{page}");
//! # });
//! ```
//!
//! [`guide`] leads from a page in two passes to a page that streams in production. The example [`streaming`](https://github.com/tower-promises/tower-promises/tree/main/examples/streaming) is a
//! product page in two template engines.
//!
//! # Rules
//!
//! 1. [`Promises::fragment`] calls its render function at once. If the function misses no promise, its output is part
//!    of the page, without markers.
//! 2. Otherwise the fragment is pending. It does not hold back the page, and causes no further pass. Its promises start
//!    with those of the pass, and keep running in later passes.
//! 3. A pass that read nothing missing outside of fragments is the last pass. Its response is published. If fragments
//!    are pending, the response first waits for [`grace`](FragmentLayer::grace). Fragments that are ready by then
//!    replace their fallbacks in the page.
//! 4. The other fragments follow the page, each as soon as the promises that it missed have settled. Only its render
//!    function is called again, neither the handler nor a middleware. It may miss further promises, and it may create
//!    further fragments.
//! 5. The page ends after its last fragment. Its closing tags and its trailers come last.
//! 6. A fragment that is pending after the [timeout](FragmentLayer::timeout) is rendered once more. Its promises then
//!    read as [`TimedOut`](crate::PromiseError::TimedOut), and the render function decides what to show.
//! 7. An error or a panic of a render function concerns only its fragment. [`on_error`](FragmentLayer::on_error)
//!    replaces the fragment, and the error is logged. Errors of promises are values, as they are in a handler.
//! 8. The response has no `Content-Length` and no `ETag`. It has `Incremental: ?1` (RFC 10036) and
//!    `X-Accel-Buffering: no`, so that proxies pass on each part at once, and `Accept` in `Vary`.
//! 9. The inner service is not held ready and the request body is released while fragments are pending.
//!
//! # Pages that do not stream
//!
//! In these cases a pending fragment causes a further pass, as any other value that is missing does, and the page comes
//! whole. It is the same page:
//!
//! - The request is `HEAD` or uses HTTP/1.0, or its `Accept` does not name `text/html` (`*/*` does not name it).
//! - [`stream_when`](FragmentLayer::stream_when) excludes the request.
//! - The response is stored first: the request is an operation (module `operations`), or has an idempotency key.
//! - The `Content-Type` of the response is not `text/html`, or the response has a `Content-Encoding`.
//! - The page has more than [`max_fragments`](FragmentLayer::max_fragments) pending fragments: it waits for the others.
//! - The layer is a plain [`PromiseLayer`](crate::PromiseLayer), so components can use fragments wherever they are.
//!
//! A redirect and a response without content have no place for fragments. Their pending fragments are dropped.
//!
//! # Where a fragment can be
//!
//! Wherever an element can be: in text, between the rows of a table, between the items of a list, between the options
//! of a `select`. The output should be what the parent allows there. A fragment cannot be in a tag (an attribute), in a
//! comment or in an element that contains only text (`title`, `textarea`, `script`, `style`): its fallback would stay,
//! and an error is logged. The template engine must not escape a fragment. A pending fragment that is not in the page is
//! dropped at the end of the page.
//!
//! The page needs a `<body>` tag and all end tags, also those that HTML lets a page omit (`</p>`, `</li>`). Otherwise
//! the browser may find the markers in another element than the one in which they were written. An element that is
//! still open at the end of the page contains the fragments that follow, and the browser then replaces only fallbacks
//! within that element. The layer does not parse the page, so its log does not show this.
//!
//! # Browsers
//!
//! `<template for>` is part of the HTML standard. Chromium 150 and later replace fragments themselves, without a script
//! and under `Content-Security-Policy: default-src 'self'`. For other browsers, serve [`SCRIPT`] and set its
//! [address](FragmentLayer::script). It is tested in Firefox, and was tried in the engine of Safari. Without scripts
//! such a browser keeps the fallbacks. If that matters, let [`stream_when`](FragmentLayer::stream_when) exclude it.
//!
//! Some browsers hold back a short beginning of a page: Firefox up to 1,024 bytes if neither the `Content-Type` nor a
//! `meta` element names the charset, and Safari up to 512 bytes. Safari runs the script after it has shown some text.
//!
//! Scripts in the output of a fragment run. The parser waits for a script as it does elsewhere in a page, except in
//! browsers that need [`SCRIPT`]. There, output for an `svg` or `math` element also has to bring such an element.
//!
//! # Cancel safety
//!
//! Promises run while the body of the response is polled. Dropping the response future or the body drops all pending
//! fragments and promises. A client that reads slowly delays its own fragments, and no more than
//! [`max_buffered_bytes`](FragmentLayer::max_buffered_bytes) wait for it. Timeouts are checked when the body is polled:
//! see *Security*.
//!
//! # Panics
//!
//! A page with pending fragments must be handled within a tokio runtime whose timers are enabled. [`FragmentFuture`]
//! panics if it is polled after completion.
//!
//! # Security
//!
//! The ids of fragments are numbers of the page. Names, errors and panic messages do not reach the client. The output of
//! a render function is HTML of the application, which has to escape values as everywhere. Undo functions and
//! transactions of the last pass are decided when the page begins: see [`Promises::on_discard`].
//!
//! A server does not poll the body while its client does not read, for example because the window of an HTTP/2 stream
//! is empty. Until then the promises of the page stand still, and keep what they hold, such as a permit or a connection
//! of a pool. They end with the [timeout](FragmentLayer::timeout) even then. A promise that awaits a task of its own
//! (`tokio::spawn`) lets scarce work go on.
//!
//! # Nested layers
//!
//! A [`PromiseLayer`](crate::PromiseLayer) outside of this layer ends its promises when the page begins. Fragments that
//! read them later request them again, so read such values outside of fragments.
//!
//! # Difference from similar middleware
//!
//! [`PromiseLayer`](crate::PromiseLayer) sends a page when all of its promises have settled. This layer contains it, so
//! it is added instead of that layer. Its response body has the type [`FragmentBody`].
//!
//! [`Promises::fragment`]: crate::Promises::fragment
//! [`Promises::on_discard`]: crate::Promises::on_discard

mod body;
mod eligibility;
mod fragments;
mod future;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod layer;
mod observe;
mod page;
mod render;
mod rendering;
mod service;
mod settings;
mod shell;

pub use crate::promise::fragment_error::FragmentError;
pub use body::FragmentBody;
pub use fragments::Fragment;
pub use future::FragmentFuture;
pub use layer::FragmentLayer;
pub use service::FragmentService;

/// The script for [`FragmentLayer::script`], as `text/javascript`.
///
/// It places fragments in browsers that do not know `<template for>`. In other browsers it does nothing. It needs no
/// global variable and no inline code, and may be cached like any other file of the application.
pub const SCRIPT: &str = include_str!("script.js");
