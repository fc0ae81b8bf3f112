use super::error::{Failure, PromiseError, SubmitError};
use super::waiters::Waiters;
use super::{Key, observe};
use crate::panic;
use crate::sync::lock;
use std::any::{Any, TypeId, type_name};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

/// The work of a promise.
pub(super) type Work<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// One promise: its work until it settles, then its outcome.
///
/// User code, that is the work and its `Drop`, never runs while a lock is held.
pub(super) struct Slot<T> {
    key: Key,
    outcome: OnceLock<Result<T, Failure>>,
    progress: Mutex<Progress<T>>,
    has_started: AtomicBool,
    /// The timeout of promises does not apply.
    #[cfg(feature = "operations")]
    limits_itself: bool,
    /// The waiters for the outcome.
    waiters: Waiters,
}

/// Both fields are `None` while the work is being polled, and after the promise has settled.
struct Progress<T> {
    work: Option<Work<T>>,
    /// The waker of the task that polls the work.
    driver: Option<Waker>,
}

impl<T> Slot<T>
where
    T: Send + Sync + 'static,
{
    pub(super) fn new(key: Key, work: Work<T>) -> Self {
        Self {
            key,
            outcome: OnceLock::new(),
            progress: Mutex::new(Progress {
                work: Some(work),
                driver: None,
            }),
            has_started: AtomicBool::new(false),
            #[cfg(feature = "operations")]
            limits_itself: false,
            waiters: Waiters::default(),
        }
    }

    /// Creates a promise that has a limit of its own instead of the timeout of promises.
    #[cfg(feature = "operations")]
    pub(super) fn limiting_itself(key: Key, work: Work<T>) -> Self {
        Self {
            limits_itself: true,
            ..Self::new(key, work)
        }
    }

    pub(super) fn settled(key: Key, outcome: Result<T, Failure>) -> Self {
        Self {
            key,
            outcome: OnceLock::from(outcome),
            progress: Mutex::new(Progress {
                work: None,
                driver: None,
            }),
            has_started: AtomicBool::new(true),
            #[cfg(feature = "operations")]
            limits_itself: false,
            waiters: Waiters::default(),
        }
    }

    /// The outcome for a reader. `None` if the promise is pending.
    pub(super) fn outcome(&self) -> Option<Result<T, PromiseError>>
    where
        T: Clone,
    {
        Some(match self.outcome.get()? {
            Ok(value) => Ok(value.clone()),
            Err(failure) => Err(failure.clone().of(self.key.clone())),
        })
    }

    /// The outcome for a reader that does not wait.
    pub(super) fn read(&self, key: Key) -> Result<T, PromiseError>
    where
        T: Clone,
    {
        let pending = Err(PromiseError::Pending { key });
        self.outcome().unwrap_or(pending)
    }

    pub(super) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Sets the outcome, unless there is one. Returns whether it was set.
    fn settle(&self, outcome: Result<T, Failure>) -> bool {
        if self.outcome.set(outcome).is_err() {
            return false;
        }
        if let Some(Err(failure)) = self.outcome.get() {
            observe::promise_failed(&failure.clone().of(self.key.clone()));
        }
        self.waiters.finish();
        true
    }

    /// Drops unfinished work. A panic in its `Drop` must not prevent other promises from settling.
    fn discard(&self, work: Option<Work<T>>) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(work))) {
            observe::drop_panicked(&self.key, &panic_message(&*panic));
        }
    }
}

/// The type of a value.
#[derive(Clone, Copy)]
pub(super) struct Type {
    id: TypeId,
    name: &'static str,
}

impl Type {
    pub(super) fn of<T: 'static>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: type_name::<T>(),
        }
    }

    pub(super) fn matches(self, other: Self) -> bool {
        self.id == other.id
    }

    /// Checks that the promise has a value of this type.
    #[inline]
    pub(super) fn check(self, slot: &dyn AnySlot) -> Result<(), SubmitError> {
        let found = slot.value_type();
        if self.matches(found) {
            return Ok(());
        }
        Err(SubmitError::WrongType {
            key: slot.key().clone(),
            expected: self.name,
            found: found.name,
        })
    }
}

/// A [`Slot`] of any type.
pub(super) trait AnySlot: Send + Sync {
    fn key(&self) -> &Key;

    fn value_type(&self) -> Type;

    fn is_settled(&self) -> bool;

    /// The error of a settled promise. `None` if the promise has a value or is pending.
    fn failure(&self) -> Option<&Failure>;

    fn has_started(&self) -> bool;

    /// Whether the timeout of promises does not apply.
    #[cfg(feature = "operations")]
    fn limits_itself(&self) -> bool;

    /// Marks the work as started. `false` if it has already started or settled. Only the response future calls it.
    fn start(&self) -> bool;

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Settles the promise with an error and drops the work. `false` if it has already settled.
    fn fail(&self, failure: Failure) -> bool;

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T> AnySlot for Slot<T>
where
    T: Send + Sync + 'static,
{
    fn key(&self) -> &Key {
        &self.key
    }

    fn value_type(&self) -> Type {
        Type::of::<T>()
    }

    fn is_settled(&self) -> bool {
        self.outcome.get().is_some()
    }

    fn failure(&self) -> Option<&Failure> {
        self.outcome.get()?.as_ref().err()
    }

    fn has_started(&self) -> bool {
        self.has_started.load(Ordering::Relaxed)
    }

    #[cfg(feature = "operations")]
    fn limits_itself(&self) -> bool {
        self.limits_itself
    }

    fn start(&self) -> bool {
        // A load and a store are cheaper than a swap, and suffice because there is only one caller.
        let has_started = self.has_started();
        self.has_started.store(true, Ordering::Relaxed);
        !has_started && !self.is_settled()
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_settled() {
            return Poll::Ready(());
        }
        let (work, driver) = {
            let mut progress = lock(&self.progress);
            (progress.work.take(), progress.driver.take())
        };
        let Some(mut work) = work else {
            // Another thread is polling the work. That happens only to promises without a response future. Their
            // pollers are waiters, so `settle` or the other poller's drop wakes this one.
            return Poll::Pending;
        };
        let polled = catch_unwind(AssertUnwindSafe(|| match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => {
                drop(work);
                Ok(outcome)
            }
            Poll::Pending => Err(work),
        }));
        let outcome = match polled {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(work)) => {
                // A waker is user code, so it is cloned without the lock.
                let waker = match driver {
                    Some(driver) if driver.will_wake(cx.waker()) => driver,
                    _ => cx.waker().clone(),
                };
                let mut progress = lock(&self.progress);
                if self.is_settled() {
                    // The promise was cancelled during the poll. Drop the work after the lock is released.
                    drop(progress);
                    self.discard(Some(work));
                    return Poll::Ready(());
                }
                progress.work = Some(work);
                progress.driver = Some(waker);
                return Poll::Pending;
            }
            Err(panic) => Err(Failure::Panicked(panic_message(&*panic))),
        };
        self.settle(outcome);
        Poll::Ready(())
    }

    fn fail(&self, failure: Failure) -> bool {
        if self.is_settled() || !self.settle(Err(failure)) {
            return false;
        }
        let (work, driver) = {
            let mut progress = lock(&self.progress);
            (progress.work.take(), progress.driver.take())
        };
        driver.into_iter().for_each(Waker::wake);
        self.discard(work);
        true
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic::text(panic);
    text.unwrap_or("the panic had no message").into()
}
