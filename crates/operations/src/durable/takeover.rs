//! The decision what an envelope begins, and the change with which a run becomes the owner of its operation.

use super::held::Held;
use super::lost;
use super::recollection::Recollection;
use super::wake::{self, Reason, Wake};
use crate::claim::Claimed;
use crate::instance::Instance;
use crate::memory::{Durable, Entry};
use crate::metrics;
use crate::observe;
use crate::open::{close, lists_of};
use crate::record::{Failure, Key, OperationStatus, Record, random};
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::{BackendError, Revision};

/// The error code of an operation whose runs were lost.
pub(super) const LOST: &str = "Lost";

/// The pause before a first run begins for whose result this process has no room. Other processes may have room.
const ROOM_PAUSE: Duration = Duration::from_secs(5);

/// What an envelope begins.
pub(super) enum Takeover {
    /// A run, which owns the operation from now on.
    Run(Box<Held>, Recollection),
    /// Nothing: the envelope is outdated, or the operation has ended.
    Nothing,
    /// Nothing yet.
    Later(Duration),
    /// The operation has ended with this envelope, for this reason.
    Ended(Box<Record>, Failure),
}

/// The decision for a record, without the change.
enum Verdict {
    /// The run begins. It replaces a run that was lost.
    Begin {
        is_recovery: bool,
    },
    Nothing,
    /// The envelope of the present turn may be missing.
    Restore,
    Later(Duration),
}

/// An envelope that may begin a run.
pub(super) struct Claimant {
    pub(super) instance: Arc<Instance>,
    pub(super) key: Key,
    pub(super) wake: Wake,
    /// The id of the envelope.
    pub(super) envelope: Arc<str>,
    /// The name of the run, which no other run has.
    pub(super) fence: String,
}

impl Claimant {
    /// Takes the operation over. Repeated after an error, the call finds out whether it had taken the operation over
    /// before.
    pub(super) async fn take_over(self: Arc<Self>) -> Result<Takeover, BackendError> {
        let (instance, key) = (&*self.instance, &self.key);
        loop {
            let Some((record, revision)) = instance.records.read(key).await? else {
                return Ok(Takeover::Nothing);
            };
            let durable = record.durable.as_deref();
            let Some(durable) = durable.filter(|_| !record.status.is_terminal()) else {
                return Ok(Takeover::Nothing);
            };
            if durable.fence == self.fence {
                let memory = recollect(instance, key, durable).await?;
                return Ok(begin(record, revision, memory));
            }
            let mut memory = recollect(instance, key, durable).await?;
            let is_recovery = match self.judge(&record, durable, &memory) {
                Verdict::Begin { is_recovery } => is_recovery,
                Verdict::Nothing => return Ok(Takeover::Nothing),
                Verdict::Later(after) => return Ok(Takeover::Later(after)),
                Verdict::Restore => {
                    let is_settled = |name: &str| memory.settlement(name).is_some();
                    let next = wake::due(instance, key, &record, durable, is_settled)?;
                    instance.records.backend.enqueue(next).await?;
                    return Ok(Takeover::Nothing);
                }
            };
            let is_first = durable.runs == 0 && !self.is_over(&record);
            if is_first
                && instance
                    .limits
                    .check_room(record.principal.as_deref())
                    .is_err()
            {
                observe::waits_for_room(key);
                return Ok(Takeover::Later(ROOM_PAUSE));
            }
            if durable.runs == 0 && !self.has_claim(&record).await? {
                instance.records.discard(&record).await;
                close(
                    &instance.records,
                    &instance.settings,
                    key,
                    &lists_of(&record),
                )
                .await;
                return Ok(Takeover::Nothing);
            }
            let mut taken = record;
            let ended = self.apply(&mut taken, is_recovery);
            if ended.as_ref().is_some_and(|failure| failure.code == LOST) {
                // Before the end is stored, so that no lost operation is missing.
                lost::add(instance, &taken.id).await?;
            }
            if ended.is_none() {
                self.settle_sleeps(&mut taken, &mut memory).await?;
            }
            let (name, value) = (key.record(), encode(&taken)?);
            let time_to_live = taken.time_to_live();
            let backend = &instance.records.backend;
            let set = backend.compare_and_set(&name, Some(revision), value, time_to_live);
            let Some(revision) = set.await? else {
                continue;
            };
            if let Some(failure) = ended {
                metrics::ended(&taken);
                return Ok(Takeover::Ended(taken.into(), failure));
            }
            if let Some(durable) = taken.durable.as_deref().filter(|_| is_recovery) {
                observe::recovered(key, durable.recoveries);
            }
            return Ok(begin(taken, revision, memory));
        }
    }

