use super::error::{Failure, PromiseError};
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
/// User code, which is the work and its `Drop`, never runs while a lock is held.
pub(super) struct Slot<T> {
    key: Key,
    outcome: OnceLock<Result<T, Failure>>,
    progress: Mutex<Progress<T>>,
    has_started: AtomicBool,
    /// Who awaits the outcome.
    waiters: Waiters,
}

/// Both are `None` while it is being polled, and once it has settled.
struct Progress<T> {
    work: Option<Work<T>>,
    /// Who polls the work.
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
            waiters: Waiters::default(),
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
            waiters: Waiters::default(),
        }
    }

    /// What a reader gets, once it has settled.
    pub(super) fn outcome(&self) -> Option<Result<T, PromiseError>>
    where
        T: Clone,
    {
        Some(match self.outcome.get()? {
            Ok(value) => Ok(value.clone()),
            Err(failure) => Err(failure.clone().of(self.key.clone())),
        })
    }

    pub(super) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// The first outcome stands.
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

    /// Drops work that is not done. A panic here must not keep others from being settled.
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
    pub(super) name: &'static str,
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

    /// Whether the promise has a value of this type.
    pub(super) fn check(self, slot: &dyn AnySlot) -> Result<(), PromiseError> {
        match self.matches(slot.value_type()) {
            true => Ok(()),
            false => Err(self.mismatch(slot.key().clone(), slot.value_type())),
        }
    }

    pub(super) fn mismatch(self, key: Key, found: Self) -> PromiseError {
        PromiseError::WrongType {
            key,
            expected: self.name,
            found: found.name,
        }
    }
}

/// A [`Slot`] of any type.
pub(super) trait AnySlot: Send + Sync {
    fn key(&self) -> &Key;

    fn value_type(&self) -> Type;

    fn is_settled(&self) -> bool;

    /// Why it has no value, once it has settled.
    #[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
    fn failure(&self) -> Option<&Failure>;

    /// Marks the work as started. `false` if it was already, or has settled. Called by the response future only.
    fn start(&self) -> bool;

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// A promise like this one that has timed out before it began.
    fn timed_out(&self) -> Arc<dyn AnySlot>;

    /// Settles with an error, if it has not settled, and drops the work.
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

    #[cfg(any(feature = "metrics", feature = "server-timing", feature = "tracing"))]
    fn failure(&self) -> Option<&Failure> {
        self.outcome.get()?.as_ref().err()
    }

    fn start(&self) -> bool {
        // No swap, which costs more: there is one caller.
        let has_started = self.has_started.load(Ordering::Relaxed);
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
            // Another thread is polling it this moment. Only undriven promises are polled by several, who
            // are waiters too and so will learn what comes of it.
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
                let mut progress = lock(&self.progress);
                if self.is_settled() {
                    // Cancelled while it was being polled: dropped once the lock is released.
                    drop(progress);
                    self.discard(Some(work));
                    return Poll::Ready(());
                }
                progress.work = Some(work);
                progress.driver = match driver {
                    Some(driver) if driver.will_wake(cx.waker()) => Some(driver),
                    _ => Some(cx.waker().clone()),
                };
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

    fn timed_out(&self) -> Arc<dyn AnySlot> {
        let failure = Err(Failure::TimedOut);
        Arc::new(Self::settled(self.key.clone(), failure))
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic::text(panic);
    text.unwrap_or("the panic had no message").into()
}
