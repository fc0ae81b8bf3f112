use super::error::PromiseError;
use super::registry::Registry;
use super::slot::{AnySlot, Slot};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// One of those who await a promise. Counts as such until it is dropped.
pub(super) struct Waiter<'a, T>
where
    T: Send + Sync + 'static,
{
    registry: &'a Registry,
    slot: Arc<Slot<T>>,
    number: Option<u64>,
    has_read: bool,
}

impl<'a, T> Waiter<'a, T>
where
    T: Send + Sync + 'static,
{
    pub(super) fn new(registry: &'a Registry, slot: Arc<Slot<T>>) -> Self {
        Self {
            registry,
            slot,
            number: None,
            has_read: false,
        }
    }
}

impl<T> Future for Waiter<'_, T>
where
    T: Clone + Send + Sync + 'static,
{
    type Output = Result<T, PromiseError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Some(outcome) = this.slot.outcome() {
                this.has_read = true;
                return Poll::Ready(outcome);
            }
            if !this.slot.waiters().register(&mut this.number, cx.waker()) {
                continue;
            }
            // After the registration: another waiter may be polling the work this moment, and if that one gives
            // up then, it wakes those who are registered.
            if this.registry.is_driven() || this.slot.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<T> Drop for Waiter<'_, T>
where
    T: Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.registry.leave(&self.slot, self.number, self.has_read);
    }
}
