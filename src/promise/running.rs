use super::error::Failure;
use super::observe::{ObservedPromise, ObservedRequest};
use super::slot::AnySlot;
use futures_util::stream::{FuturesUnordered, Stream};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep};

/// The number of promises that share one waker. A wake-up polls all promises of the group, which for so few is
/// cheaper than one allocation for each. With any number of groups the cost stays linear.
const GROUP: usize = 32;

/// The promises of a request that are running.
#[derive(Default)]
pub(super) struct Running {
    groups: Groups,
}

/// The state without allocations for the usual case: no promises, or few promises that start together.
#[derive(Default)]
enum Groups {
    #[default]
    None,
    One(Group),
    Many(FuturesUnordered<Group>),
}

/// Promises that started together and share a deadline.
#[derive(Default)]
struct Group {
    promises: Vec<RunningPromise>,
    deadline: Option<Pin<Box<Sleep>>>,
}

struct RunningPromise {
    slot: Arc<dyn AnySlot>,
    observed: ObservedPromise,
}

impl Running {
    /// Starts promises, each with the given timeout.
    pub(super) fn start(
        &mut self,
        mut slots: Vec<Arc<dyn AnySlot>>,
        timeout: Option<Duration>,
        observed: &mut ObservedRequest,
    ) {
        #[cfg(feature = "operations")]
        if timeout.is_some() && slots.iter().any(|slot| slot.limits_itself()) {
            let (others, limited) = slots.into_iter().partition(|slot| slot.limits_itself());
            self.start(others, None, observed);
            return self.start(limited, timeout, observed);
        }
        slots.retain(|slot| slot.start());
        if slots.is_empty() {
            return;
        }
        let start = observed.start_promises(slots.len());
        let mut promises = slots.into_iter().map(|slot| RunningPromise {
            observed: start.promise(slot.key()),
            slot,
        });
        while promises.len() > 0 {
            let group = match promises.len() <= GROUP {
                true => promises.by_ref().collect(),
                false => promises.by_ref().take(GROUP).collect(),
            };
            self.push(group, timeout);
        }
    }

    fn push(&mut self, promises: Vec<RunningPromise>, timeout: Option<Duration>) {
        let group = Group {
            promises,
            deadline: timeout.map(|timeout| Box::pin(sleep(timeout))),
        };
        self.groups = match mem::take(&mut self.groups) {
            Groups::None => Groups::One(group),
            Groups::One(first) => Groups::Many([first, group].into_iter().collect()),
            Groups::Many(groups) => {
                groups.push(group);
                Groups::Many(groups)
            }
        };
    }

    /// The number of running promises.
    #[cfg(feature = "operations")]
    pub(super) fn len(&self) -> usize {
        match &self.groups {
            Groups::None => 0,
            Groups::One(group) => group.promises.len(),
            Groups::Many(groups) => groups.iter().map(|group| group.promises.len()).sum(),
        }
    }

    /// Whether no promise is running.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.groups, Groups::None)
    }

    /// Ready when no promise is running.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.groups {
            Groups::None => {}
            Groups::One(group) => ready!(group.poll_promises(cx)),
            Groups::Many(groups) => {
                while let Some(ended) = ready!(Pin::new(&mut *groups).poll_next(cx)) {
                    if let Polled::Exhausted(group) = ended {
                        // The group moves to the end of the queue, so that the next poll begins with another group.
                        groups.push(group);
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
            }
        }
        self.clear();
        Poll::Ready(())
    }

    pub(super) fn clear(&mut self) {
        self.groups = Groups::None;
    }
}

/// The result of polling a group among several.
enum Polled {
    /// All promises of the group have settled.
    Settled,
    /// The promises have used up the budget of tokio's cooperative scheduling for this poll.
    Exhausted(Group),
}

impl Future for Group {
    type Output = Polled;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        let has_budget = has_budget_remaining();
        match self.poll_promises(cx) {
            Poll::Ready(()) => Poll::Ready(Polled::Settled),
            Poll::Pending if has_budget && !has_budget_remaining() => {
                Poll::Ready(Polled::Exhausted(mem::take(&mut *self)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Group {
    fn poll_promises(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.promises
            .retain(|promise| promise.poll(cx).is_pending());
        if self.promises.is_empty() {
            return Poll::Ready(());
        }
        if !has_budget_remaining() {
            // A promise that is always ready uses up the budget of the promises behind it, so the next poll begins with
            // another promise.
            self.promises.rotate_left(1);
        }
        if let Some(deadline) = &mut self.deadline {
            ready!(poll_deadline(deadline.as_mut(), cx));
            for promise in self.promises.drain(..) {
                let slot = &promise.slot;
                promise.observed.in_scope(|| slot.fail(Failure::TimedOut));
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl RunningPromise {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.observed.in_scope(|| self.slot.poll(cx))
    }
}

impl Drop for RunningPromise {
    fn drop(&mut self) {
        if self.observed.is_wanted() {
            // A promise that has not settled is cancelled now, so that it has an outcome.
            self.observed
                .in_scope(|| self.slot.fail(Failure::Cancelled));
            self.observed.end(self.slot.key(), self.slot.failure());
        }
    }
}

/// Polls a timer after the work that the timer limits. Work that uses up the budget of tokio's cooperative
/// scheduling in every poll would keep the timer from ever completing, so the clock is checked first.
pub(crate) fn poll_deadline(deadline: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    if Instant::now() >= deadline.deadline() {
        return Poll::Ready(());
    }
    deadline.poll(cx)
}
