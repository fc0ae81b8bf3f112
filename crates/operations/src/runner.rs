//! The task that runs an operation to its end.

use super::changes::CHANGED;
use super::ending::{Ending, Keyed, Told};
use super::inner_call::{Unanswered, Work};
use super::instance::{DROP_PATIENCE, Instance, Registration};
use super::limits::Admission;
use super::observe;
use super::progress::Report;
use super::record::{Failure, Key, OperationStatus};
use super::records::Changed;
use super::result::Outcome;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Body;
use std::sync::Arc;
use tokio::select;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::topics::Subscription;

/// Runs one operation.
pub(super) struct Runner<R, E> {
    instance: Arc<Instance>,
    key: Key,
    work: Work<R, E>,
    /// Dropped when the work has been dropped and its end has been announced.
    registration: Registration,
    /// Dropped when the runner has finished.
    admission: Admission,
    news: Subscription,
    /// The idempotency key of the request, and the client that sent the key first.
    keyed: Option<Keyed<E>>,
}

/// The reason for the end of the work.
enum End<E> {
    Unanswered(Unanswered<E>),
    Answered(Outcome),
    Failed(Failure),
    TooLong,
    /// The operation was ended outside of this runner.
    Elsewhere,
}

impl<R, E> Runner<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    pub(super) fn new(
        registration: Registration,
        work: Work<R, E>,
        admission: Admission,
        keyed: Option<Keyed<E>>,
    ) -> Self {
        let (instance, key) = (registration.instance.clone(), registration.key.clone());
        work.progress().store();
        Self {
            registration,
            admission,
            news: instance.changes.ends(&key),
            instance,
            key,
            work,
            keyed,
        }
    }

    pub(super) async fn run(mut self) {
        observe::began(&self.key, false);
        let (end, report) = self.wait().await;
        let (instance, key) = (self.instance.clone(), self.key.clone());
        // The operation must not count as lost before its end is stored.
        select! {
            biased;
            () = self.finish(end, &report) => {}
            () = keep_lease(&instance, &key) => {}
        }
        if let Err(error) = instance.records.backend.delete(&key.lease()).await {
            observe::backend_failed(&key, &error);
        }
        drop(self.registration);
        if let Err(error) = instance.tell_end(&key).await {
            observe::on_end_failed(&key, &*error);
        }
        // The admission still counts work that blocks its thread.
        self.work.stop().await;
    }

    /// Stops the work and stores its end.
    async fn finish(&mut self, end: End<E>, report: &Report) {
        // Work that blocks its thread cannot be dropped, and must not delay the end.
        if timeout(DROP_PATIENCE, self.work.stop()).await.is_err() {
            self.work.progress().begin();
        }
        let ending = Ending {
            instance: &self.instance,
            key: &self.key,
            admission: &self.admission,
            report,
            has_begun: self.work.progress().has_begun(),
            run: None,
        };
        // Dropped when the end is stored, so that the client stops waiting.
        let keyed = self.keyed.take();
        match end {
            End::Answered(outcome) if outcome.is_refusal() => ending.refused(outcome, keyed).await,
            End::Answered(outcome) => ending.answered(outcome).await,
            End::Unanswered(Unanswered::Failed(failure)) | End::Failed(failure) => {
                ending
                    .given_up(OperationStatus::Failed, failure, keyed)
                    .await;
            }
            End::Unanswered(Unanswered::Error(error)) => {
                ending.raised(Told::Error(error), keyed).await;
            }
            End::Unanswered(Unanswered::Panic(panic)) => {
                ending.raised(Told::Panic(panic), keyed).await;
            }
            End::TooLong => {
                let failure = Failure::new("LifetimeExceeded", "The operation took too long.");
                ending
                    .given_up(OperationStatus::Cancelled, failure, keyed)
                    .await;
            }
            End::Elsewhere => ending.elsewhere().await,
        }
    }

    /// Waits for the end, and updates the store meanwhile.
    async fn wait(&mut self) -> (End<E>, Report) {
        let settings = &self.instance.settings;
        let limit = settings.max_result_bytes;
        let third = settings.lease / 3;
        let mut renewal = interval_at(Instant::now() + third, third);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lifetime = Instant::now() + settings.lifetime;
        let progress = self.work.progress().clone();
        let mut reports = progress.subscribe();
        // Earlier reports may not be in the store.
        reports.mark_changed();
        let mut next_flush = Instant::now();
        let end = loop {
            select! {
                biased;
                end = self.work.end(&self.key, limit) => {
                    break end.map_or_else(End::Unanswered, End::Answered);
                }
                () = self.news.notified() => if self.has_ended().await {
                    break End::Elsewhere;
                },
                () = self.instance.drain.given_up() => {
                    let failure = Failure::new("ShuttingDown", "The server is shutting down.");
                    break End::Failed(failure);
                }
                () = sleep_until(lifetime) => break End::TooLong,
                _ = renewal.tick() => {
                    // The announcement of an end may be lost.
                    if self.has_ended().await {
                        break End::Elsewhere;
                    }
                    if let Err(error) = self.instance.records.renew_lease(&self.key).await {
                        observe::backend_failed(&self.key, &error);
                    }
                }
                _ = sleep_until(next_flush).then(|()| reports.changed()) => {
                    let report = reports.borrow_and_update().clone();
                    if self.flush(&report).await {
                        break End::Elsewhere;
                    }
                    next_flush = Instant::now() + self.instance.settings.progress_interval;
                }
            }
        };
        (end, progress.latest())
    }

    async fn has_ended(&self) -> bool {
        match self.instance.records.read(&self.key).await {
            Ok(found) => found.is_none_or(|(record, _)| record.status.is_terminal()),
            Err(error) => {
                observe::backend_failed(&self.key, &error);
                false
            }
        }
    }

    /// Stores the latest report. Returns whether the operation has been ended outside of this runner.
    async fn flush(&self, report: &Report) -> bool {
        let changed = self.instance.records.change(&self.key, |record| {
            if record.status.is_terminal() || !record.report(report) {
                return false;
            }
            record.touch();
            true
        });
        match changed.await {
            Ok(Changed::Yes(_)) => {
                self.instance.announce(&self.key, CHANGED).await;
                false
            }
            Ok(Changed::No(record)) => record.status.is_terminal(),
            Ok(Changed::Gone) => true,
            Err(error) => {
                observe::backend_failed(&self.key, &error);
                false
            }
        }
    }
}

/// Renews the lease until dropped.
async fn keep_lease(instance: &Instance, key: &Key) {
    let third = instance.settings.lease / 3;
    let mut renewal = interval_at(Instant::now() + third, third);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewal.tick().await;
        if let Err(error) = instance.records.renew_lease(key).await {
            observe::backend_failed(key, &error);
        }
    }
}
