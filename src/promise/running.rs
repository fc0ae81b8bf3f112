use super::error::Failure;
use super::observe::{ObservedGroup, ObservedRequest};
use super::outcome::{Outcome, Work};
use super::registry::{Aftermath, Members, Poller, Registry};
use futures_util::stream::{FuturesUnordered, Stream};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep};

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
///
/// They share one waker. A wake-up polls all promises of the group, which for so few is cheaper than one allocation for
/// each. With any number of groups the cost stays linear.
struct Group {
    registry: Arc<Registry>,
    members: Members,
    observed: ObservedGroup,
    deadline: Option<Pin<Box<Sleep>>>,
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
            let starting = registry.take_starting();
            if let (true, Groups::Many(groups)) = (starting.has_gap, &mut self.groups) {
                // Makes new futures of the groups, because those are polled: a group ends whose promises have ended.
                *groups = mem::take(groups).into_iter().collect();
            }
            #[cfg_attr(
                not(feature = "operations"),
                expect(unused_mut, reason = "only promises of operations limit themselves")
            )]
            let mut members = starting.members;
            #[cfg(feature = "operations")]
            if timeout.is_some() && registry.run().is_some() {
                let others = registry.split_off_limiting_themselves(&mut members);
                self.push(registry, others, None, observed);
            }
            self.push(registry, members, timeout, observed);
            if starting.are_all {
                return;
            }
        }
    }

    fn push(
        &mut self,
        registry: &Arc<Registry>,
        members: Members,
        timeout: Option<Duration>,
        observed: &mut ObservedRequest,
    ) {
        if members.is_empty() {
            return;
        }
        let name = |number| Some((number, registry.key(members.place(number))?));
        let names = || members.numbers().filter_map(name).collect();
        let group = Group {
            registry: Arc::clone(registry),
            members,
            observed: observed.start_promises(members.len(), names),
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
            Groups::One(group) => group.members.len(),
            Groups::Many(groups) => groups.iter().map(|group| group.members.len()).sum(),
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
                    members: mem::take(&mut self.members),
                    observed: mem::take(&mut self.observed),
                    deadline: self.deadline.take(),
                }))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Group {
    fn poll_promises(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.registry
            .poll(&mut self.members, &mut self.observed, cx);
        self.observed.count(self.members.len());
        if self.members.is_empty() {
            return Poll::Ready(());
        }
        if !has_budget_remaining() {
            // A promise that is always ready uses up the budget of the promises behind it, so the next poll begins with
            // another promise.
            self.members.take_turns();
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
        let members = mem::take(&mut self.members);
        for number in members.numbers() {
            let place = members.place(number);
            let aftermath = self.registry.fail(place, failure.clone());
            finish(&mut self.observed, number, aftermath);
        }
    }
}

impl Poller for ObservedGroup {
    fn poll(&mut self, number: usize, work: &mut Work, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.in_scope(number, || work.as_mut().poll(cx))
    }

    fn is_observing(&self) -> bool {
        self.is_interested()
    }

    fn settle(&mut self, number: usize, aftermath: Option<Box<Aftermath>>) {
        match aftermath {
            Some(aftermath) => finish(self, number, *aftermath),
            None => self.end(number, None),
        }
    }
}

fn finish(observed: &mut ObservedGroup, number: usize, aftermath: Aftermath) {
    let failure = aftermath.failure().cloned();
    observed.in_scope(number, || aftermath.finish());
    observed.end(number, failure.as_ref());
}

impl Drop for Group {
    fn drop(&mut self) {
        // The end of the request cancels the promises, but does not end their observation.
        if self.observed.must_end() {
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
