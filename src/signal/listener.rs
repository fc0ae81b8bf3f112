//! The task that hears what other processes say.

use super::family::Core;
use super::message::{self, Message};
use super::observe;
use crate::backend::backoff::Backoff;
use crate::backend::{BackendError, BusEvent, CompareAndSet};
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// The pause before a latch that could not be read is read again.
const LATCH_PAUSE: Duration = Duration::from_secs(1);

/// How many questions the store is asked at the same time, for latches and for claims each.
const MAX_QUESTIONS: usize = 64;

/// How long a claim is kept: longer than a message can be on its way.
const CLAIM_TIME_TO_LIVE: Duration = Duration::from_secs(5 * 60);

/// Listens until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    /// The task also ends when its runtime does.
    struct Stop<'a>(&'a Core);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.listening.send_replace(false);
        }
    }

    let _stop = Stop(&core);
    future::join(listen(&core), read_latches(&core)).await;
}

async fn listen(core: &Arc<Core>) {
    let mut backoff = Backoff::of_listener();
    // Outlives a subscription: a claim that was granted is to be delivered.
    let mut claims = JoinSet::new();
    loop {
        let started = Instant::now();
        let error = subscription(core, &mut claims).await;
        core.listening.send_replace(false);
        let pause = backoff.pause_after(started.elapsed());
        observe::bus_lost(error.as_ref(), pause);
        sleep(pause).await;
    }
}

/// Listens until the bus fails.
async fn subscription(core: &Arc<Core>, claims: &mut JoinSet<()>) -> Option<BackendError> {
    let mut events = match core.in_time(core.backend.bus().listen()).await {
        Ok(events) => events,
        Err(error) => return Some(error),
    };
    core.listening.send_replace(true);
    // What was latched before the bus was listened to, nobody will say again.
    core.waiters.ask_for_all_latches();
    while let Some(event) = events.next().await {
        match event {
            Ok(BusEvent::Message { topic, payload }) => hear(core, &topic, &payload, claims).await,
            Ok(BusEvent::Lagged(missed)) => {
                observe::bus_lagged(missed);
                core.waiters.ask_for_all_latches();
            }
            Err(error) => return Some(error),
        }
    }
    None
}

async fn hear(core: &Arc<Core>, topic: &str, payload: &Bytes, claims: &mut JoinSet<()>) {
    // Others use the bus too, and most signals nobody waits for here.
    let Some(path) = message::path(topic) else {
        return;
    };
    if core.waiters.count(path) == 0 {
        return;
    }
    let message = match Message::decode(payload) {
        Ok(message) => message,
        Err(error) => return observe::bad_message(path, &error),
    };
    if message.from == core.origin {
        return;
    }
    let value = message.value(payload);
    let Some(claim) = message.claim else {
        core.waiters.deliver(path, &value);
        return;
    };
    // To ask the store takes its time, in which other signals go on.
    while claims.try_join_next().is_some() {}
    if claims.len() >= MAX_QUESTIONS {
        claims.join_next().await;
    }
    let key = message::claim_key(&claim);
    claims.spawn(deliver_to_one(core.clone(), path.into(), key, value));
}

/// Delivers a value that only one process may deliver, if it is this one.
async fn deliver_to_one(core: Arc<Core>, path: String, claim: String, value: Bytes) {
    let origin = Bytes::copy_from_slice(core.origin.as_bytes());
    let store = core.backend.store();
    let claimed = store.compare_and_set(&claim, None, origin, Some(CLAIM_TIME_TO_LIVE));
    match core.in_time(claimed).await {
        Ok(CompareAndSet::Set(_)) => {}
        Ok(CompareAndSet::Conflict) => return,
        // If it was granted all the same, the value is lost: at most once.
        Err(error) => return observe::backend_failed(&path, &error),
    }
    if !core.waiters.deliver_to_one(&path, value.clone()) {
        // The waiter has gone in the meantime, there may be one elsewhere.
        if let Err(error) = core.offer(&path, &value).await {
            observe::backend_failed(&path, &error);
        }
    }
}

/// Reads latches that are asked for, and from time to time all that are waited for.
async fn read_latches(core: &Arc<Core>) {
    let interval = core.settings.poll_interval;
    let first = Instant::now().checked_add(interval);
    let asked = stream::unfold((core.clone(), first), move |(core, mut next)| async move {
        let asked = core.waiters.asked_for_latches();
        match next {
            Some(next) => drop(timeout_at(next, asked).await),
            // The interval is longer than the clock goes.
            None => asked.await,
        }
        // Also when latches are asked for all the time.
        if next.is_some_and(|next| Instant::now() >= next) {
            core.waiters.ask_for_all_latches();
            next = Instant::now().checked_add(interval);
        }
        Some((stream::iter(core.waiters.take_unread()), (core, next)))
    });
    asked
        .flatten()
        .for_each_concurrent(MAX_QUESTIONS, |path| read_latch(core.clone(), path))
        .await;
}

async fn read_latch(core: Arc<Core>, path: Arc<str>) {
    let key = message::latch_key(&path);
    // Who comes after the latch was read may have come after its end too, and asks for it again.
    let moment = core.waiters.moment();
    match core.in_time(core.backend.store().get(&key)).await {
        Ok(Some(latch)) => core.waiters.deliver_before(moment, &path, &latch.value),
        Ok(None) => {}
        Err(error) => {
            observe::backend_failed(&path, &error);
            sleep(LATCH_PAUSE).await;
            core.waiters.ask_for_latch(&path);
        }
    }
}
