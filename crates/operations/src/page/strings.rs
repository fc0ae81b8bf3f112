use std::borrow::Cow;

/// Defines a field, its setter and its English default for each text.
macro_rules! strings {
    ($($(#[doc = $doc:literal])+ $name:ident = $english:literal;)+) => {
        /// The texts of the pages, in English unless they are set.
        ///
        /// Placeholders such as `{percent}` in a text are replaced by their values. The texts are plain text, not HTML.
        ///
        /// ```
        /// use tower_promises_operations::page::Strings;
        ///
        /// let german = Strings::new("de")
        ///     .running("In Arbeit")
        ///     .percent("{percent} %")
        ///     .cancel("Abbrechen");
        /// # let _ = german;
        /// ```
        #[derive(Clone, Debug)]
        #[must_use]
        pub struct Strings {
            pub(super) lang: Cow<'static, str>,
            pub(super) right_to_left: bool,
            $(pub(super) $name: Cow<'static, str>,)+
        }

        impl Strings {
            /// Creates the English texts, to be replaced by another language. `lang` is its tag as in HTML, such as
            /// `pt-BR`.
            pub fn new(lang: impl Into<Cow<'static, str>>) -> Self {
                Self {
                    lang: lang.into(),
                    right_to_left: false,
                    $($name: Cow::Borrowed($english),)+
                }
            }

            /// Sets whether the language is written from right to left.
            pub fn right_to_left(mut self, right_to_left: bool) -> Self {
                self.right_to_left = right_to_left;
                self
            }

            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nDefault: ", $english)]
                pub fn $name(mut self, text: impl Into<Cow<'static, str>>) -> Self {
                    self.$name = text.into();
                    self
                }
            )+
        }
    };
}

strings! {
    /// The heading of an operation that has not started.
    not_started = "Waiting to start";
    /// The heading of a running operation.
    running = "Working on it";
    /// The heading of an operation that has succeeded.
    succeeded = "Done";
    /// The heading of an operation that has failed.
    failed = "That did not work";
    /// The heading of an operation that was cancelled.
    cancelled = "Cancelled";
    /// The text in place of the result of a cancelled operation.
    cancelled_text = "The operation was cancelled before it was done.";
    /// The title of the page with progress, with `{percent}` and `{heading}`.
    title = "{percent} · {heading}";
    /// The progress, with `{percent}`, a whole number.
    percent = "{percent}%";
    /// What a suspended operation waits for, with `{names}`, the names of its promises.
    waiting_for = "Waiting for: {names}";
    /// The label of the elapsed time.
    elapsed = "Elapsed";
    /// The button that cancels the operation.
    cancel = "Cancel";
    /// The same button after it was pressed.
    cancelling = "Cancelling…";
    /// The link to the result, shown when the operation has ended.
    result = "See the result";
    /// The text while the server does not answer.
    connection_lost = "The connection is interrupted. Trying again …";
    /// The text if scripts do not run.
    reloads = "This page reloads itself until the result is there.";
    /// The link that reloads the page, if scripts do not run.
    reload = "Reload";
    /// The link after which the page does not reload itself any more, if scripts do not run.
    stop_reloading = "Do not reload by itself";

    /// The heading of the error page for 404.
    not_found = "There is nothing here";
    /// The text of the error page for 404.
    not_found_text = "The address may be wrong, or what was here has been removed. It may also belong to \
another account.";
    /// The heading of the error page for 409.
    conflict = "That is not possible now";
    /// The text of the error page for 409.
    conflict_text = "It has already ended, or the same is being done already.";
    /// The heading of the error page for 410.
    gone = "There is no result any more";
    /// The text of the error page for 410.
    gone_text = "It has been read already, or is no longer kept.";
    /// The heading of the error page for 429.
    too_many_requests = "Too much at once";
    /// The text of the error page for 429.
    too_many_requests_text = "You have as much under way, or as many results kept, as is allowed. Wait until some of \
it is done or has expired.";
    /// The heading of the error page for 503.
    unavailable = "Very busy at the moment";
    /// The text of the error page for 503.
    unavailable_text = "The server can take on no more work just now.";
    /// The heading of the error page for any other status from 400 to 499.
    refused = "That request was not accepted";
    /// The text of the error page for any other status from 400 to 499.
    refused_text = "Go back and check what you have entered.";
    /// The heading of the error page for any other status.
    broken = "Something went wrong";
    /// The text of the error page for any other status.
    broken_text = "The fault is on our side. Try again later.";
    /// The time until another attempt, with `{seconds}`.
    retry_seconds = "Try again in {seconds} s.";
    /// The time until another attempt, with `{minutes}`, if it is two minutes or more.
    retry_minutes = "Try again in {minutes} min.";
    /// The small text at the bottom of an error page, with `{status}`, the number of the HTTP status.
    error_status = "Error {status}";
}

impl Default for Strings {
    fn default() -> Self {
        Self::new("en")
    }
}
