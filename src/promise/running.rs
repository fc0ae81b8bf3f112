use super::error::Failure;
use super::slot::AnySlot;
use futures_util::stream::{FuturesUnordered, Stream};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How many promises share one waker. All of a group are polled when one of them wakes, which for so
/// few is cheaper than an allocation for each; any number of groups stays linear.
const GROUP: usize = 32;

/// The promises of a request that are running.
pub(super) struct Running {
    /// Made when there is a promise to run, which most requests never have.
    groups: Option<FuturesUnordered<Group>>,
    timeout: Option<Duration>,
}

pin_project! {
    /// Promises that were started together, so that they have a deadline in common.
    struct Group {
        slots: Vec<Arc<dyn AnySlot>>,
        #[pin]
        deadline: Option<Sleep>,
    }
}

impl Running {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self {
            groups: None,
            timeout,
        }
    }

    pub(super) fn start(&mut self, mut slots: Vec<Arc<dyn AnySlot>>) {
        slots.retain(|slot| slot.start());
        if slots.len() <= GROUP {
            self.push(slots);
            return;
        }
        let mut slots = slots.into_iter();
        while slots.len() > 0 {
            self.push(slots.by_ref().take(GROUP).collect());
        }
    }

    fn push(&mut self, slots: Vec<Arc<dyn AnySlot>>) {
        if !slots.is_empty() {
            let deadline = self.timeout.map(tokio::time::sleep);
            let groups = self.groups.get_or_insert_default();
            groups.push(Group { slots, deadline });
        }
    }

    /// Ready when nothing is running.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(groups) = &mut self.groups {
            while let Some(()) = ready!(Pin::new(&mut *groups).poll_next(cx)) {}
        }
        Poll::Ready(())
    }

    pub(super) fn clear(&mut self) {
        self.groups = None;
    }
}

impl Future for Group {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.slots.retain(|slot| slot.poll(cx).is_pending());
        if this.slots.is_empty() {
            return Poll::Ready(());
        }
        if let Some(deadline) = this.deadline.as_pin_mut() {
            ready!(poll_deadline(deadline, cx));
            for slot in this.slots.drain(..) {
                slot.fail(Failure::TimedOut);
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Polls a timer after the work that it limits. Work that is never done with what tokio's cooperative
/// scheduling lets a task do at a time leaves nothing for the timer, so the clock is asked first.
pub(super) fn poll_deadline(deadline: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    if Instant::now() >= deadline.deadline() {
        return Poll::Ready(());
    }
    deadline.poll(cx)
}
