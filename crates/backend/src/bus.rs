use super::BackendError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::sync::Arc;

/// The port for messages between processes: every listener receives every message.
///
/// # Guarantees of an adapter
///
/// 1. At most once: a message reaches each listener once or not at all. Code that needs more keeps its state in the
///    [`Store`](super::Store) and uses the bus to announce changes.
/// 2. Messages that one caller publishes one after the other arrive in that order at every listener. Messages from two
///    machines may arrive in any order, and the order may differ between listeners.
/// 3. The listeners in the publishing process receive the message like all others.
/// 4. Topics follow the rules of [`check_name`](super::check_name). Topics and payloads arrive unchanged, however the
///    adapter encodes them. An adapter accepts payloads of at least 4 KiB.
/// 5. Buffers are bounded. A listener that falls behind gets [`BusEvent::Lagged`].
///
/// The suite `conformance::bus` checks all guarantees.
pub trait Bus: Send + Sync + 'static {
    /// Sends a message to all listeners, on this machine and on others. The future resolves once the backend has
    /// accepted the message. A message without listeners is not an error.
    ///
    /// If two machines publish at once, both messages reach every listener, in any order.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the message may or may not have been sent.
    ///
    /// # Errors
    ///
    /// [`BackendError::InvalidName`] and [`BackendError::TooLarge`]: the message was not sent. After any other error,
    /// it may or may not have been sent.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Starts to listen to all topics. A process listens once for each capability that it uses, not once for each
    /// waiter.
    ///
    /// When the future resolves, the subscription is active: the stream yields every message whose publication starts
    /// afterwards, on any machine. Each listener receives all messages, on the same machine and on different ones.
    ///
    /// If the connection is lost, the stream ends, possibly after an error. The listener must then listen again and
    /// must assume that it missed messages.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or the stream ends the subscription.
    ///
    /// # Errors
    ///
    /// Fails if the backend cannot be reached.
    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>>;
}

/// The events of a listener.
pub type BusStream = BoxStream<'static, Result<BusEvent, BackendError>>;

/// An event of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusEvent {
    /// A message.
    Message {
        /// The topic of the message.
        topic: Arc<str>,
        /// The content of the message.
        payload: Bytes,
    },
    /// The listener was too slow, and lost at least this many messages.
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
