use super::{
    EARLY, LATE, LEASE, LONG_LEASE, PATIENCE, TOLERANCE, add, add_id, answer, envelope, fresh,
    is_quiet, settle, take,
};
use crate::{Outcome, Queue, Receipt, Taken};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Checks that an envelope is delivered again when its lease ends and not before, and that a lease that has ended can
/// no longer be used.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_leases<Q: Queue>(make: impl AsyncFn() -> Q) {
    let (here, there) = (make().await, make().await);
    let name = fresh("leases");
    add_id(&here, &name, "id").await;

    let asked = Instant::now();
    let first = take(&here, &name, LEASE).await;
    let answered = Instant::now();
    let until = first.leased_until;
    assert!(
        until <= answered + LEASE,
        "`leased_until` is not after the end of the lease"
    );
    assert!(
        until + EARLY >= asked + LEASE,
        "a lease is as long as requested"
    );
    let second = take(&there, &name, LONG_LEASE).await;
    assert!(
        Instant::now() + EARLY >= until,
        "no other call gets an envelope while it is leased"
    );
    assert!(
        answered.elapsed() < LEASE + LATE,
        "an envelope is delivered again when the lease ends"
    );
    assert_eq!((second.id, second.payload), (first.id, first.payload));
    assert!(second.number > first.number, "deliveries are counted");
    assert_ne!(
        second.receipt, first.receipt,
        "each lease has its own receipt"
    );
    refused(&here, &first.receipt, "another worker has the envelope").await;

    // The new lease is unaffected by the refused calls. Renewing can also shorten a lease.
    let renewed = answer("renew", there.renew(&second.receipt, LEASE)).await;
    assert!(renewed, "an active lease can be renewed");
    let ends = Instant::now() + LEASE;
    // A lease that is renewed in time does not end.
    let taking = async { take(&here, &name, LEASE).await };
    let renewing = async {
        // Often, so that a busy machine does not miss the end of the lease.
        for _ in 0..16 {
            sleep(LEASE / 8).await;
            let renewed = answer("renew", there.renew(&second.receipt, LEASE)).await;
            assert!(renewed, "an active lease can be renewed");
        }
    };
    let taking = pin!(taking);
    let taking = match select(taking, pin!(renewing)).await {
        Either::Left(_) => panic!("no other call gets an envelope while its lease is renewed"),
        Either::Right(((), taking)) => taking,
    };
    assert!(ends < Instant::now(), "the first lease would have ended");
    let stopped = Instant::now();
    let third = taking.await;
    let elapsed = stopped.elapsed();
    assert!(
        elapsed + EARLY * 10 >= LEASE,
        "a renewed lease is as long as requested"
    );
    assert!(elapsed < LEASE + LATE, "a lease that is not renewed ends");
    assert!(third.number > second.number, "deliveries are counted");

    // A lease that has ended is lost, even if the envelope has not been taken again.
    sleep_until(third.leased_until + TOLERANCE).await;
    refused(&here, &third.receipt, "the lease has ended").await;
    let fourth = take(&there, &name, LONG_LEASE).await;
    for receipt in [&first.receipt, &second.receipt, &third.receipt] {
        refused(&there, receipt, "another worker has the envelope").await;
    }
    let renewed = answer("renew", there.renew(&fourth.receipt, LEASE)).await;
    assert!(renewed, "an active lease can be renewed");
    let asked = Instant::now();
    let fifth = take(&here, &name, LONG_LEASE).await;
    let elapsed = asked.elapsed();
    assert!(
        elapsed + EARLY * 10 >= LEASE && elapsed < LEASE + LATE,
        "a renewed lease is as long as requested, not {elapsed:?}"
    );
    settle(&here, &fifth, Outcome::Done).await;
    is_quiet(&here, &name, "a done envelope is not delivered again").await;
}

async fn refused(queue: &impl Queue, receipt: &Receipt, why: &str) {
    let retry = Outcome::Retry {
        after: Duration::ZERO,
    };
    for outcome in [Outcome::Done, retry, Outcome::GiveUp] {
        let settled = answer("settle", queue.settle(receipt, outcome)).await;
        assert!(!settled, "a lost lease settles nothing: {why}");
    }
    let renewed = answer("renew", queue.renew(receipt, LEASE)).await;
    assert!(!renewed, "a lost lease cannot be renewed: {why}");
}

/// Checks that an envelope is delivered again after the requested pause.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_retries<Q: Queue>(make: impl AsyncFn() -> Q) {
    let (here, there) = (make().await, make().await);
    let name = fresh("retries");
    add_id(&here, &name, "id").await;
    let mut number = 0;
    for after in [Duration::ZERO, Duration::from_millis(600), LEASE] {
        let taken = take(&here, &name, LONG_LEASE).await;
        assert!(taken.number > number, "deliveries are counted");
        number = taken.number;
        let asked = Instant::now();
        settle(&here, &taken, Outcome::Retry { after }).await;
        let again = answer("settle", here.settle(&taken.receipt, Outcome::Done)).await;
        assert!(!again, "a settled envelope cannot be settled again");
        let taken = take(&there, &name, LONG_LEASE).await;
        let elapsed = asked.elapsed();
        assert!(
            elapsed + EARLY >= after,
            "a delivery after {elapsed:?} is earlier than {after:?}"
        );
        assert!(
            elapsed < after + LATE,
            "a delivery after {elapsed:?} is much later than {after:?}"
        );
        assert!(taken.number > number, "deliveries are counted");
        number = taken.number;
        // The next round takes the envelope again.
        settle(
            &there,
            &taken,
            Outcome::Retry {
                after: Duration::ZERO,
            },
        )
        .await;
    }
    let taken = take(&here, &name, LONG_LEASE).await;
    settle(&here, &taken, Outcome::Done).await;
    is_quiet(&here, &name, "a done envelope is not delivered again").await;
}

/// Checks that no envelope is lost when calls of `take` are dropped.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn queue_dropped_takes<Q: Queue>(make: impl AsyncFn() -> Q) {
    const ENVELOPES: usize = 40;
    let (here, there) = (make().await, make().await);
    let name = fresh("dropped");
    let mut missing = BTreeSet::new();
    for number in 0..ENVELOPES {
        let id = number.to_string();
        missing.insert(id.clone());
        let mut early = there.take(&name, 1, LEASE);
        // Drops the call before its first poll, and at several points afterwards.
        for _ in 0..number % 5 {
            if (&mut early).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if number % 2 == 0 {
            drop(early);
            add(&here, envelope(&name, &id)).await;
        } else {
            add(&here, envelope(&name, &id)).await;
            drop(early);
        }
    }
    // Envelopes that were taken and dropped are delivered again when their leases end.
    let taking = async {
        while !missing.is_empty() {
            let taken = take(&here, &name, LONG_LEASE).await;
            settle(&here, &taken, Outcome::Done).await;
            let Taken { id, .. } = taken;
            assert!(missing.remove(&*id), "`{id}` was done before");
        }
    };
    timeout(PATIENCE, taking)
        .await
        .expect("no envelope is lost");
}
