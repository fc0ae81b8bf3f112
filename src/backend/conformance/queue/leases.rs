use super::{
    EARLY, LATE, LEASE, LONG_LEASE, PATIENCE, TOLERANCE, add, add_id, answer, envelope, fresh,
    is_quiet, settle, take,
};
use crate::backend::{Outcome, Queue, Receipt, Taken};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// That an envelope comes back when its lease ends and not before, and that a lease that has ended has no power
/// any more.
///
/// # Panics
///
/// Where a guarantee does not hold.
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
        "a lease is in force as long as it says"
    );
    assert!(
        until + EARLY >= asked + LEASE,
        "a lease is as long as asked for"
    );
    let second = take(&there, &name, LEASE).await;
    assert!(
        Instant::now() + EARLY >= until,
        "nobody gets it while it is leased"
    );
    assert!(
        answered.elapsed() < LEASE + LATE,
        "it is delivered again when the lease ends"
    );
    assert_eq!((second.id, second.payload), (first.id, first.payload));
    assert!(second.number > first.number, "deliveries are counted");
    assert_ne!(
        second.receipt, first.receipt,
        "each lease has its own receipt"
    );
    refused(&here, &first.receipt, "another one has it").await;

    // The new one is as it was.
    let renewed = answer("renew", there.renew(&second.receipt, LEASE)).await;
    assert!(renewed, "a lease that is in force can be renewed");
    let ends = Instant::now() + LEASE;
    // Renewed in time, it stays.
    let taking = async { take(&here, &name, LEASE).await };
    let renewing = async {
        for _ in 0..9 {
            sleep(LEASE / 3).await;
            let renewed = answer("renew", there.renew(&second.receipt, LEASE)).await;
            assert!(renewed, "a lease that is in force can be renewed");
        }
    };
    let taking = pin!(taking);
    let taking = match select(taking, pin!(renewing)).await {
        Either::Left(_) => panic!("nobody gets it while its lease is renewed"),
        Either::Right(((), taking)) => taking,
    };
    assert!(ends < Instant::now(), "the first lease would have ended");
    let stopped = Instant::now();
    let third = taking.await;
    let elapsed = stopped.elapsed();
    assert!(
        elapsed + EARLY * 10 >= LEASE,
        "a renewed lease is as long as asked for"
    );
    assert!(elapsed < LEASE + LATE, "a lease that is not renewed ends");
    assert!(third.number > second.number, "deliveries are counted");

    // A lease that has ended is lost, even if nobody has taken the envelope yet.
    sleep_until(third.leased_until + TOLERANCE).await;
    refused(&here, &third.receipt, "its time is over").await;
    let fourth = take(&there, &name, LONG_LEASE).await;
    for receipt in [&first.receipt, &second.receipt, &third.receipt] {
        refused(&there, receipt, "another one has it").await;
    }
    // To renew can shorten a lease, too.
    let renewed = answer("renew", there.renew(&fourth.receipt, LEASE)).await;
    assert!(renewed, "a lease that is in force can be renewed");
    let asked = Instant::now();
    let fifth = take(&here, &name, LONG_LEASE).await;
    let elapsed = asked.elapsed();
    assert!(
        elapsed + EARLY * 10 >= LEASE && elapsed < LEASE + LATE,
        "a lease lasts as long as it was renewed for, not {elapsed:?}"
    );
    settle(&here, &fifth, Outcome::Done).await;
    is_quiet(&here, &name, "what is done is not delivered again").await;
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

/// That an envelope is delivered again after the time that its worker asks for.
///
/// # Panics
///
/// Where a guarantee does not hold.
pub async fn queue_retries<Q: Queue>(make: impl AsyncFn() -> Q) {
    let (here, there) = (make().await, make().await);
    let name = fresh("retries");
    add_id(&here, &name, "id").await;
    let mut number = 0;
    for after in [Duration::ZERO, Duration::from_millis(600), LEASE * 2] {
        let taken = take(&here, &name, LEASE).await;
        assert!(taken.number > number, "deliveries are counted");
        number = taken.number;
        let asked = Instant::now();
        settle(&here, &taken, Outcome::Retry { after }).await;
        let again = answer("settle", here.settle(&taken.receipt, Outcome::Done)).await;
        assert!(!again, "what is settled cannot be settled again");
        let taken = take(&there, &name, LEASE).await;
        let elapsed = asked.elapsed();
        assert!(
            elapsed + EARLY >= after,
            "{elapsed:?} is not before {after:?}"
        );
        assert!(
            elapsed < after + LATE,
            "{elapsed:?} is long after {after:?}"
        );
        assert!(taken.number > number, "deliveries are counted");
        number = taken.number;
        // The next round takes it again.
        settle(
            &there,
            &taken,
            Outcome::Retry {
                after: Duration::ZERO,
            },
        )
        .await;
    }
    let taken = take(&here, &name, LEASE).await;
    settle(&here, &taken, Outcome::Done).await;
    is_quiet(&here, &name, "what is done is not delivered again").await;
}

/// That nothing is lost when those who take are dropped.
///
/// # Panics
///
/// Where a guarantee does not hold.
pub async fn queue_dropped_takes<Q: Queue>(make: impl AsyncFn() -> Q) {
    const ENVELOPES: usize = 40;
    let (here, there) = (make().await, make().await);
    let name = fresh("dropped");
    let mut missing = BTreeSet::new();
    for number in 0..ENVELOPES {
        let id = number.to_string();
        missing.insert(id.clone());
        let mut early = there.take(&name, 1, LEASE);
        // Before it has begun, and at several points of its way.
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
    // What was taken and dropped comes back when its lease ends.
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
