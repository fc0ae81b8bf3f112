//! The task that receives signals from other processes and reads latches.

use super::family::Core;
use super::message::{self, Message};
use super::observe;
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tower_promises_backend::kit::topics::{Heard, Listener};

/// The pause before a latch is read again after an error.
const LATCH_PAUSE: Duration = Duration::from_secs(1);

/// The maximum number of concurrent store calls, for latches and for claims each.
const MAX_QUESTIONS: usize = 64;

/// The time to live of a claim. It exceeds the time that a message can take.
const CLAIM_TIME_TO_LIVE: Duration = Duration::from_secs(5 * 60);

/// Listens until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    /// Resets the flag when the task ends, also when its runtime ends.
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
    let mut listener = Listener::new(core.backend.clone());
    // Outlives a subscription, because a granted claim must be delivered.
    let mut claims = JoinSet::new();
    loop {
        match listener.next().await {
            Heard::Message { topic, payload } => hear(core, &topic, &payload, &mut claims).await,
            Heard::Began => {
                core.listening.send_replace(true);
                // Latches that were set before the subscription are not announced again.
                core.waiters.ask_for_all_latches();
            }
            Heard::Lagged(missed) => {
                observe::bus_lagged(missed);
                core.waiters.ask_for_all_latches();
            }
            Heard::Lost(error, pause) => {
                core.listening.send_replace(false);
                observe::bus_lost(error.as_ref(), pause);
            }
        }
    }
}

async fn hear(core: &Arc<Core>, topic: &str, payload: &Bytes, claims: &mut JoinSet<()>) {
    // The bus also carries messages of other modules, and most signals have no waiters here.
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
    // Claims are made in tasks, so that other signals do not wait for the store.
    while claims.try_join_next().is_some() {}
    if claims.len() >= MAX_QUESTIONS {
        claims.join_next().await;
    }
    let key = message::claim_key(&claim);
    claims.spawn(deliver_to_one(core.clone(), path.into(), key, value));
}

/// Delivers a value if this process gets the claim.
async fn deliver_to_one(core: Arc<Core>, path: String, claim: String, value: Bytes) {
    let origin = Bytes::copy_from_slice(core.origin.as_bytes());
    let claimed = core.backend.set(&claim, None, origin, CLAIM_TIME_TO_LIVE);
    match claimed.await {
        Ok(true) => {}
        Ok(false) => return,
        // If the claim was set despite the error, the value is lost: delivery is at most once.
        Err(error) => return observe::backend_failed(&path, &error),
    }
    if !core.waiters.deliver_to_one(&path, value.clone()) {
        // The waiter is gone. Another process may have one.
        if let Err(error) = core.offer(&path, &value).await {
            observe::backend_failed(&path, &error);
        }
    }
}

/// Reads requested latches at once, and all latches with waiters once per poll interval.
async fn read_latches(core: &Arc<Core>) {
    let interval = core.settings.poll_interval;
    let first = Instant::now().checked_add(interval);
    let asked = stream::unfold((core.clone(), first), move |(core, mut next)| async move {
        let asked = core.waiters.asked_for_latches();
        match next {
            Some(next) => drop(timeout_at(next, asked).await),
            // The interval exceeds the range of the clock.
            None => asked.await,
        }
        // Checked on each wake-up, so that frequent requests do not delay the poll.
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
    // The value is not delivered to later waiters: the latch may have ended since it was read. They request it again.
    let moment = core.waiters.moment();
    match core.backend.get(&key).await {
        Ok(Some(latch)) => core.waiters.deliver_before(moment, &path, &latch.value),
        Ok(None) => {}
        Err(error) => {
            observe::backend_failed(&path, &error);
            sleep(LATCH_PAUSE).await;
            core.waiters.ask_for_latch(&path);
        }
    }
}
