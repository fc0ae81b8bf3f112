use super::registry::{self, Reader, Registry};
use super::settings::Settings;
use super::{AnyKey, PromiseResults};
#[cfg(doc)]
use super::{PromiseError, SubmitError};
use crate::body::Detach;
use http::Extensions;
use std::fmt;
use std::sync::Arc;

/// The promises of the request being handled.
///
/// [`PromiseLayer`](super::PromiseLayer) inserts a handle into the extensions of every request. A handle is cheap to
/// clone, and its clones share one set of promises.
///
/// [`Promises::current`] finds the handle in code without access to the request, for example deep in a template.
///
/// # Reading and asking
///
/// ```
/// use tower_promises::{OrPending, PromiseError, Promises};
///
/// # async fn fetch_name(id: u32) -> String { format!("user {id}") }
/// fn greeting(promises: &Promises, id: u32) -> Result<String, PromiseError> {
///     let name: String = promises
///         // First pass: submits the promise and returns `Err(Pending)`. Next pass: returns the name.
///         .result_or_submit(format!("name:{id}"), || fetch_name(id))
///         // Any error except `Pending` ends the handler here.
///         .or_pending(String::new())?;
///     Ok(format!("Hello, {name}!"))
/// }
/// # let _ = greeting;
/// ```
///
/// # Lifetime
///
/// A handle belongs to a pass. Once the next pass has begun, the handle can still read settled promises, but cannot
/// submit. All promises and their values are dropped when the request ends, for example because its response was
/// published. From then on reading through a handle returns [`PromiseError::Ended`] and submitting returns
/// [`SubmitError::Ended`]; neither panics.
///
/// # Testing a handler
///
/// ```
/// use tower_promises::Promises;
/// use tower_promises::promise::PromiseResults;
///
/// fn title(promises: &Promises) -> String {
///     let unread: u32 = promises.result_or_submit("unread", async || 0).unwrap_or_default();
///     format!("({unread}) Inbox")
/// }
///
/// // The promises that the handler requests:
/// let promises = Promises::with_results(PromiseResults::new());
/// title(&promises);
/// assert_eq!(promises.keys(), ["unread"]);
/// assert!(promises.will_discard());
///
/// // The response that the handler builds from the results:
/// let promises = Promises::with_results(PromiseResults::new().value("unread", 7_u32));
/// assert_eq!(title(&promises), "(7) Inbox");
/// ```
#[derive(Clone)]
pub struct Promises {
    pub(crate) registry: Arc<Registry>,
    pub(crate) reader: Reader,
}

/// Creation of handles.
impl Promises {
    /// Creates the handle for the first pass of a request with these extensions.
    pub(super) fn open(
        settings: registry::Settings,
        extensions: &Extensions,
        body: Option<Arc<dyn Detach>>,
    ) -> Self {
        let outer = extensions.get::<Self>().cloned();
        let outer = outer.map(|outer| outer.registry);
        #[cfg_attr(
            not(feature = "operations"),
            expect(unused_mut, reason = "a run needs operations")
        )]
        let mut registry = Registry::new(settings, true, outer, body);
        #[cfg(feature = "operations")]
        registry.set_run(extensions.get().cloned());
        Self {
            registry: Arc::new(registry),
            reader: Reader::of_pass(1),
        }
    }

    /// The handle for the next pass. `None` if a promise has yet to start.
    pub(super) fn next_pass(&self) -> Option<Self> {
        Some(Self {
            reader: Reader::of_pass(self.registry.begin_pass()?),
            registry: Arc::clone(&self.registry),
        })
    }

    /// A handle for this reader.
    #[cfg(feature = "fragments")]
    pub(crate) fn of_reader(registry: &Arc<Registry>, reader: Reader) -> Self {
        Self {
            registry: Arc::clone(registry),
            reader,
        }
    }

    /// A handle for work that the registry owns, which would otherwise be a reference cycle.
    #[cfg(any(feature = "blocking", feature = "loader"))]
    pub(super) fn downgrade(&self) -> WeakPromises {
        WeakPromises {
            registry: Arc::downgrade(&self.registry),
            reader: self.reader,
        }
    }

    /// Creates a handle for testing a handler without a server.
    ///
    /// Nothing runs its promises: a [submitted](Self::submit) promise stays pending, which [`keys`](Self::keys) and
    /// [`will_discard`](Self::will_discard) show. Only [`resolve`](Self::resolve) runs a promise, while it is awaited.
    ///
    /// [Testing](Promises#testing-a-handler) has an example.
    #[must_use]
    pub fn with_results(results: PromiseResults) -> Self {
        #[cfg_attr(not(feature = "fragments"), expect(unused_mut, reason = "see below"))]
        let mut settings = Settings::default().registry();
        #[cfg(feature = "fragments")]
        {
            settings.may_stream = true;
        }
        #[cfg(feature = "operations")]
        let mut results = results;
        #[cfg(feature = "operations")]
        let run = results.take_run();
        #[cfg_attr(
            not(feature = "operations"),
            expect(unused_mut, reason = "a run needs operations")
        )]
        let mut registry = Registry::with_settled(settings, results.into_settled());
        #[cfg(feature = "operations")]
        registry.set_run(run);
        Self {
            reader: Reader::of_pass(registry.pass()),
            registry: Arc::new(registry),
        }
    }
}

