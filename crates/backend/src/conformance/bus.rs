use super::{PATIENCE, answer, awkward_names, invalid_names, refusal};
use crate::{BackendError, Bus, BusEvent, BusStream};
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The pause without events after which a listener has received everything.
const QUIET: Duration = Duration::from_secs(1);

/// The number of messages that a listener does not read in [`bus_lag`].
const FLOOD: usize = 5000;

/// Checks all guarantees of [`Bus`]. Each call of `make` connects to the same bus.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn bus<B: Bus>(make: impl AsyncFn() -> B) {
    bus_listeners(&make).await;
    bus_order(&make).await;
    bus_limits(&make).await;
    bus_lag(&make).await;
}

/// Checks that each message reaches every listener on every machine exactly once, from the moment at which the listener
/// is subscribed.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn bus_listeners<B: Bus>(make: impl AsyncFn() -> B) {
    let (here, there) = (make().await, make().await);
    publish(&here, "conformance/early", "no listeners").await;

    let mut listeners = [
        answer("listen", here.listen()).await,
        answer("listen", here.listen()).await,
        answer("listen", there.listen()).await,
    ];
    let messages = [
        (&here, "conformance/a", "1"),
        (&there, "conformance/b", "2"),
        (&here, "conformance/a", ""),
    ];
    for (publisher, topic, payload) in messages {
        publish(publisher, topic, payload).await;
        for (number, listener) in listeners.iter_mut().enumerate() {
            let heard = hear(listener).await;
            let expected = (topic.into(), Bytes::from_static(payload.as_bytes()));
            assert_eq!(
                heard,
                Some(expected),
                "listener {number} receives each message that is published after `listen` has resolved"
            );
        }
    }
    for listener in &mut listeners {
        let heard = hear_until_quiet(listener).await;
        assert_eq!(heard, Ok(vec![]), "a message arrives only once");
    }

    let [dropped, mut listener, _] = listeners;
    drop(dropped);
    publish(&there, "conformance/c", "3").await;
    let heard = hear(&mut listener).await.is_some();
    assert!(heard, "a listener does not depend on other listeners");
}

/// Checks that the messages of one publisher arrive in order, and that no message of concurrent publishers is lost.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn bus_order<B: Bus>(make: impl AsyncFn() -> B) {
    const PUBLISHERS: u8 = 8;
    const MESSAGES: u8 = 20;

    let mut listener = answer("listen", make().await.listen()).await;
    let mut publishers = Vec::new();
    for publisher in 0..PUBLISHERS {
        let bus = make().await;
        publishers.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                let payload = Bytes::copy_from_slice(&[publisher, number]);
                answer("publish", bus.publish("conformance/order", payload)).await;
            }
        }));
    }
    let mut next = [0; PUBLISHERS as usize];
    for _ in 0..usize::from(PUBLISHERS) * usize::from(MESSAGES) {
        let (_, payload) = hear(&mut listener)
            .await
            .expect("no message is lost while the listener keeps up");
        let next = &mut next[usize::from(payload[0])];
        assert_eq!(
            payload[1], *next,
            "messages of one publisher arrive in order, and no message is lost"
        );
        *next += 1;
    }
    for publisher in publishers {
        publisher.await.expect("a publisher does not fail");
    }
}

/// Checks that topics and payloads arrive unchanged, and that invalid topics are refused.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn bus_limits<B: Bus>(make: impl AsyncFn() -> B) {
    let bus = make().await;
    let mut listener = answer("listen", bus.listen()).await;
    for topic in invalid_names() {
        let error = refusal("an invalid topic", bus.publish(&topic, Bytes::new())).await;
        assert!(
            matches!(error, BackendError::InvalidName { .. }),
            "an invalid topic is `InvalidName`, not {error:?}"
        );
    }
    let all_bytes: Bytes = (0..=u8::MAX).cycle().take(4096).collect();
    for topic in awkward_names() {
        answer("publish", bus.publish(&topic, all_bytes.clone())).await;
        let heard = hear(&mut listener).await;
        let expected = Some((topic.as_str().into(), all_bytes.clone()));
        assert_eq!(heard, expected, "topic and payload arrive unchanged");
    }
}

/// Checks that a listener that falls behind is notified.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn bus_lag<B: Bus>(make: impl AsyncFn() -> B) {
    let (bus, other) = (make().await, make().await);
    let mut slow = answer("listen", other.listen()).await;
    for _ in 0..FLOOD {
        publish(&bus, "conformance/lag", "x").await;
    }
    match hear_until_quiet(&mut slow).await {
        Ok(heard) => assert_eq!(
            heard.len(),
            FLOOD,
            "a listener that has lost messages gets `Lagged`"
        ),
        Err(missed) => assert!(missed > 0, "`Lagged` counts at least one message"),
    }
    publish(&bus, "conformance/lag", "later").await;
    let heard = hear(&mut slow).await.map(|(_, payload)| payload);
    assert_eq!(
        heard.as_deref(),
        Some(&b"later"[..]),
        "a slow listener continues"
    );
}

async fn publish(bus: &impl Bus, topic: &str, payload: &'static str) {
    answer("publish", bus.publish(topic, payload.into())).await;
}

/// Returns the next message, or `None` after a timeout.
async fn hear(listener: &mut BusStream) -> Option<(Arc<str>, Bytes)> {
    match timeout(PATIENCE, listener.next()).await {
        Ok(Some(Ok(BusEvent::Message { topic, payload }))) => Some((topic, payload)),
        Ok(event) => panic!("a listener that keeps up gets messages, not {event:?}"),
        Err(_) => None,
    }
}

/// Returns the payloads of all remaining messages. The error is the number of lost messages.
async fn hear_until_quiet(listener: &mut BusStream) -> Result<Vec<Bytes>, u64> {
    let (mut heard, mut missed) = (Vec::new(), None);
    while let Ok(event) = timeout(QUIET, listener.next()).await {
        match event {
            Some(Ok(BusEvent::Message { payload, .. })) => heard.push(payload),
            Some(Ok(BusEvent::Lagged(number))) => *missed.get_or_insert(0) += number,
            Some(Err(error)) => panic!("a slow listener is not an error: {error:?}"),
            None => panic!("a slow listener is not disconnected"),
        }
    }
    missed.map_or(Ok(heard), Err)
}
