//! For whom the running code works.

use super::{Principal, TaskContext, TraceContext};
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Who has asked for something, and in which trace.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    pub(super) principal: Option<Principal>,
    pub(super) trace: Option<TraceContext>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) caller: Caller,
    /// The task that the code is a part of.
    pub(super) task: Option<TaskContext>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

/// Puts back what was current before, also when the code panics.
struct Entered {
    previous: Option<Arc<Scope>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let previous = self.previous.take();
        // A scope is dropped once the cell is free again: what it holds may ask what is current.
        drop(CURRENT.replace(previous));
    }
}

/// Empty outside of requests and tasks.
pub(super) fn current() -> Arc<Scope> {
    CURRENT.with_borrow(Clone::clone).unwrap_or_default()
}

pub(super) fn enter<R>(scope: &Arc<Scope>, f: impl FnOnce() -> R) -> R {
    let _entered = Entered {
        previous: CURRENT.replace(Some(scope.clone())),
    };
    f()
}

/// Whether this code runs as a part of a [task](super): in its [`run`](super::Task::run) and in what that calls or
/// awaits. `false` in what a task gives to `tokio::spawn` or to another thread.
#[must_use]
pub fn is_task() -> bool {
    CURRENT.with_borrow(|scope| scope.as_ref().is_some_and(|scope| scope.task.is_some()))
}

pin_project! {
    /// A future in its scope.
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
