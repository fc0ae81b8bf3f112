//! The task that receives signals from other processes and reads latches.

use super::message::{self, Message};
use super::observe;
use super::shared::Shared;
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
pub(super) async fn run(shared: Arc<Shared>) {
    /// Resets the flag when the task ends, also when its runtime ends.
    struct Stop<'a>(&'a Shared);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.listening.send_replace(false);
        }
    }

    let _stop = Stop(&shared);
    future::join(listen(&shared), read_latches(&shared)).await;
}

async fn listen(shared: &Arc<Shared>) {
    let mut listener = Listener::new(shared.backend.clone());
    // Outlives a subscription, because a granted claim must be delivered.
    let mut claims = JoinSet::new();
    loop {
        match listener.next().await {
            Heard::Message { topic, payload } => hear(shared, &topic, &payload, &mut claims).await,
            Heard::Began => {
                shared.listening.send_replace(true);
                // Latches that were set before the subscription are not announced again.
                shared.waiters.ask_for_all_latches();
            }
            Heard::Lagged(missed) => {
                observe::bus_lagged(missed);
                shared.waiters.ask_for_all_latches();
            }
            Heard::Lost(error, pause) => {
                shared.listening.send_replace(false);
                observe::bus_lost(error.as_ref(), pause);
            }
        }
    }
}

async fn hear(shared: &Arc<Shared>, topic: &str, payload: &Bytes, claims: &mut JoinSet<()>) {
    // The bus also carries messages of other modules, and most signals have no waiters here.
    let Some(path) = message::path(topic) else {
        return;
    };
    if shared.waiters.count(path) == 0 {
        return;
    }
    let message = match Message::decode(payload) {
        Ok(message) => message,
        Err(error) => return observe::bad_message(path, &error),
    };
    if message.from == shared.origin {
        return;
    }
    let value = message.value(payload);
    let Some(claim) = message.claim else {
        shared.waiters.deliver(path, &value);
        return;
    };
    // Claims are made in tasks, so that other signals do not wait for the store.
    while claims.try_join_next().is_some() {}
    if claims.len() >= MAX_QUESTIONS {
        claims.join_next().await;
    }
    let key = message::claim_key(&claim);
    claims.spawn(deliver_to_one(shared.clone(), path.into(), key, value));
}

/// Delivers a value if this process gets the claim.
async fn deliver_to_one(shared: Arc<Shared>, path: String, claim: String, value: Bytes) {
    let origin = Bytes::copy_from_slice(shared.origin.as_bytes());
    let claimed = shared.backend.set(&claim, None, origin, CLAIM_TIME_TO_LIVE);
    match claimed.await {
        Ok(true) => {}
        Ok(false) => return,
        // If the claim was set despite the error, the value is lost: delivery is at most once.
        Err(error) => return observe::backend_failed(&path, &error),
    }
    if !shared.waiters.deliver_to_one(&path, value.clone()) {
        // The waiter is gone. Another process may have one.
        if let Err(error) = shared.offer(&path, &value).await {
            observe::backend_failed(&path, &error);
        }
    }
}

/// Reads requested latches at once, and all latches with waiters once per poll interval.
async fn read_latches(shared: &Arc<Shared>) {
    let interval = shared.settings.poll_interval;
    let first = Instant::now().checked_add(interval);
    let asked = stream::unfold(
        (shared.clone(), first),
        move |(shared, mut next)| async move {
            let asked = shared.waiters.asked_for_latches();
            match next {
                Some(next) => drop(timeout_at(next, asked).await),
                // The interval exceeds the range of the clock.
                None => asked.await,
            }
            // Checked on each wake-up, so that frequent requests do not delay the poll.
            if next.is_some_and(|next| Instant::now() >= next) {
                shared.waiters.ask_for_all_latches();
                next = Instant::now().checked_add(interval);
            }
            Some((stream::iter(shared.waiters.take_unread()), (shared, next)))
        },
    );
    asked
        .flatten()
        .for_each_concurrent(MAX_QUESTIONS, |path| read_latch(shared.clone(), path))
        .await;
}

async fn read_latch(shared: Arc<Shared>, path: Arc<str>) {
    let key = message::latch_key(&path);
    // The value is not delivered to later waiters: the latch may have ended since it was read. They request it again.
    let moment = shared.waiters.moment();
    match shared.backend.get(&key).await {
        Ok(Some(latch)) => shared.waiters.deliver_before(moment, &path, &latch.value),
        Ok(None) => {}
        Err(error) => {
            observe::backend_failed(&path, &error);
            sleep(LATCH_PAUSE).await;
            shared.waiters.ask_for_latch(&path);
        }
    }
}
