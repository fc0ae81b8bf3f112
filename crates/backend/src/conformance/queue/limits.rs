use super::super::{awkward_names, invalid_names, refusal};
use super::{
    LATE, LEASE, LONG_LEASE, PATIENCE, RIVALS, add, add_id, answer, envelope, fresh, is_quiet,
    settle, take,
};
use crate::{BackendError, Enqueued, Envelope, Outcome, Priority, Queue};
use bytes::Bytes;
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The payload size that every adapter must accept.
const PAYLOAD: usize = 64 * 1024;

/// Checks that another machine takes each envelope unchanged and only once, whatever its names are.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_deliveries<Q: Queue>(make: impl AsyncFn() -> Q) {
    let (here, there) = (make().await, make().await);
    let name = fresh("deliveries");
    let all_bytes: Bytes = (0..=u8::MAX).cycle().take(PAYLOAD).collect();
    for (id, payload) in [("large", all_bytes), ("empty", Bytes::new())] {
        add(&here, Envelope::new(&*name, id, payload.clone())).await;
        let taken = take(&there, &name, LONG_LEASE).await;
        assert_eq!(
            (&*taken.id, taken.number),
            (id, 1),
            "the first delivery has number 1"
        );
        assert_eq!(taken.payload, payload, "a payload arrives unchanged");
        settle(&there, &taken, Outcome::Done).await;
        for queue in [&here, &there] {
            let again = answer("settle", queue.settle(&taken.receipt, Outcome::Done)).await;
            assert!(!again, "a settled envelope cannot be settled again");
            let renewed = answer("renew", queue.renew(&taken.receipt, LEASE)).await;
            assert!(!renewed, "a settled envelope cannot be renewed");
        }
    }
    is_quiet(&here, &name, "a done envelope is not delivered again").await;

    // An envelope wakes a worker in the other process that is already waiting.
    let ((), taken) = futures_util::future::join(
        async {
            is_quiet(&here, &fresh("other"), "the queue is empty").await;
            add_id(&here, &name, "wake").await;
        },
        take(&there, &name, LONG_LEASE),
    )
    .await;
    settle(&here, &taken, Outcome::GiveUp).await;
    is_quiet(
        &there,
        &name,
        "an envelope that was given up is not delivered again",
    )
    .await;

    // Uses a new queue: a dropped take in the old one could return an envelope out of order.
    let (ids, name) = (awkward_names(), fresh("names"));
    let start = fresh("");
    for id in &ids {
        add_id(&here, &format!("{start}{}", shorten(id)), id).await;
        add_id(&here, &name, id).await;
    }
    for id in &ids {
        for queue in [&format!("{start}{}", shorten(id)), &name] {
            let taken = take(&there, queue, LONG_LEASE).await;
            assert_eq!(*taken.id, **id, "queue names and ids arrive unchanged");
            assert_eq!(taken.payload, id.as_bytes());
            settle(&there, &taken, Outcome::Done).await;
        }
    }
}

/// Shortens a name, so that a prefix fits before it.
fn shorten(name: &str) -> &str {
    let end = name
        .char_indices()
        .nth(900)
        .map_or(name.len(), |(end, _)| end);
    &name[..end]
}

