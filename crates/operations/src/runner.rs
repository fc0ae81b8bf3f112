//! The task that runs an operation to its end.

use super::core::{Core, DROP_PATIENCE, Registration};
use super::first_client::{Keyed, Told, is_refusal};
use super::hub::{CHANGED, ENDED};
use super::limits::Admission;
use super::observe;
use super::progress::Report;
use super::record::{Failure, Key, Stored};
use super::records::Changed;
use super::result::Outcome;
use super::status::Status;
use super::work::{Unanswered, Work, failed, too_large};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tower_promises_backend::BackendError;
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::backoff::retry;
use tower_promises_backend::kit::topics::Subscription;

/// The approximate size of a stored operation without its result.
pub(super) const RECORD_BYTES: usize = 1024;

/// Runs one operation.
pub(super) struct Runner<R, E> {
    pub(super) core: Arc<Core>,
    pub(super) key: Key,
    pub(super) work: Work<R, E>,
    /// Dropped when the work has been dropped and its end has been announced.
    registration: Registration,
    /// Dropped when the runner has finished.
    admission: Admission,
    news: Subscription,
    /// What is there of an idempotency key.
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
        let (core, key) = (registration.core.clone(), registration.key.clone());
        Self {
            registration,
            admission,
            news: core.hub.ends(&key),
            core,
            key,
            work,
            keyed,
        }
    }

    pub(super) async fn run(mut self) {
        observe::began(&self.key);
        let (end, report) = self.wait().await;
        let (core, key) = (self.core.clone(), self.key.clone());
        // The operation must not count as lost before its end is stored.
        select! {
            biased;
            () = self.finish(end, &report) => {}
            () = keep_lease(&core, &key) => {}
        }
        if let Err(error) = core.records.backend.delete(&key.lease()).await {
            observe::backend_failed(&key, &error);
        }
        drop(self.registration);
        // The admission still counts work that blocks its thread.
        self.work.stop().await;
    }

    /// Stops the work and stores its end.
    async fn finish(&mut self, end: End<E>, report: &Report) {
        // Work that blocks its thread cannot be dropped, and must not delay the end.
        if timeout(DROP_PATIENCE, self.work.stop()).await.is_err() {
            self.work.progress().begin();
        }
        // Dropped when the end is stored, so that the client stops waiting.
        let keyed = self.keyed.take();
        match end {
            End::Answered(outcome) if is_refusal(outcome.status) => {
                self.refused(outcome, keyed, report).await;
            }
            End::Answered(outcome) => self.answered(outcome, report).await,
            End::Unanswered(Unanswered::Failed(failure)) | End::Failed(failure) => {
                self.given_up(Status::Failed, failure, keyed, report).await;
            }
            End::Unanswered(Unanswered::Error(error)) => {
                self.raised(Told::Error(error), keyed, report).await;
            }
            End::Unanswered(Unanswered::Panic(panic)) => {
                self.raised(Told::Panic(panic), keyed, report).await;
            }
            End::TooLong => {
                let failure = Failure::new("LifetimeExceeded", "The operation took too long.");
                self.given_up(Status::Canceled, failure, keyed, report)
                    .await;
            }
            End::Elsewhere => {
                // A removed operation has no record that needs to be counted.
                if !matches!(self.core.records.find(&self.key).await, Ok(None)) {
                    let retention = self.core.settings.retention;
                    self.admission.count(&self.key, RECORD_BYTES, retention);
                }
                observe::ended(&self.key, Status::Canceled, None);
            }
        }
    }

    /// Waits for the end, and updates the store meanwhile.
    async fn wait(&mut self) -> (End<E>, Report) {
        let settings = &self.core.settings;
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
                () = self.core.drain.given_up() => {
                    let failure = Failure::new("ShuttingDown", "The server is shutting down.");
                    break End::Failed(failure);
                }
                () = sleep_until(lifetime) => break End::TooLong,
                _ = renewal.tick() => {
                    // The announcement of an end may be lost.
                    if self.has_ended().await {
                        break End::Elsewhere;
                    }
                    if let Err(error) = self.core.records.renew_lease(&self.key).await {
                        observe::backend_failed(&self.key, &error);
                    }
                }
                _ = sleep_until(next_flush).then(|()| reports.changed()) => {
                    let report = reports.borrow_and_update().clone();
                    if self.flush(&report).await {
                        break End::Elsewhere;
                    }
                    next_flush = Instant::now() + self.core.settings.progress_interval;
                }
            }
        };
        (end, progress.latest())
    }

    async fn has_ended(&self) -> bool {
        match self.core.records.find(&self.key).await {
            Ok(found) => found.is_none_or(|(record, _)| record.status.is_terminal()),
            Err(error) => {
                observe::backend_failed(&self.key, &error);
                false
            }
        }
    }

    /// Stores the latest report. Returns whether the operation has been ended outside of this runner.
    async fn flush(&self, report: &Report) -> bool {
        let changed = self.core.records.change(&self.key, |record| {
            if record.status.is_terminal() || !record.report(report) {
                return false;
            }
            record.touch();
            true
        });
        match changed.await {
            Ok(Changed::Yes(_)) => {
                self.core.announce(&self.key, CHANGED).await;
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

    pub(super) async fn answered(&self, outcome: Outcome, report: &Report) {
        let (core, key) = (&self.core, &self.key);
        let retention = core.settings.retention;
        let fail = |failure| self.end(Status::Failed, Some(failure), None, report);
        if outcome.status.is_informational() {
            // An informational status is not a final response, and must not be sent to a client that requests the
            // result.
            return fail(failed("ServiceError")).await;
        }
        let bytes = RECORD_BYTES + outcome.size();
        if !self.admission.store(key, bytes, retention) {
            let full = "The server has no room to keep the result.";
            return fail(Failure::new("StorageFull", full)).await;
        }
        // A result must not expire before the record that names it.
        let time_to_live = retention + Duration::from_secs(60);
        let stored = outcome.stored();
        let put = repeat(key, || core.records.put_result(key, &outcome, time_to_live));
        if let Err(error) = put.await {
            self.delete_result(stored).await;
            core.limits.forget(key);
            return match error {
                BackendError::TooLarge { .. } => fail(too_large()).await,
                _ => {
                    let failed = "The result could not be stored.";
                    fail(Failure::new("StorageFailed", failed)).await;
                }
            };
        }
        let status = outcome.status;
        let failure = (status.is_client_error() || status.is_server_error()).then(|| {
            let reason = status.canonical_reason().unwrap_or("Unknown");
            let code: String = reason.chars().filter(char::is_ascii_alphabetic).collect();
            let number = status.as_u16();
            Failure::new(
                &code,
                format!("The work has ended with status {number} {reason}."),
            )
        });
        let status = if failure.is_some() {
            Status::Failed
        } else {
            Status::Succeeded
        };
        self.end(status, failure, Some(stored), report).await;
    }

    async fn delete_result(&self, stored: Stored) {
        let deleted = self.core.records.delete_result(&self.key, stored).await;
        if let Err(error) = deleted {
            observe::backend_failed(&self.key, &error);
        }
    }

    /// Stores the end, unless the operation has ended.
    pub(super) async fn end(
        &self,
        status: Status,
        failure: Option<Failure>,
        stored: Option<Stored>,
        report: &Report,
    ) {
        let (core, key) = (&self.core, &self.key);
        let retention = core.settings.retention;
        let change = || {
            core.records.change(key, |record| {
                if record.status.is_terminal() {
                    return false;
                }
                record.report(report);
                record.end(status, failure.clone(), retention);
                record.result = stored;
                true
            })
        };
        match repeat(key, change).await {
            Ok(Changed::Yes(_)) => {
                if stored.is_none() {
                    self.admission.count(key, RECORD_BYTES, retention);
                }
                let code = failure.as_ref().map(|failure| &*failure.code);
                observe::ended(key, status, code);
                core.announce(key, ENDED).await;
            }
            Ok(changed @ (Changed::No(_) | Changed::Gone)) => {
                // `Canceled` is final: no client will request this result.
                match changed {
                    Changed::Gone => core.limits.forget(key),
                    _ => self.admission.count(key, RECORD_BYTES, retention),
                }
                if let Some(stored) = stored {
                    self.delete_result(stored).await;
                }
            }
            // The end may have been stored despite the error, so the result stays and still counts.
            Err(_) if stored.is_some() => {}
            Err(_) => self.admission.count(key, RECORD_BYTES, retention),
        }
    }
}

/// Renews the lease until dropped.
async fn keep_lease(core: &Core, key: &Key) {
    let third = core.settings.lease / 3;
    let mut renewal = interval_at(Instant::now() + third, third);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewal.tick().await;
        if let Err(error) = core.records.renew_lease(key).await {
            observe::backend_failed(key, &error);
        }
    }
}

/// Retries a backend call for an operation, a limited number of times.
pub(super) async fn repeat<T, F>(key: &Key, call: impl FnMut() -> F) -> Result<T, BackendError>
where
    F: Future<Output = Result<T, BackendError>>,
{
    retry(call, |error| observe::backend_failed(key, error)).await
}
