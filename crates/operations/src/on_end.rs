//! The call of the application when an operation has ended.
//!
//! An envelope is added to a queue before the record of an operation is created. A worker looks at the record from time
//! to time, and settles the envelope when the application was told of the end. So an end is told even if the process
//! that has recorded it dies at that moment. The process that runs an operation does not wait for the worker.

use super::instance::Instance;
use super::observe;
use super::record::Key;
use super::records::{END_QUEUE, recheck};
use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::{Delivery, Outcome, WorkOptions};

/// The longest pause between two checks of a durable operation.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Starts the worker, unless it runs already or the application is not told of ends. Needs a runtime.
pub(super) fn listen(instance: &Arc<Instance>) {
    if instance.settings.on_end.is_some() {
        let backend = instance.records.backend.clone();
        // The instance owns the worker.
        let instance_of = Arc::downgrade(instance);
        let work = || async move {
            let handler = Arc::new(move |delivery| attend(instance_of.clone(), delivery));
            let mut backoff = Backoff::default();
            loop {
                let start = Instant::now();
                let work = backend.queue().work(
                    WorkOptions::new(END_QUEUE),
                    handler.clone(),
                    Box::pin(pending()),
                );
                let error = work.await.err();
                let pause = backoff.pause_after(start.elapsed());
                observe::teller_lost(error.as_ref(), pause);
                sleep(pause).await;
            }
        };
        let _ = instance.telling.start(work);
    }
}

async fn attend(instance: Weak<Instance>, delivery: Delivery) -> Outcome {
    let again = |after: Duration| Outcome::Retry { after };
    let Some(instance) = instance.upgrade() else {
        return again(Duration::from_secs(1));
    };
    let later = again(recheck(instance.settings.lease));
    // A durable operation may wait for days. The process that ends it tells the end at once, as for any other.
    let much_later = {
        let doublings = delivery.number.saturating_sub(1).min(10);
        let pause = recheck(instance.settings.lease).saturating_mul(1 << doublings);
        again(pause.min(LONGEST_PAUSE))
    };
    let Ok(key) = std::str::from_utf8(&delivery.payload).map(Key::parse) else {
        return Outcome::GiveUp;
    };
    match instance.read_or_declare_lost(&key).await {
        Ok(None) => return Outcome::Done,
        Ok(Some(record)) if !record.status.is_terminal() => match record.durable {
            Some(_) => return much_later,
            None => return later,
        },
        Ok(Some(_)) => {}
        Err(error) => {
            observe::backend_failed(&key, &error);
            return later;
        }
    }
    match instance.tell_end(&key).await {
        Ok(()) => Outcome::Done,
        Err(error) => {
            observe::on_end_failed(&key, &*error);
            later
        }
    }
}