/// Checks that an id is delivered as one envelope: before and after its end, and if many callers enqueue it at once.
/// Run it on a multi-threaded runtime as well.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_deduplication<Q: Queue>(make: impl AsyncFn() -> Q) {
    let (here, there) = (make().await, make().await);
    let (name, other) = (fresh("deduplication"), fresh("deduplication"));
    let again = async |when: &str| {
        for queue in [&here, &there] {
            let second = Envelope::new(&*name, "id", "second".into());
            let added = answer("enqueue", queue.enqueue(second)).await;
            assert_eq!(added, Enqueued::Duplicate, "the id is known {when}");
        }
    };
    add_id(&here, &name, "id").await;
    again("while it is queued").await;
    add_id(&there, &other, "id").await;
    let taken = take(&there, &name, LONG_LEASE).await;
    assert_eq!(
        taken.payload, "id",
        "a duplicate does not replace the first"
    );
    again("while it is leased").await;
    settle(
        &there,
        &taken,
        Outcome::Retry {
            after: Duration::ZERO,
        },
    )
    .await;
    again("while it waits for the next delivery").await;
    let taken = take(&here, &name, LONG_LEASE).await;
    settle(&here, &taken, Outcome::Done).await;
    again("when it has ended").await;
    is_quiet(&here, &name, "duplicates are not delivered").await;
    let taken = take(&here, &other, LONG_LEASE).await;
    settle(&here, &taken, Outcome::Done).await;

    for round in 0..10 {
        let mut rivals = Vec::new();
        for rival in 0..RIVALS {
            let queue = make().await;
            let id = format!("race {round}");
            let payload = Bytes::from(rival.to_string());
            let envelope = Envelope::new(&*name, id, payload.clone());
            rivals.push(tokio::spawn(async move {
                (answer("enqueue", queue.enqueue(envelope)).await, payload)
            }));
        }
        let mut added = Vec::new();
        for rival in rivals {
            match rival.await.expect("a rival does not fail") {
                (Enqueued::Added, payload) => added.push(payload),
                (Enqueued::Duplicate, _) => {}
            }
        }
        assert_eq!(
            added.len(),
            1,
            "exactly one of many concurrent calls adds the envelope"
        );
        let taken = take(&here, &name, LONG_LEASE).await;
        assert_eq!(
            taken.payload, added[0],
            "the envelope is that of the caller that added it"
        );
        settle(&here, &taken, Outcome::Done).await;
    }
    is_quiet(&here, &name, "each id is delivered once").await;
}

/// Checks that envelopes are taken in order, by priority and after their delay, each by one worker. Run it on a
/// multi-threaded runtime as well.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_order<Q: Queue>(make: impl AsyncFn() -> Q) {
    const ENVELOPES: usize = 30;
    let (here, there) = (make().await, make().await);
    let name = fresh("order");
    for number in 0..ENVELOPES {
        add_id(&here, &name, &number.to_string()).await;
    }
    let mut taken = Vec::new();
    while taken.len() < ENVELOPES {
        let some = answer("take", there.take(&name, 7, LONG_LEASE)).await;
        assert!((1..=7).contains(&some.len()), "`take` respects its limit");
        taken.extend(some);
    }
    for (number, taken) in taken.iter().enumerate() {
        assert_eq!(
            *taken.id,
            *number.to_string(),
            "envelopes are taken in order"
        );
        settle(&there, taken, Outcome::Done).await;
    }

    if here.capabilities().priorities {
        let priorities = [Priority::Low, Priority::Normal, Priority::High];
        for (number, priority) in priorities.iter().cycle().take(9).enumerate() {
            let id = format!("{priority:?} {number}");
            add(&here, envelope(&name, &id).priority(*priority)).await;
        }
        let expected = [
            "High 2", "High 5", "High 8", "Normal 1", "Normal 4", "Normal 7",
        ];
        for id in expected.into_iter().chain(["Low 0", "Low 3", "Low 6"]) {
            let taken = take(&there, &name, LONG_LEASE).await;
            assert_eq!(&*taken.id, id, "a higher priority is taken first");
            settle(&there, &taken, Outcome::Done).await;
        }
    } else {
        let urgent = envelope(&name, "urgent").priority(Priority::High);
        let error = refusal("a priority", here.enqueue(urgent)).await;
        let is_unsupported = matches!(error, BackendError::Unsupported { .. });
        assert!(
            is_unsupported,
            "priorities are `Unsupported`, not {error:?}"
        );
    }

    if here.capabilities().delays {
        let (started, delay) = (Instant::now(), Duration::from_secs(1));
        add(&here, envelope(&name, "late").delay(delay)).await;
        add(&here, envelope(&name, "later").delay(delay * 2)).await;
        add_id(&here, &name, "now").await;
        for (id, delay) in [
            ("now", Duration::ZERO),
            ("late", delay),
            ("later", delay * 2),
        ] {
            let taken = take(&there, &name, LONG_LEASE).await;
            assert_eq!(&*taken.id, id, "a delayed envelope does not delay others");
            let elapsed = started.elapsed() + super::EARLY;
            assert!(elapsed >= delay, "a delay is not shorter than requested");
            assert!(
                elapsed < delay + LATE,
                "a delay is not much longer than requested"
            );
            settle(&there, &taken, Outcome::Done).await;
        }
    } else {
        let late = envelope(&name, "late").delay(LEASE);
        let error = refusal("a delay", here.enqueue(late)).await;
        let is_unsupported = matches!(error, BackendError::Unsupported { .. });
        assert!(is_unsupported, "delays are `Unsupported`, not {error:?}");
    }

    let ids: Vec<_> = (0..RIVALS)
        .map(|number| format!("rival {number}"))
        .collect();
    join_all(ids.iter().map(|id| add_id(&here, &name, id))).await;
    let mut rivals = Vec::new();
    for _ in 0..RIVALS {
        let (queue, name) = (make().await, name.clone());
        rivals.push(tokio::spawn(async move {
            let taken = take(&queue, &name, LONG_LEASE).await;
            settle(&queue, &taken, Outcome::Done).await;
            taken.id
        }));
    }
    let mut seen = Vec::new();
    for rival in rivals {
        let rival = timeout(PATIENCE, rival)
            .await
            .expect("there is an envelope for each caller");
        seen.push(rival.expect("a rival does not fail"));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(
        seen.len(),
        RIVALS,
        "concurrent takes get different envelopes"
    );
}

