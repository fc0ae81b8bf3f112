use super::BackendError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::sync::Arc;

/// The port for messages between processes: every listener hears everything.
///
/// # What an adapter guarantees
///
/// 1. At most once: a message reaches each listener once or not at all. Whoever needs more keeps the truth
///    in the [`Store`](super::Store), and uses the bus to say that it has changed.
/// 2. Messages that one caller publishes one after the other arrive in that order at every listener.
///    Messages of two machines may arrive in any order, at two listeners also in two.
/// 3. The listeners of the process that publishes hear the message like all others.
/// 4. Topics follow the rules of [`check_name`](super::check_name) and arrive as they were sent, whatever the
///    adapter makes of them on the way. So do payloads; an adapter takes at least 4 KiB.
/// 5. Nothing is buffered without bound. Who falls behind is [told](BusEvent::Lagged).
///
/// The suite `conformance::bus` checks all of it.
pub trait Bus: Send + Sync + 'static {
    /// Sends a message to everybody who listens, on this machine and on others, and resolves once the
    /// backend has accepted it. That nobody listens is no error.
    ///
    /// When two machines publish at once, both messages reach every listener, in any order.
    ///
    /// Cancel safety: dropped before it resolves, the message may or may not have been sent.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] and [`BackendError::TooLarge`] say that the message cannot be sent;
    /// with any other error it may or may not have been.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Starts to listen to all topics. A process does so once for each capability that it uses, not once
    /// for each waiter.
    ///
    /// When the future resolves, the subscription is in force: the stream yields every message that any
    /// machine starts to publish from then on. When two machines listen at once, or one does twice, each hears
    /// all messages: listeners do not take them from each other.
    ///
    /// The stream ends, or yields an error and then ends, when the connection is lost. The listener then
    /// listens again and takes it that it has missed messages.
    ///
    /// Cancel safety: dropping the future or the stream ends the subscription.
    ///
    /// # Errors
    ///
    /// Where the backend cannot be reached.
    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>>;
}

/// What a listener hears.
pub type BusStream = BoxStream<'static, Result<BusEvent, BackendError>>;

/// What happens to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusEvent {
    /// A message.
    Message {
        /// The topic it was published to.
        topic: Arc<str>,
        /// Its content.
        payload: Bytes,
    },
    /// The listener was too slow, and at least so many messages have been lost.
    Lagged(u64),
}

impl<B: Bus + ?Sized> Bus for Arc<B> {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        (**self).publish(topic, payload)
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        (**self).listen()
    }
}
