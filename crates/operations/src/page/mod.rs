//! The pages that browsers see of an operation: how far it is, and what went wrong.
//!
//! They work with and without scripts, with a keyboard and with a screen reader, in light and dark and on a phone.
//! Nothing in them is inline, so they work under `Content-Security-Policy: default-src 'self'`. [`Strings`] has all
//! of their texts. To show a page of one's own instead, take what a [`PageContext`] or an [`ErrorContext`] has.
//!
//! # Event streams
//!
//! Over HTTP/1.1 a browser opens six connections to a site, and an event stream takes one of them for as long as it
//! lasts: seven pages that follow one each would leave none for the rest of the site. Therefore at most two visible
//! pages of an origin have a stream at the same time. They agree on this by the browser's Web Locks, which insecure
//! origins other than `localhost` do not have. All other pages poll: visible pages at the interval of
//! [`PageContext::refresh`], hidden pages at that interval or every 5 s, whichever is longer. A page that is shown
//! again catches up at once. A page of one's own that opens [`PageLinks::events`] needs a bound too.
//!
//! # Security
//!
//! Every text is escaped. The form that cancels an operation has [`PageContext::cancel_token`] in a hidden field
//! `token`. The pages ask browsers to send no `Referer`, because an operation's address is a secret. For the
//! same reason the form's request has `Origin: null`: `Sec-Fetch-Site` and the token show where it comes from.

mod assets;
mod escape;
mod render;
mod strings;
#[cfg(test)]
mod tests;

use super::Status;
use http::StatusCode;
use std::time::Duration;

pub(super) use assets::asset;
pub(super) use render::{render, render_error};
pub use strings::Strings;

/// What the page of an operation shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PageContext<'a> {
    /// How far the operation is.
    pub status: Status,
    /// How much is done, in percent from 0 to 100, if it is known.
    pub progress: Option<f64>,
    /// What the work says of itself. It is a text: escape it.
    pub message: Option<&'a str>,
    /// How long ago the operation was created.
    pub elapsed: Duration,
    /// Where its resources are.
    pub links: PageLinks<'a>,
    /// What a `POST` to [`PageLinks::cancel`] has in its form field `token`.
    pub cancel_token: &'a str,
    /// Whether the operation can be cancelled.
    pub can_cancel: bool,
    /// How long to wait before the page asks again, where it does not follow the events.
    pub refresh: Duration,
    /// The texts of the page.
    pub strings: &'a Strings,
}

/// Addresses of an operation, absolute or beginning with `/`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PageLinks<'a> {
    /// The operation itself: its page, and for `Accept: application/json` its status.
    pub own: &'a str,
    /// The stream of its events. Close it while the page is hidden: see [event streams](self#event-streams).
    pub events: &'a str,
    /// Its result.
    pub result: &'a str,
    /// Where a `POST` cancels it.
    pub cancel: &'a str,
    /// What the file names of styles and scripts are appended to, after a `/`.
    pub assets: &'a str,
}

/// What an error page shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ErrorContext<'a> {
    /// The status of the response.
    pub status: StatusCode,
    /// Whether the operation was cancelled, which is no error to the user. The status is 410 then.
    pub is_canceled: bool,
    /// How long to wait before it makes sense to try again.
    pub retry_after: Option<Duration>,
    /// What the file names of styles are appended to, after a `/`.
    pub assets: &'a str,
    /// The texts of the page.
    pub strings: &'a Strings,
}