    /// Remembers the sleeps whose due time has come, with the change that begins the run.
    async fn settle_sleeps(
        &self,
        record: &mut Record,
        memory: &mut Recollection,
    ) -> Result<(), BackendError> {
        let time_to_live = record.time_to_live_of_parts();
        let slept = memory.due_sleeps(self.instance.settings.now());
        let Some(durable) = record.durable.as_deref_mut().filter(|_| !slept.is_empty()) else {
            return Ok(());
        };
        let journal = &mut durable.journal;
        for entry in &slept {
            journal.push(entry.clone(), entry.bytes());
        }
        let (backend, prefix) = (&self.instance.records.backend, self.key.memory());
        journal
            .move_out(backend, &prefix, random()?, time_to_live)
            .await?;
        (memory.known, memory.bytes) = (journal.len(), journal.bytes());
        memory.learn(&slept);
        Ok(())
    }

    /// Decides what the envelope begins.
    fn judge(&self, record: &Record, durable: &Durable, memory: &Recollection) -> Verdict {
        let (instance, wake) = (&*self.instance, &self.wake);
        let now = instance.settings.now();
        if let Some(holder) = &durable.holder {
            // The envelope is delivered again, because its run has ended without settling it.
            return if **holder == *self.envelope {
                Verdict::Begin {
                    is_recovery: !durable.given_back,
                }
            } else {
                Verdict::Nothing
            };
        }
        if durable.turn != wake.turn {
            // The process may have ended after it had suspended the operation, and before it enqueued the next envelope.
            return if durable.is_suspended() {
                Verdict::Restore
            } else {
                Verdict::Nothing
            };
        }
        let begin = Verdict::Begin { is_recovery: false };
        if wake.reason == Reason::Begin || self.is_over(record) {
            return begin;
        }
        let untils = durable.waiting.iter().map(|waiting| {
            let is_settled = memory.settlement(&waiting.name).is_some();
            let until = waiting.until.unwrap_or(u64::MAX);
            if is_settled { now } else { until }
        });
        match untils.min() {
            Some(next) if next > now => match wake.reason {
                // The clock of this machine is behind the clock of the queue.
                Reason::Due => {
                    let end = wake::end_of_lifetime(instance, record);
                    Verdict::Later(Duration::from_millis(next.min(end).saturating_sub(now)))
                }
                // The settlement was announced and not stored.
                _ => Verdict::Nothing,
            },
            _ => begin,
        }
    }

    /// Whether the operation has the idempotency key of its request, if there is one. The process may have ended between
    /// the two, and then a repeated request is another operation.
    async fn has_claim(&self, record: &Record) -> Result<bool, BackendError> {
        let Some(claim) = &record.claim else {
            return Ok(true);
        };
        let claimed: Option<Claimed> = self.instance.records.backend.read(claim).await?;
        Ok(claimed.is_some_and(|claimed| claimed.id == record.id))
    }

    fn is_over(&self, record: &Record) -> bool {
        wake::end_of_lifetime(&self.instance, record) <= self.instance.settings.now()
    }

    /// Changes the record as a run begins. Returns the end of the operation, if it ends instead.
    fn apply(&self, record: &mut Record, is_recovery: bool) -> Option<Failure> {
        let is_over = self.is_over(record);
        let durable = record.durable.as_deref_mut()?;
        durable.fence.clone_from(&self.fence);
        durable.holder = Some((*self.envelope).to_owned());
        durable.given_back = false;
        durable.waiting.clear();
        if is_recovery {
            durable.recoveries = durable.recoveries.saturating_add(1);
        }
        let settings = &self.instance.settings;
        let (status, failure) = if is_over {
            let failure = Failure::new("LifetimeExceeded", "The operation took too long.");
            (OperationStatus::Cancelled, failure)
        } else if durable.recoveries > settings.durable.max_recoveries {
            let lost = "The servers that worked on the request are gone.";
            (OperationStatus::Failed, Failure::new(LOST, lost))
        } else {
            durable.runs = durable.runs.saturating_add(1);
            record.touch();
            return None;
        };
        record.end(status, Some(failure.clone()), settings.retention);
        Some(failure)
    }
}

fn begin(record: Record, revision: Revision, memory: Recollection) -> Takeover {
    let held = Held {
        record,
        revision,
        is_current: true,
    };
    Takeover::Run(held.into(), memory)
}

/// Reads all that an operation remembers, oldest first.
pub(super) async fn recall(
    instance: &Instance,
    key: &Key,
    durable: &Durable,
) -> Result<Vec<Entry>, BackendError> {
    let backend = &instance.records.backend;
    durable.journal.read(backend, &key.memory()).await
}

/// Reads all that an operation remembers, by name.
pub(super) async fn recollect(
    instance: &Instance,
    key: &Key,
    durable: &Durable,
) -> Result<Recollection, BackendError> {
    let journal = &durable.journal;
    let entries = recall(instance, key, durable).await?;
    Ok(Recollection::of((journal.len(), journal.bytes()), &entries))
}