/// Checks that invalid names and sizes are refused.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_limits<Q: Queue>(make: impl AsyncFn() -> Q) {
    let (queue, name) = (make().await, fresh("limits"));
    for invalid in invalid_names() {
        let errors = [
            refusal("an invalid queue", queue.enqueue(envelope(&invalid, "id"))).await,
            refusal("an invalid id", queue.enqueue(envelope(&name, &invalid))).await,
            refusal("an invalid queue", queue.take(&invalid, 1, LEASE)).await,
        ];
        for error in errors {
            let is_invalid = matches!(error, BackendError::InvalidName { .. });
            assert!(
                is_invalid,
                "an invalid name is `InvalidName`, not {error:?}"
            );
        }
    }
    let limit = queue.capabilities().max_payload_bytes;
    assert!(limit >= PAYLOAD, "an adapter accepts payloads of 64 KiB");
    let large = Envelope::new(&*name, "large", vec![0; limit + 1].into());
    let error = refusal("a payload that is too large", queue.enqueue(large)).await;
    let is_too_large = matches!(
        error,
        BackendError::TooLarge { size, limit: allowed } if size == limit + 1 && allowed == limit
    );
    assert!(
        is_too_large,
        "a payload that is too large is `TooLarge`, not {error:?}"
    );
    is_quiet(&queue, &name, "a refused envelope is not delivered").await;

    // `Duration::MAX` must work like any other duration.
    add_id(&queue, &name, "forever").await;
    let taken = answer("take", queue.take(&name, 0, Duration::MAX)).await;
    let [taken] = &taken[..] else {
        panic!("`take` returns at least one envelope, not {taken:?}");
    };
    assert!(
        taken.leased_until > Instant::now() + LONG_LEASE,
        "a lease is as long as requested"
    );
    let renewed = answer("renew", queue.renew(&taken.receipt, Duration::MAX)).await;
    assert!(renewed, "an active lease can be renewed");
    is_quiet(&queue, &name, "the envelope is leased").await;
    let retry = Outcome::Retry {
        after: Duration::MAX,
    };
    settle(&queue, taken, retry).await;
    if queue.capabilities().delays {
        let late = envelope(&name, "late").delay(Duration::MAX);
        add(&queue, late).await;
    }
    is_quiet(&queue, &name, "the envelopes are delayed").await;
}
