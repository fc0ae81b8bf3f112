use super::registry::Reader;
use super::{MissingPromiseLayer, Promises};
use std::cell::Cell;
use std::mem::ManuallyDrop;
#[cfg(feature = "fragments")]
use std::sync::Arc;

type Current = ManuallyDrop<Option<Promises>>;

thread_local! {
    // `ManuallyDrop` avoids the registration of a thread-local destructor. There is nothing to drop when a thread
    // ends, because each scope restores the previous value.
    static CURRENT: Cell<Current> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// The promises of the current thread.
impl Promises {
    /// Returns the promises of the request that the current thread is handling.
    ///
    /// `Some` in every call below [`PromiseLayer`](super::PromiseLayer): in the inner service, in functions that it
    /// calls, and in running promises. `None` in other tasks and threads, for example in closures and futures that the
    /// handler passes to `tokio::spawn`, `spawn_blocking` or rayon: use [`scope`](Self::scope) there.
    ///
    /// ```
    /// use tower_promises::Promises;
    ///
    /// /// A function of a template engine.
    /// fn name() -> String {
    ///     let Some(promises) = Promises::current() else {
    ///         return "a guest".into();
    ///     };
    ///     promises.result_or_submit("name", async || "Ferris".to_owned()).unwrap_or_default()
    /// }
    /// # assert_eq!(name(), "a guest");
    /// ```
    #[must_use]
    pub fn current() -> Option<Self> {
        let current = replace(None);
        let promises = current.clone();
        replace(current);
        promises
    }

    /// Like [`current`](Self::current), with an error that names the missing layer.
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

    /// The reader that this handle looks up names for.
    ///
    /// Any handle of the request counts as that of the fragment that the current thread is rendering, because a render
    /// function may use a handle that it has captured.
    #[inline]
    pub(crate) fn reader(&self) -> Reader {
        #[cfg(feature = "fragments")]
        if self.registry.is_rendering() {
            return self.current_reader();
        }
        self.reader
    }

    #[cfg(feature = "fragments")]
    #[cold]
    fn current_reader(&self) -> Reader {
        let current = replace(None);
        let it = current.as_ref();
        let it = it.filter(|it| Arc::ptr_eq(&it.registry, &self.registry));
        let fragment = it.and_then(|it| it.reader.fragment);
        replace(current);
        match fragment {
            Some(number) => self.reader.of_fragment(number),
            None => self.reader,
        }
    }

    /// Runs `f` with this handle as [`Promises::current`].
    ///
    /// ```
    /// use tower_promises::promise::PromiseResults;
    /// use tower_promises::{BoxError, Promises};
    ///
    /// fn title() -> Result<String, BoxError> {
    ///     Ok(Promises::try_current()?.result("title")?)
    /// }
    ///
    /// # fn main() -> Result<(), BoxError> {
    /// let promises = Promises::with_results(PromiseResults::new().value("title", "Tea".to_owned()));
    /// // Another thread has no current promises.
    /// let thread = std::thread::spawn(move || promises.scope(title));
    /// assert_eq!(thread.join().unwrap()?, "Tea");
    /// # Ok(())
    /// # }
    /// ```
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let _scope = enter(self.clone());
        f()
    }
}

/// Restores the previous handle when it is dropped, also when a handler panics.
#[must_use]
pub(super) struct Scope {
    previous: Option<Promises>,
}

/// Restores the previous handle and gives the lent handle back when it is dropped, also when a handler panics.
#[must_use]
pub(super) struct Loan<'a> {
    owner: &'a mut Option<Promises>,
    previous: Option<Promises>,
}

#[inline]
fn enter(promises: Promises) -> Scope {
    Scope {
        previous: replace(Some(promises)),
    }
}

/// Makes the promises of `owner` current until the loan ends, without counting another handle.
#[inline]
pub(super) fn lend(owner: &mut Option<Promises>) -> Loan<'_> {
    Loan {
        previous: replace(owner.take()),
        owner,
    }
}

#[inline]
fn replace(promises: Option<Promises>) -> Option<Promises> {
    ManuallyDrop::into_inner(CURRENT.replace(ManuallyDrop::new(promises)))
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        // The former handle is dropped after the cell is set: its `Drop` may call `Promises::current`.
        drop(replace(self.previous.take()));
    }
}

impl Drop for Loan<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.owner = replace(self.previous.take());
    }
}
