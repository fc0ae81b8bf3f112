//! The pages of operations for browsers: progress and errors.
//!
//! The pages work with and without scripts, with a keyboard and with a screen reader, in light and dark and on a phone.
//! They contain nothing inline, so they work under `Content-Security-Policy: default-src 'self'`. [`Strings`] contains
//! all of their texts. A custom page can use the data of [`PageContext`] or [`ErrorContext`].
//!
//! # Event streams
//!
//! Over HTTP/1.1 a browser opens six connections to a site, and an event stream occupies one of them while it lasts:
//! six pages with a stream each would leave no connection for the rest of the site. Therefore at most two visible pages
//! of an origin have a stream at the same time. They coordinate with the browser's Web Locks, which insecure origins
//! other than `localhost` do not have. All other pages poll: visible pages at the interval of [`PageContext::refresh`],
//! hidden pages at that interval or every 5 s, whichever is longer. A page that is shown again polls at once. A custom
//! page that opens [`PageLinks::events`] needs a limit too.
//!
//! # Security
//!
//! Every text is escaped. The form that cancels an operation has [`PageContext::cancel_token`] in a hidden field
//! `token`. The pages instruct browsers to send no `Referer`, because an operation's address is a secret. For the same
//! reason the form's request has `Origin: null`: `Sec-Fetch-Site` and the token show its origin.

mod assets;
mod render;
mod strings;
#[cfg(test)]
mod tests;

use super::OperationStatus;
use http::StatusCode;
use std::time::Duration;

pub(super) use assets::asset;
pub(super) use render::{RELOAD_OFF, render, render_error};
pub use strings::Strings;

/// The data of the page of an operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PageContext<'a> {
    /// The status of the operation.
    pub status: OperationStatus,
    /// The progress in percent from 0 to 100, if it is known.
    pub progress: Option<f64>,
    /// The latest message of the work. It is plain text: escape it.
    pub message: Option<&'a str>,
    /// The names of the promises that the operation waits for while it is suspended, if clients
    /// [may see](crate::OperationLayer::show_waiting) them. They are plain text: escape them.
    pub waiting_for: Vec<&'a str>,
    /// The time since the operation was created.
    pub elapsed: Duration,
    /// The addresses of the operation.
    pub links: PageLinks<'a>,
    /// The value of the form field `token` in a `POST` to [`PageLinks::cancel`].
    pub cancel_token: &'a str,
    /// Whether the operation can be cancelled.
    pub can_cancel: bool,
    /// The polling interval for a page without an event stream.
    pub refresh: Duration,
    /// The time after which a page without scripts reloads itself: half of the elapsed time, at most a minute, and at
    /// least [`refresh`](Self::refresh). So the reader can use the page between two reloads. `None` if the reader has
    /// switched reloading off, by the query `reload=off`.
    pub reload: Option<Duration>,
    /// The texts of the page.
    pub strings: &'a Strings,
}

/// Addresses of an operation, absolute or beginning with `/`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PageLinks<'a> {
    /// The operation itself: its page, or with `Accept: application/json` its status.
    pub own: &'a str,
    /// The event stream. Close it while the page is hidden: see [event streams](self#event-streams).
    pub events: &'a str,
    /// The result.
    pub result: &'a str,
    /// The target of a `POST` that cancels the operation.
    pub cancel: &'a str,
    /// The prefix of the addresses of styles and scripts, without the `/` before the file name.
    pub assets: &'a str,
}

/// The data of an error page.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ErrorContext<'a> {
    /// The status of the response.
    pub status: StatusCode,
    /// Whether the operation was cancelled, which is not an error to the user. The status is then 410.
    pub is_cancelled: bool,
    /// The time to wait before another attempt.
    pub retry_after: Option<Duration>,
    /// The prefix of the addresses of styles, without the `/` before the file name.
    pub assets: &'a str,
    /// The texts of the page.
    pub strings: &'a Strings,
}
