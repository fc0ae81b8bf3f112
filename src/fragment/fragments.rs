use super::render::{Attempt, attempt, failed};
use crate::promise::Key;
use crate::promise::registry::{FragmentNumber, PendingFragment};
use crate::{BoxError, Promises};
use std::borrow::Cow;
use std::fmt;

/// A region of a page that may come later, as HTML for the page.
///
/// [`Promises::fragment`] creates it. It is displayed as HTML, so a template must not escape it. A pending fragment is
/// displayed as its fallback between two markers, which have to reach the client unchanged.
///
/// ```
/// use tower_promises::{PromiseError, Promises};
/// use tower_promises::promise::PromiseResults;
///
/// fn page(promises: &Promises) -> String {
///     let price = promises.fragment("price", "…", |promises| {
///         let price: u32 = promises.result_or_submit("price", async || 42)?;
///         Ok::<_, PromiseError>(format!("<b>{price} €</b>"))
///     });
///     format!("<p>Price: {price}</p>")
/// }
///
/// // A test without a server: the promise has settled, or has not.
/// let promises = Promises::with_results(PromiseResults::new().value("price", 42_u32));
/// assert_eq!(page(&promises), "<p>Price: <b>42 €</b></p>");
/// let promises = Promises::with_results(PromiseResults::new());
/// assert!(page(&promises).contains("…"));
/// assert_eq!(promises.keys(), ["price"]);
/// assert!(!promises.will_discard());
/// ```
#[derive(Clone, Debug)]
#[must_use = "a fragment that is not part of the page is never seen"]
pub struct Fragment {
    html: Cow<'static, str>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Rendered,
    /// The fragment follows the response.
    Follows(FragmentNumber),
    /// A further pass renders the fragment.
    Missed,
}

impl Fragment {
    /// Whether the fragment waits for a promise, so that its HTML is its fallback.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        !matches!(self.state, State::Rendered)
    }
}

impl fmt::Display for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            State::Follows(number) => {
                write!(f, "{}{}{}", Start(number), self.html, super::shell::END)
            }
            State::Rendered | State::Missed => f.write_str(&self.html),
        }
    }
}

/// The marker at the beginning of a pending fragment.
struct Start(FragmentNumber);

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}\">", super::shell::START, self.0)
    }
}

/// Pages that begin before they are complete.
impl Promises {
    /// Renders a region of a page that may come later.
    ///
    /// `render` is called at once. If it succeeds, its output is the fragment. If it misses a promise, and
    /// [`FragmentLayer`](super::FragmentLayer) allows the page to stream, the fragment is `fallback`, and the page does
    /// not wait for it: `render` is called again when the promises that it has missed have settled, and its output
    /// follows the page. Otherwise the page waits: the fragment causes a further pass, as a value that is read outside
    /// of fragments does. So a page with fragments also works without the layer, or for clients that need the whole
    /// page.
    ///
    /// `name` appears in logs and traces, never in the page. Two fragments may have the same name. `fallback` is HTML.
    ///
    /// `render` must read promises through the handle that it gets or through [`Promises::current`]. It may return a
    /// placeholder where a promise is missing, which is not shown: a fragment that has missed a promise is pending,
    /// whatever `render` returns. It may create further fragments, which come after this one.
    ///
    /// An error of a fragment that is not pending, and a panic, are logged, and
    /// [`on_error`](super::FragmentLayer::on_error) replaces the fragment. The rest of the page is not affected.
    ///
    /// ```
    /// use tower_promises::{OrPending, PromiseError, Promises};
    ///
    /// # async fn fetch_price() -> u32 { 42 }
    /// fn page(promises: &Promises) -> Result<String, PromiseError> {
    ///     // Outside: the page begins when the title is known.
    ///     let title: String = promises.result_or_submit("title", async || "Tea".to_owned())?;
    ///     // Inside: the page does not wait for the price.
    ///     let price = promises.fragment("price", "<p>…</p>", |promises| {
    ///         let price: u32 = promises.result_or_submit("price", fetch_price)?;
    ///         Ok::<_, PromiseError>(format!("<p>{price} €</p>"))
    ///     });
    ///     Ok(format!("<h1>{title}</h1>{price}"))
    /// }
    /// # let _ = page;
    /// ```
    pub fn fragment<S, E>(
        &self,
        name: impl Into<Key>,
        fallback: impl Into<Cow<'static, str>>,
        render: impl Fn(&Promises) -> Result<S, E> + Send + 'static,
    ) -> Fragment
    where
        S: Into<String>,
        E: Into<BoxError>,
    {
        let name = name.into();
        let render = move |promises: &Promises| render(promises).map(Into::into);
        let attempted = attempt(self, None, &name, &render);
        let (html, state) = match attempted {
            Attempt::Rendered(html) => (html.into(), State::Rendered),
            Attempt::Failed(error) => (failed(self, &error).into(), State::Rendered),
            Attempt::Pending {
                number: Some(number),
                waits,
                parent,
            } => {
                self.registry.keep_fragment(PendingFragment {
                    number,
                    name,
                    render: Box::new(move |registry, reader| {
                        render(&Promises::of_reader(registry, reader)).map_err(Into::into)
                    }),
                    renders: 1,
                    waits,
                    parent,
                });
                (fallback.into(), State::Follows(number))
            }
            Attempt::Pending { number: None, .. } => (fallback.into(), State::Missed),
        };
        Fragment { html, state }
    }
}