/// Cancelling, clearing and publishing.
impl Promises {
    /// Cancels a pending promise. Its future is dropped, unpolled if it has not started, and its outcome is
    /// [`PromiseError::Cancelled`]. A cancelled promise causes no further pass.
    ///
    /// Returns whether there was a pending promise with this name.
    ///
    /// ```
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// let promises = Promises::with_results(Default::default());
    /// promises.submit("advertisement", async { "buy tea" })?;
    /// // Another component does not want it.
    /// assert!(promises.cancel("advertisement"));
    /// let cancelled = promises.result::<&str>("advertisement");
    /// assert!(matches!(cancelled, Err(PromiseError::Cancelled { .. })));
    /// # Ok::<(), tower_promises::promise::SubmitError>(())
    /// ```
    pub fn cancel(&self, key: impl AnyKey) -> bool {
        self.registry.cancel(&key.into_any_key())
    }

    /// Removes a settled promise, so that its name can be submitted again.
    ///
    /// Returns whether there was a settled promise with this name. A handler that clears and submits a name in every
    /// pass runs until [`max_passes`](super::PromiseLayer::max_passes) is reached.
    ///
    /// ```
    /// use tower_promises::Promises;
    /// use tower_promises::promise::{PromiseResults, SubmitError};
    ///
    /// let promises = Promises::with_results(PromiseResults::new().failed::<u32>("price", "no connection"));
    /// assert!(matches!(promises.submit("price", async { 42_u32 }), Err(SubmitError::AlreadyResolved { .. })));
    /// // Another attempt, in the next pass.
    /// assert!(promises.clear("price"));
    /// promises.submit("price", async { 42_u32 })?;
    /// assert!(promises.result::<u32>("price").unwrap_err().is_pending());
    /// # Ok::<(), SubmitError>(())
    /// ```
    pub fn clear(&self, key: impl AnyKey) -> bool {
        self.registry.clear(&key.into_any_key())
    }

    /// Removes a promise in any state: [`cancel`](Self::cancel), then [`clear`](Self::clear).
    ///
    /// Returns whether there was a promise with this name.
    pub fn reset(&self, key: impl AnyKey) -> bool {
        self.registry.reset(&key.into_any_key())
    }

    /// Publishes the response of this pass even if promises are pending. Promises that have not settled at the end of
    /// the pass are dropped.
    ///
    /// ```
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// # async fn fetch_name() -> String { "Ferris".into() }
    /// fn page(promises: &Promises, is_preview: bool) -> Result<String, PromiseError> {
    ///     let name = promises.result_or_submit("name", fetch_name);
    ///     if is_preview {
    ///         // Does not wait for the name.
    ///         promises.publish();
    ///         return Ok("Hello!".into());
    ///     }
    ///     Ok(format!("Hello, {}!", name?))
    /// }
    /// # let promises = Promises::with_results(Default::default());
    /// # assert_eq!(page(&promises, true).unwrap(), "Hello!");
    /// # assert!(!promises.will_discard());
    /// ```
    pub fn publish(&self) {
        self.registry.publish(self.reader.pass);
    }

    /// Runs `undo` if the response of this pass is not published: when the response is discarded, when the request is
    /// rejected, and when the client disconnects or the handler panics before there is a response. If that has already
    /// happened, `undo` runs at once.
    ///
    /// Undo functions run where the response future is polled or dropped, the last registered first. They must not
    /// block. A panic in an undo function is logged and does not prevent the others from running.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// # async fn fetch_name() -> String { "Ferris".into() }
    /// fn page(promises: &Promises, views: &Arc<AtomicU64>) -> Result<String, PromiseError> {
    ///     let view = views.fetch_add(1, Ordering::Relaxed);
    ///     let views = views.clone();
    ///     // The next pass counts again.
    ///     promises.on_discard(move || {
    ///         views.fetch_sub(1, Ordering::Relaxed);
    ///     });
    ///     let name = promises.result_or_submit("name", fetch_name)?;
    ///     Ok(format!("Hello, {name}! This is view {view}."))
    /// }
    /// # let _ = page;
    /// ```
    pub fn on_discard(&self, undo: impl FnOnce() + Send + 'static) {
        self.registry.on_discard(self.reader.pass, Box::new(undo));
    }
}

impl fmt::Debug for Promises {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promises")
            .field("pass", &self.reader.pass)
            .field("keys", &self.keys())
            .finish()
    }
}

/// A handle that does not keep the promises alive.
#[cfg(any(feature = "blocking", feature = "loader"))]
pub(super) struct WeakPromises {
    registry: std::sync::Weak<Registry>,
    reader: Reader,
}

#[cfg(any(feature = "blocking", feature = "loader"))]
impl WeakPromises {
    pub(super) fn upgrade(&self) -> Option<Promises> {
        Some(Promises {
            registry: self.registry.upgrade()?,
            reader: self.reader,
        })
    }
}
