use super::registry::{self, Registry};
use super::settings::Settings;
use super::{AnyKey, MissingPromiseLayer, PromiseResults, current};
#[cfg(doc)]
use super::{PromiseError, SubmitError};
use crate::body::Detach;
use std::fmt;
use std::sync::Arc;

/// The promises of the request being handled.
///
/// [`PromiseLayer`](super::PromiseLayer) puts one into the extensions of every request. It is cheap to
/// clone, and a clone is the same set of promises.
///
/// Where the request is out of reach, deep in a template or a component, [`Promises::current`] finds it.
///
/// # Reading and asking
///
/// ```
/// use tower_promises::promise::{OrPending, PromiseError, Promises};
///
/// # async fn fetch_name(id: u32) -> String { format!("user {id}") }
/// fn greeting(promises: &Promises, id: u32) -> Result<String, PromiseError> {
///     let name: String = promises
///         // The first time it is asked for: submitted, and `Err(Pending)`. In the next pass: the name.
///         .result_or_submit(format!("name:{id}"), || fetch_name(id))
///         // Any other error ends the handler here.
///         .or_pending(String::new())?;
///     Ok(format!("Hello, {name}!"))
/// }
/// # let _ = greeting;
/// ```
///
/// # Lifetime
///
/// A handle belongs to a pass. Once the next pass has begun it can still read what has settled, but not
/// submit. Once the request has ended, because its response was published for example, all promises
/// and their values are dropped: reading through a handle that somebody has kept is
/// [`PromiseError::Ended`], submitting is [`SubmitError::Ended`], and neither panics.
///
/// # Testing a handler
///
/// ```
/// use tower_promises::promise::{PromiseResults, Promises};
///
/// fn title(promises: &Promises) -> String {
///     let unread: u32 = promises.result_or_submit("unread", async || 0).unwrap_or_default();
///     format!("({unread}) Inbox")
/// }
///
/// // What it asks for:
/// let promises = Promises::with_results(PromiseResults::new());
/// title(&promises);
/// assert_eq!(promises.keys(), ["unread"]);
/// assert!(promises.will_discard());
///
/// // What it does with the answer:
/// let promises = Promises::with_results(PromiseResults::new().value("unread", 7_u32));
/// assert_eq!(title(&promises), "(7) Inbox");
/// ```
#[derive(Clone)]
pub struct Promises {
    pub(super) registry: Arc<Registry>,
    pub(super) pass: usize,
}

/// Where the request and its handles come from.
impl Promises {
    pub(super) fn open(
        settings: registry::Settings,
        outer: Option<Self>,
        body: Option<Arc<dyn Detach>>,
    ) -> Self {
        let outer = outer.map(|outer| outer.registry);
        Self {
            registry: Arc::new(Registry::new(settings, true, outer, body)),
            pass: 1,
        }
    }

    /// The handle for the next pass, unless a promise is still to start.
    pub(super) fn next_pass(&self) -> Option<Self> {
        Some(Self {
            pass: self.registry.begin_pass()?,
            registry: Arc::clone(&self.registry),
        })
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// For work that is kept by the registry itself.
    #[cfg(any(feature = "blocking", feature = "loader"))]
    pub(super) fn downgrade(&self) -> WeakPromises {
        WeakPromises {
            registry: Arc::downgrade(&self.registry),
            pass: self.pass,
        }
    }

    /// The promises of the request that this thread is handling right now.
    ///
    /// `Some` wherever [`PromiseLayer`](super::PromiseLayer) is up the call stack: in the inner service,
    /// in what it calls, and in promises as they run. `None` in other tasks and threads, so not in what
    /// the handler gives to `tokio::spawn`, `spawn_blocking` or rayon: use [`scope`](Self::scope) there.
    #[must_use]
    pub fn current() -> Option<Self> {
        current::get()
    }

    /// [`current`](Self::current), with an error that says which layer is missing.
    ///
    /// ```
    /// use tower_promises::{BoxError, Promises};
    ///
    /// fn greeting() -> Result<String, BoxError> {
    ///     let promises = Promises::try_current()?;
    ///     Ok(promises.result_or_submit("name", async || "Ferris".to_owned())?)
    /// }
    /// # assert!(greeting().unwrap_err().to_string().contains("`PromiseLayer`"));
    /// ```
    ///
    /// # Errors
    ///
    /// [`MissingPromiseLayer`] where [`current`](Self::current) is `None`.
    pub fn try_current() -> Result<Self, MissingPromiseLayer> {
        Self::current().ok_or(MissingPromiseLayer)
    }

    /// Runs `f` with this handle as [`Promises::current`].
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let _scope = current::enter(self.clone());
        f()
    }

    /// A handle for testing a handler without a server. It is not run by anything: what is
    /// [submitted](Self::submit) to it stays pending, which shows in [`keys`](Self::keys) and
    /// [`will_discard`](Self::will_discard). Only [`resolve`](Self::resolve) runs promises, where it is awaited.
    #[must_use]
    pub fn with_results(results: PromiseResults) -> Self {
        let settings = Settings::default().registry();
        let registry = Registry::with_settled(settings, results.into_slots());
        Self {
            pass: registry.pass(),
            registry: Arc::new(registry),
        }
    }
}

/// Cancelling, clearing and publishing.
impl Promises {
    /// Cancels a pending promise: its future is dropped, unpolled if it has not started, and its outcome is
    /// [`PromiseError::Cancelled`]. It asks for no further pass.
    ///
    /// Returns whether there was a pending promise of this name.
    pub fn cancel(&self, key: impl AnyKey) -> bool {
        self.registry.cancel(&key.into_any_key())
    }

    /// Forgets a settled promise, so that its name can be submitted again.
    ///
    /// Returns whether there was a settled promise of this name. Clearing and submitting in every pass
    /// never ends before [`max_passes`](super::PromiseLayer::max_passes).
    pub fn clear(&self, key: impl AnyKey) -> bool {
        self.registry.clear(&key.into_any_key())
    }

    /// Forgets a promise whatever its state: [`cancel`](Self::cancel), then [`clear`](Self::clear).
    ///
    /// Returns whether there was a promise of this name.
    pub fn reset(&self, key: impl AnyKey) -> bool {
        self.registry.reset(&key.into_any_key())
    }

    /// Publishes the response of this pass, whatever is pending. Promises that have not settled by the
    /// end of the pass are dropped.
    pub fn publish(&self) {
        self.registry.publish(self.pass);
    }

    /// Runs `undo` if the response of this pass is not published: when it is discarded, when the request is
    /// rejected, and when the client goes away or the handler panics before there is a response.
    ///
    /// Undo work runs where the response future runs, the last registered first. It must not block. One
    /// that panics is logged and does not keep the others from running.
    pub fn on_discard(&self, undo: impl FnOnce() + Send + 'static) {
        self.registry.on_discard(self.pass, Box::new(undo));
    }
}

impl fmt::Debug for Promises {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promises")
            .field("pass", &self.pass)
            .field("keys", &self.keys())
            .finish()
    }
}

/// A handle that does not keep the promises alive.
#[cfg(any(feature = "blocking", feature = "loader"))]
pub(super) struct WeakPromises {
    registry: std::sync::Weak<Registry>,
    pass: usize,
}

#[cfg(any(feature = "blocking", feature = "loader"))]
impl WeakPromises {
    pub(super) fn upgrade(&self) -> Option<Promises> {
        Some(Promises {
            registry: self.registry.upgrade()?,
            pass: self.pass,
        })
    }
}
