//! The current caller and task of the running code.

use super::{Principal, TaskContext, TraceContext};
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The principal and the trace context of a submission.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    pub(super) principal: Option<Principal>,
    pub(super) trace: Option<TraceContext>,
}

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
