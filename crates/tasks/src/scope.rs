//! The current caller and task of the running code.

use super::caller::Caller;
use super::{Principal, TaskContext, Tasks, TraceContext};
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) caller: Caller,
    /// The task that the code runs in.
    pub(super) task: Option<TaskContext>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

/// Guard that restores the previous scope, also after a panic.
struct Entered {
    previous: Option<Arc<Scope>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.previous.take();
        // Dropped after the cell is free, because its destructor may read the current scope.
        drop(CURRENT.replace(previous));
    }
}

/// Returns the current scope. It is empty outside of requests and tasks.
pub(super) fn current() -> Arc<Scope> {
    CURRENT.with_borrow(Clone::clone).unwrap_or_default()
}

pub(super) fn enter<R>(scope: &Arc<Scope>, f: impl FnOnce() -> R) -> R {
    let _entered = Entered {
        previous: CURRENT.replace(Some(scope.clone())),
    };
    f()
}

/// Whether the calling code runs in a [task](super): in its [`run`](super::Task::run) function, or in code that `run`
/// calls or awaits. `false` in code that a task gives to `tokio::spawn` or to another thread.
#[must_use]
pub fn is_task() -> bool {
    CURRENT.with_borrow(|scope| scope.as_ref().is_some_and(|scope| scope.task.is_some()))
}

pin_project! {
    /// A future that is polled in its scope.
    #[derive(Debug)]
    pub(super) struct Scoped<F> {
        #[pin]
        future: F,
        scope: Arc<Scope>,
    }
}

impl<F> Scoped<F> {
    pub(super) fn new(scope: Arc<Scope>, future: F) -> Self {
        Self { future, scope }
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        enter(this.scope, || this.future.poll(cx))
    }
}

impl Principal {
    /// Returns the principal of the running code: the one that [`TaskLayer`](super::TaskLayer) has found in the
    /// request, or the one that submitted the task.
    ///
    /// `None` if there is no principal. Code in `tokio::spawn` and in other threads has none either; use
    /// [`scope`](Self::scope) there.
    #[must_use]
    pub fn current() -> Option<Self> {
        current().caller.principal.clone()
    }

    /// Runs a future with this principal as the [current](Self::current) one.
    ///
    /// ```
    /// use tower_promises_tasks::Principal;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let clean_up = async { Principal::current().map(|principal| principal.to_string()) };
    /// let ran_as = Principal::new("janitor").scope(clean_up).await;
    /// assert_eq!(ran_as.as_deref(), Some("janitor"));
    /// assert_eq!(Principal::current(), None);
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        let mut scope = Scope::clone(&current());
        scope.caller.principal = Some(self);
        Scoped::new(Arc::new(scope), future)
    }
}

impl TraceContext {
    /// Returns the trace context of the running code: that of the request, or of the request that submitted the task.
    /// `None` in code that runs in `tokio::spawn` or in another thread.
    #[must_use]
    pub fn current() -> Option<Self> {
        current().caller.trace.clone()
    }
}

impl TaskContext {
    /// Returns the context of the task that the calling code runs in, also in nested synchronous code. `None` outside
    /// of a task, where [`is_task`](super::is_task) is `false`.
    #[must_use]
    pub fn current() -> Option<Self> {
        current().task.clone()
    }
}

impl Tasks {
    pub(super) fn caller(&self) -> Caller {
        match &self.caller {
            Some(caller) => caller.clone(),
            None => current().caller.clone(),
        }
    }

    /// Returns the principal that this handle submits as: the principal of the request that the handle was given to, or
    /// the [current](Principal::current) one. `None` if there is neither.
    #[must_use]
    pub fn principal(&self) -> Option<Principal> {
        self.caller().principal
    }

    /// Returns the trace context that this handle submits with.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.caller().trace
    }
}
