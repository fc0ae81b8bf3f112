use super::SignalError;
use super::instance::Instance;
use super::metrics::{self, WaitOutcome};
use super::observe;
use super::waiters::Parcel;
use pin_project_lite::pin_project;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_promises_backend::kit::metrics::Timed;

pin_project! {
    /// Future returned by [`Signals::wait`](super::Signals::wait). It resolves to the value of a signal.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future unsubscribes at once. A value of [`send_one`](super::Signals::send_one) that the future has
    /// received but not returned goes to the next waiter in this process, if there is one. So does a value that is not
    /// a `T`.
    ///
    /// # Panics
    ///
    /// Panics if it is polled after completion. With a [`timeout`](Self::timeout), the runtime that polls it needs
    /// timers.
    #[must_use = "futures do nothing unless polled"]
    pub struct Wait<T> {
        state: State,
        timeout: Option<Timeout>,
        #[pin]
        sleep: Option<Sleep>,
        value: PhantomData<fn() -> T>,
    }
}

#[derive(Clone, Copy)]
struct Timeout {
    after: Duration,
    /// `None` means no deadline.
    deadline: Option<Instant>,
}

enum State {
    /// Subscribed, but not polled yet.
    Created(Subscription),
    /// The listening task is running.
    Waiting(Subscription),
    Refused(SignalError),
    Done,
}

/// A subscription that ends on drop.
struct Subscription {
    instance: Arc<Instance>,
    name: Arc<str>,
    id: u64,
    receiver: oneshot::Receiver<Parcel>,
    timed: Timed<'static>,
}

impl<T> Wait<T> {
    pub(super) fn new(instance: &Arc<Instance>, name: Arc<str>) -> Self {
        let state = match instance.shared.waiters.subscribe(&name) {
            Ok((id, receiver)) => {
                // If there is no runtime yet, the first poll starts the task.
                let _ = instance.start();
                State::Created(Subscription {
                    instance: instance.clone(),
                    name,
                    id,
                    receiver,
                    timed: metrics::wait(),
                })
            }
            Err(limit) => {
                metrics::refused();
                State::Refused(SignalError::TooManyWaiters { name, limit })
            }
        };
        Self::in_state(state)
    }

    pub(super) fn refused(error: SignalError) -> Self {
        Self::in_state(State::Refused(error))
    }

    fn in_state(state: State) -> Self {
        Self {
            state,
            timeout: None,
            sleep: None,
            value: PhantomData,
        }
    }

    /// Sets a timeout, which starts now. Without a value by then, the wait fails with [`SignalError::TimedOut`]. By
    /// default there is no timeout. A value that has arrived when the time is over is still returned.
    pub fn timeout(mut self, duration: Duration) -> Self {
        self.timeout = Some(Timeout {
            after: duration,
            deadline: Instant::now().checked_add(duration),
        });
        self
    }
}

impl<T: DeserializeOwned> Future for Wait<T> {
    type Output = Result<T, SignalError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let State::Created(_) = this.state {
            if let State::Created(subscription) = mem::replace(this.state, State::Done) {
                *this.state = match subscription.instance.start() {
                    Ok(()) => State::Waiting(subscription),
                    Err(_) => State::Refused(SignalError::NoRuntime),
                };
            }
        }
        let subscription = match this.state {
            State::Waiting(subscription) => subscription,
            State::Refused(_) => match mem::replace(this.state, State::Done) {
                State::Refused(error) => return Poll::Ready(Err(error)),
                _ => unreachable!("it was refused"),
            },
            State::Created(_) | State::Done => panic!("`Wait` was polled after it was ready"),
        };

        let result = if let Poll::Ready(received) = Pin::new(&mut subscription.receiver).poll(cx) {
            let parcel = received.expect("a waiter is served before it is forgotten");
            subscription.open(parcel)
        } else {
            let Some(timeout) = this.timeout else {
                return Poll::Pending;
            };
            let Some(deadline) = timeout.deadline else {
                return Poll::Pending;
            };
            if this.sleep.is_none() {
                this.sleep.set(Some(sleep_until(deadline)));
            }
            let sleep = this.sleep.as_mut().as_pin_mut();
            if sleep.is_some_and(|sleep| sleep.poll(cx).is_pending()) {
                return Poll::Pending;
            }
            // Closed before the last look, so that a sender no longer counts this waiter and no value is lost.
            subscription.receiver.close();
            match subscription.receiver.try_recv() {
                Ok(parcel) => subscription.open(parcel),
                Err(_) => {
                    subscription.timed.ends(WaitOutcome::TimedOut as usize);
                    Err(SignalError::TimedOut {
                        name: subscription.name.clone(),
                        after: timeout.after,
                    })
                }
            }
        };
        *this.state = State::Done;
        this.sleep.set(None);
        Poll::Ready(result)
    }
}

impl<T> fmt::Debug for Wait<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.state {
            State::Created(subscription) | State::Waiting(subscription) => Some(&subscription.name),
            State::Refused(_) | State::Done => None,
        };
        f.debug_struct("Wait")
            .field("name", &name)
            .field("type", &type_name::<T>())
            .field("timeout", &self.timeout.map(|timeout| timeout.after))
            .finish_non_exhaustive()
    }
}

impl Subscription {
    /// Deserialises the value. If it was sent to this waiter only and cannot be read, passes it to the next waiter.
    fn open<T: DeserializeOwned>(&self, parcel: Parcel) -> Result<T, SignalError> {
        self.timed.ends(WaitOutcome::Received as usize);
        serde_json::from_slice(&parcel.value).map_err(|error| {
            self.timed.ends(WaitOutcome::WrongType as usize);
            let expected = type_name::<T>();
            observe::wrong_type(&self.name, expected, &error);
            if parcel.only_one {
                let waiters = &self.instance.shared.waiters;
                waiters.deliver_to_one(&self.name, parcel.value);
            }
            SignalError::WrongType {
                name: self.name.clone(),
                expected,
                error: Arc::new(error),
            }
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let waiters = &self.instance.shared.waiters;
        waiters.unsubscribe(&self.name, self.id);
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(parcel) if parcel.only_one => {
                waiters.deliver_to_one(&self.name, parcel.value);
            }
            _ => {}
        }
    }
}
