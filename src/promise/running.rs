use super::error::Failure;
use super::observe::{ObservedPromise, ObservedRequest};
use super::outcome::{Outcome, Work};
use super::registry::{Aftermath, Member, Registry};
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

/// Promises that started together and share a deadline. Their work stays in the registry, where any thread can cancel
/// it.
struct Group {
    registry: Arc<Registry>,
    promises: Vec<RunningPromise>,
    deadline: Option<Pin<Box<Sleep>>>,
}

struct RunningPromise {
    place: usize,
    /// `None` if no observer is interested, and after the promise has settled.
    observed: Option<ObservedPromise>,
}

impl Running {
    /// Starts promises, each with the given timeout.
    pub(super) fn start(
        &mut self,
        registry: &Arc<Registry>,
        timeout: Option<Duration>,
        observed: &mut ObservedRequest,
    ) {
        loop {
            let new = |place| RunningPromise {
                place,
                observed: None,
            };
            let (mut promises, has_gap) = registry.take_starting(GROUP, new);
            if let (true, Groups::Many(groups)) = (has_gap, &mut self.groups) {
                // Makes new futures of the groups, because those are polled: a group ends whose promises have ended.
                *groups = mem::take(groups).into_iter().collect();
            }
            let count = promises.len();
            if count > 0 {
                if let Some(start) = observed.start_promises(count) {
                    for promise in &mut promises {
                        let key = registry.key(promise.place);
                        promise.observed = key.map(|key| start.promise(&key));
                    }
                }
                #[cfg(feature = "operations")]
                if timeout.is_some() && registry.run().is_some() {
                    let limits_itself = |it: &RunningPromise| registry.limits_itself(it.place);
                    let others;
                    (others, promises) = promises.into_iter().partition(limits_itself);
                    self.push(registry, others, None);
                }
                self.push(registry, promises, timeout);
            }
            if count < GROUP {
                return;
            }
        }
    }

    fn push(
        &mut self,
        registry: &Arc<Registry>,
        promises: Vec<RunningPromise>,
        timeout: Option<Duration>,
    ) {
        if promises.is_empty() {
            return;
        }
        let group = Group {
            registry: Arc::clone(registry),
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
                let had_budget = has_budget_remaining();
                while let Some(ended) = ready!(Pin::new(&mut *groups).poll_next(cx)) {
                    if let Polled::Exhausted(group) = ended {
                        // The group moves to the end of the queue, so that the next poll begins with another group.
                        groups.push(group);
                    }
                    // Without budget the remaining groups would be polled in vain.
                    if had_budget && !has_budget_remaining() {
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
        let had_budget = has_budget_remaining();
        match self.poll_promises(cx) {
            Poll::Ready(()) => Poll::Ready(Polled::Settled),
            Poll::Pending if had_budget && !has_budget_remaining() => {
                Poll::Ready(Polled::Exhausted(Self {
                    registry: Arc::clone(&self.registry),
                    promises: mem::take(&mut self.promises),
                    deadline: self.deadline.take(),
                }))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Group {
    fn poll_promises(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let pending = self.registry.poll(&mut self.promises, cx);
        self.promises.truncate(pending);
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
            self.fail(&Failure::TimedOut);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Fails all promises that have not settled.
    fn fail(&mut self, failure: &Failure) {
        for mut promise in mem::take(&mut self.promises) {
            let aftermath = self.registry.fail(promise.place, failure.clone());
            promise.finish(aftermath);
        }
    }
}

impl Member for RunningPromise {
    fn place(&self) -> usize {
        self.place
    }

    fn poll(&mut self, work: &mut Work, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.in_scope(|| work.as_mut().poll(cx))
    }

    fn is_observed(&self) -> bool {
        self.observed.is_some()
    }

    fn settle(&mut self, aftermath: Option<Box<Aftermath>>) {
        match aftermath {
            Some(aftermath) => self.finish(*aftermath),
            None => self.end(None),
        }
    }
}

impl RunningPromise {
    /// Runs a closure in the span of the promise.
    fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.observed {
            Some(observed) => observed.in_scope(f),
            None => f(),
        }
    }

    fn finish(&mut self, aftermath: Aftermath) {
        let failure = match self.observed {
            Some(_) => aftermath.failure().cloned(),
            None => None,
        };
        self.in_scope(|| aftermath.finish());
        self.end(failure.as_ref());
    }

    /// Ends the observation, unless it has ended.
    fn end(&mut self, failure: Option<&Failure>) {
        if let Some(observed) = self.observed.take() {
            observed.end(failure);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Promises that are observed have to end. The end of the request cancels the others.
        if self
            .promises
            .iter()
            .any(|promise| promise.observed.is_some())
        {
            self.fail(&Failure::Cancelled);
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
