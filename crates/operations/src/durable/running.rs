//! A run of a durable operation, until it ends or the operation is suspended.

use super::held::Held;
use super::owned::Owned;
use super::recollection::Recollection;
use super::request::StoredRequest;
use super::run::DurableRun;
use super::wake;
use crate::body::OperationRequestBody;
use crate::changes::CHANGED;
use crate::ending::{Ending, EndingRun, Told};
use crate::inner_call::{Unanswered, Work, start};
use crate::instance::Instance;
use crate::limits::Admission;
use crate::memory::{Durable, Waiting};
use crate::metrics::{self, RunOutcome};
use crate::observe;
use crate::progress::Report;
use crate::record::{Failure, Key, OperationStatus, Record};
use crate::records::repeat;
use crate::result::Outcome as Answer;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Response, request};
use http_body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tower_promises_backend::kit::metrics::Timed;
use tower_promises_backend::{BackendError, BoxError, Outcome};
use tower_service::Service;

/// The pause before an envelope is delivered again after an error of the backend.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A suspension takes several calls of the backend. A due time that is nearer is waited for instead.
const SHORTEST_SUSPENSION: u64 = 1000;

/// How long to wait until the return of an envelope is recorded.
const RETURN_PATIENCE: Duration = Duration::from_secs(5);

/// A request for the inner service.
pub(super) type Request<B> = http::Request<OperationRequestBody<B>>;

/// A run and its work.
pub(super) struct Running<R, E> {
    instance: Arc<Instance>,
    key: Key,
    run: DurableRun,
    work: Work<R, E>,
    admission: Admission,
    timed: Timed<'static>,
    /// When the lifetime of the operation ends.
    end: Instant,
}

/// The reason for the end of a run.
enum End<E> {
    Answered(Answer),
    Unanswered(Unanswered<E>),
    TooLong,
    /// All that is pending waits for these.
    Rests(Vec<Waiting>),
    /// Another run owns the operation, or it has ended.
    Replaced,
    /// The process ends.
    GivenUp,
}

impl<R, E> Running<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    pub(super) async fn begin<S, B>(
        instance: &Arc<Instance>,
        key: &Key,
        held: Held,
        memory: Recollection,
        service: S,
        prepare: &impl Fn(&mut request::Parts),
    ) -> Result<Self, BackendError>
    where
        S: Service<Request<B>, Response = Response<R>, Error = E> + Send + 'static,
        S::Future: Send,
        B: Body<Data: Send, Error: Send> + Send + 'static,
    {
        let record = &held.record;
        let pieces = record.durable.as_ref().map(|durable| durable.request);
        let backend = &instance.records.backend;
        let stored = backend
            .get_pieces(&key.request(), pieces.unwrap_or_default())
            .await?;
        let stored =
            stored.ok_or_else(|| BackendError::unavailable("the stored request is missing"))?;
        let stored = StoredRequest::decode(stored)?;
        let principal = record.principal.clone();
        let left = wake::end_of_lifetime(instance, record).saturating_sub(instance.settings.now());
        let owned = Owned::new(
            instance.clone(),
            key.clone(),
            held,
            memory,
            stored.principal.clone(),
        );
        let run = DurableRun::of(owned);
        let body = stored.body();
        let mut parts = stored.parts;
        parts.extensions.insert(run.clone());
        prepare(&mut parts);
        (instance.settings.durable.rebuild)(&mut parts);
        observe::run_began(key, run.attempt());
        let end = Instant::now() + Duration::from_millis(left);
        let span = observe::run(key, run.attempt());
        let work = Work::Calling(span.in_scope(start(service, parts, body)));
        work.progress().store();
        Ok(Self {
            instance: instance.clone(),
            key: key.clone(),
            run,
            work,
            admission: instance.limits.enter(principal.as_deref()),
            timed: metrics::run(),
            end,
        })
    }

    /// Returns the outcome for the envelope, and whether the operation has ended.
    pub(super) async fn run(mut self) -> (Outcome, bool) {
        // `drain` waits for the run, and a cancelling request waits until its work is dropped.
        let _registration = self.instance.register(&self.key);
        let (end, report) = self.wait().await;
        self.work.stop().await;
        self.run.owned.advise();
        let again = (Outcome::Retry { after: PAUSE }, false);
        let ended = match end {
            End::Rests(waiting) => match self.suspend(&report, waiting).await {
                Ok(true) => {
                    self.timed.ends(RunOutcome::Suspended as usize);
                    return (Outcome::Done, false);
                }
                Ok(false) => return again,
                Err(error) => Err(error),
            },
            End::GivenUp => {
                self.give_back().await;
                self.timed.ends(RunOutcome::GivenBack as usize);
                let after = Duration::ZERO;
                return (Outcome::Retry { after }, false);
            }
            end => {
                self.store_end(end, &report).await;
                self.has_ended().await
            }
        };
        match ended {
            Ok(true) => {
                self.timed.ends(RunOutcome::Ended as usize);
                (Outcome::Done, true)
            }
            Ok(false) => {
                // The store has refused the end, which is no fault of the run.
                self.give_back().await;
                again
            }
            Err(error) => {
                observe::backend_failed(&self.key, &error);
                again
            }
        }
    }

    /// Records that the next run is no recovery, if this run owns the operation.
    async fn give_back(&self) {
        let returned = self.run.owned.change(|_, durable| {
            durable.given_back = true;
            Some(())
        });
        let _ = timeout(RETURN_PATIENCE, returned).await;
    }

    async fn store_end(&self, end: End<E>, report: &Report) {
        let ending = self.ending(report);
        match end {
            End::Answered(answer) => ending.answered(answer).await,
            End::Unanswered(Unanswered::Failed(failure)) => {
                ending
                    .given_up::<E>(OperationStatus::Failed, failure, None)
                    .await;
            }
            End::Unanswered(Unanswered::Error(error)) => {
                ending.raised(Told::Error(error), None).await;
            }
            End::Unanswered(Unanswered::Panic(panic)) => {
                ending.raised(Told::<E>::Panic(panic), None).await;
            }
            End::TooLong => {
                let failure = Failure::new("LifetimeExceeded", "The operation took too long.");
                ending
                    .given_up::<E>(OperationStatus::Cancelled, failure, None)
                    .await;
            }
            // Stored elsewhere, or not yet.
            End::Replaced | End::Rests(_) | End::GivenUp => {}
        }
    }

    fn ending<'a>(&'a self, report: &'a Report) -> Ending<'a> {
        Ending {
            instance: &self.instance,
            key: &self.key,
            admission: &self.admission,
            report,
            has_begun: true,
            run: Some(EndingRun {
                fence: self.run.owned.fence(),
                number: self.run.attempt(),
            }),
        }
    }

    /// Whether the operation has ended, by this run or otherwise.
    async fn has_ended(&self) -> Result<bool, BackendError> {
        let found = self.instance.records.read(&self.key).await?;
        Ok(found.is_none_or(|(record, _)| record.status.is_terminal()))
    }

    /// Waits for the end, and updates the store meanwhile.
    async fn wait(&mut self) -> (End<E>, Report) {
        let (instance, run) = (self.instance.clone(), self.run.clone());
        let settings = &instance.settings;
        let mut news = instance.changes.all(&self.key);
        let third = settings.lease / 3;
        let mut patrol = interval_at(Instant::now() + third, third);
        patrol.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let progress = self.work.progress().clone();
        let mut reports = progress.subscribe();
        reports.mark_changed();
        // A request that ends at once needs no change of the status in between.
        let mut next_flush = Instant::now() + settings.progress_interval;
        let end = loop {
            select! {
                biased;
                end = self.work.end(&self.key, settings.max_result_bytes) => {
                    break end.map_or_else(End::Unanswered, End::Answered);
                }
                () = run.owned.replaced() => break End::Replaced,
                () = instance.drain.given_up() => break End::GivenUp,
                () = sleep_until(self.end) => break End::TooLong,
                waiting = rests(&instance, &run) => break End::Rests(waiting),
                // A promise may have been settled from outside, or the operation was cancelled.
                () = news.notified() => self.refresh().await,
                // The announcement of a settlement or of an end may be lost.
                _ = patrol.tick() => self.refresh().await,
                _ = sleep_until(next_flush).then(|()| reports.changed()) => {
                    let report = reports.borrow_and_update().clone();
                    self.flush(&report).await;
                    next_flush = Instant::now() + settings.progress_interval;
                }
            }
        };
        (end, progress.latest())
    }

    async fn refresh(&self) {
        if let Err(error) = self.run.owned.refresh().await {
            observe::backend_failed(&self.key, &error);
        }
    }

    /// Stores the latest report.
    async fn flush(&self, report: &Report) {
        let flush = self.run.owned.change(|record, _| {
            record.report(report).then(|| {
                record.touch();
            })
        });
        match flush.await {
            Ok(Some(_)) => self.instance.announce(&self.key, CHANGED).await,
            Ok(None) => {}
            Err(error) => observe::backend_failed(&self.key, &error),
        }
    }

    /// Releases the operation until a due time or a settlement. Returns whether that is stored.
    async fn suspend(&self, report: &Report, waiting: Vec<Waiting>) -> Result<bool, BackendError> {
        let suspend = |record: &mut Record, durable: &mut Durable| {
            record.report(report);
            record.touch();
            durable.turn += 1;
            durable.holder = None;
            // If the answer of the store is lost, the next attempt finds that the run owns nothing any more.
            durable.fence.clear();
            durable.recoveries = 0;
            durable.waiting.clone_from(&waiting);
            Some(())
        };
        let suspended = repeat(&self.key, || self.run.owned.change(suspend)).await?;
        let Some(((), record)) = suspended else {
            return Ok(false);
        };
        // If the process ends here, the envelope is delivered again and the next one is enqueued then.
        if let Some(durable) = &record.durable {
            let is_settled = |name: &str| self.run.owned.is_settled(name);
            let next = wake::due(&self.instance, &self.key, &record, durable, is_settled)?;
            let backend = &self.instance.records.backend;
            repeat(&self.key, || backend.enqueue(next.clone())).await?;
        }
        observe::suspended(&self.key);
        self.instance.announce(&self.key, CHANGED).await;
        Ok(true)
    }
}

/// Resolves when all that is pending waits, and the next due time is not near. Returns what it waits for.
async fn rests(instance: &Instance, run: &DurableRun) -> Vec<Waiting> {
    loop {
        run.owned.rested().await;
        let Some(waiting) = run.owned.waiting() else {
            // A promise has settled, and the next pass has not begun.
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        let due = waiting.iter().filter_map(|waiting| waiting.until).min();
        let left = due.map_or(u64::MAX, |due| due.saturating_sub(instance.settings.now()));
        if left >= SHORTEST_SUSPENSION {
            return waiting;
        }
        sleep(Duration::from_millis(left.max(1))).await;
    }
}
