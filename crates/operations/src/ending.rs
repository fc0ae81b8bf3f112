//! The end of an operation: what is stored, and what the client that sent an idempotency key first gets.

use super::changes::ENDED;
use super::inner_call::{failed, panicked, too_large};
use super::instance::Instance;
use super::limits::Admission;
use super::metrics;
use super::progress::Report;
use super::record::{Failure, Key, OperationStatus, RECORD_BYTES, Record, Stored};
use super::records::{Changed, repeat};
use super::result::Outcome;
use super::{claim, observe};
use std::any::Any;
use std::time::Duration;
use tokio::sync::oneshot;
use tower_promises_backend::{BackendError, BoxError};

/// The idempotency key of an operation, and the client that sent it first.
pub(super) struct Keyed<E> {
    /// The name of the key in the store.
    pub(super) name: String,
    /// The operation as created.
    pub(super) record: Box<Record>,
    /// Open while the client waits for its first reply.
    pub(super) first: oneshot::Sender<Told<E>>,
}

/// The reply to the first client of a key, in place of the stored result.
pub(super) enum Told<E> {
    /// A refusal that is not remembered.
    Response(Outcome),
    Error(E),
    Panic(Box<dyn Any + Send>),
    /// The work was given up before it began.
    Unavailable,
}

/// Work that has stopped, and what is needed to store its end.
pub(super) struct Ending<'a> {
    pub(super) instance: &'a Instance,
    pub(super) key: &'a Key,
    pub(super) admission: &'a Admission,
    /// The latest report of the work.
    pub(super) report: &'a Report,
    /// Whether the work has begun, so that it may have had effects.
    pub(super) has_begun: bool,
    /// The run of a durable operation that ends. `None` for any other operation.
    pub(super) run: Option<EndingRun<'a>>,
}

/// The run of a durable operation that ends: its fence and its number.
#[derive(Clone, Copy)]
pub(super) struct EndingRun<'a> {
    pub(super) fence: &'a str,
    pub(super) number: u32,
}

/// Ends without an idempotency key.
impl Ending<'_> {
    /// Stores the response as the result.
    pub(super) async fn answered(&self, outcome: Outcome) {
        let (instance, key) = (self.instance, self.key);
        let retention = instance.settings.retention;
        let fail = |failure| self.end(OperationStatus::Failed, Some(failure), None);
        if outcome.status.is_informational() {
            // An informational status is not a final response, and must not be sent to a client that requests the
            // result.
            return fail(failed("ServiceError")).await;
        }
        let bytes = RECORD_BYTES + outcome.size();
        if self.run.is_some() {
            // A durable request is refused when it is sent, if there is no room. Its work is not lost at its end.
            self.admission.count(key, bytes, retention);
        } else if !self.admission.store(key, bytes, retention) {
            let full = "The server has no room to keep the result.";
            return fail(Failure::new("StorageFull", full)).await;
        }
        // A result must not expire before the record that names it.
        let time_to_live = retention + Duration::from_secs(60);
        let stored = outcome.stored(self.run.map_or(0, |run| run.number));
        let put = repeat(key, || {
            instance
                .records
                .put_result(key, &outcome, stored, time_to_live)
        });
        if let Err(error) = put.await {
            self.delete_result(stored).await;
            instance.limits.forget(key);
            return match error {
                BackendError::TooLarge { .. } => fail(too_large()).await,
                // What is remembered is not lost: the run is given back, and the next one has the same result.
                _ if self.run.is_some() => {}
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
            OperationStatus::Failed
        } else {
            OperationStatus::Succeeded
        };
        self.end(status, failure, Some(stored)).await;
    }

    /// Deletes a result that no client will request, because the operation has another end.
    async fn delete_superfluous(&self, stored: Option<Stored>) {
        if let Some(stored) = stored {
            self.delete_result(stored).await;
        }
    }

    async fn delete_result(&self, stored: Stored) {
        let deleted = self.instance.records.delete_result(self.key, stored).await;
        if let Err(error) = deleted {
            observe::backend_failed(self.key, &error);
        }
    }

    /// Stores the end, unless the operation has ended.
    async fn end(&self, status: OperationStatus, failure: Option<Failure>, stored: Option<Stored>) {
        let (instance, key) = (self.instance, self.key);
        let retention = instance.settings.retention;
        let change = || {
            instance.records.change(key, |record| {
                let fence = self.run.map(|run| run.fence);
                if record.status.is_terminal() || !record.is_owned_by(fence) {
                    return false;
                }
                record.report(self.report);
                record.end(status, failure.clone(), retention);
                record.result = stored;
                true
            })
        };
        let is_this_end = |record: &Record| {
            let end = (record.status, &record.error, record.result);
            end == (status, &failure, stored) && record.is_owned_by(self.run.map(|run| run.fence))
        };
        match repeat(key, change).await {
            // An attempt whose answer was lost has stored this end, and the next attempt finds it.
            Ok(Changed::No(record)) if !is_this_end(&record) => {
                self.admission.count(key, RECORD_BYTES, retention);
                self.delete_superfluous(stored).await;
            }
            Ok(Changed::Yes(record) | Changed::No(record)) => {
                metrics::ended(&record);
                if stored.is_none() {
                    self.admission.count(key, RECORD_BYTES, retention);
                }
                let code = failure.as_ref().map(|failure| &*failure.code);
                observe::ended(key, status, code);
                instance.announce(key, ENDED).await;
            }
            Ok(Changed::Gone) => {
                instance.limits.forget(key);
                self.delete_superfluous(stored).await;
            }
            // The end may have been stored despite the error, so the result stays and still counts.
            Err(_) if stored.is_some() => {}
            Err(_) => self.admission.count(key, RECORD_BYTES, retention),
        }
    }

    /// Counts an operation that was ended outside of its runner.
    pub(super) async fn elsewhere(&self) {
        let (instance, key) = (self.instance, self.key);
        // A removed operation has no record that needs to be counted.
        if !matches!(instance.records.read(key).await, Ok(None)) {
            self.admission
                .count(key, RECORD_BYTES, instance.settings.retention);
        }
        observe::ended(key, OperationStatus::Cancelled, None);
    }
}

/// Ends that depend on an idempotency key.
impl Ending<'_> {
    /// Ends the operation of work that has answered 503 or 429. With a key, the end is remembered only if the work has
    /// reported progress, so that it may have had an effect, or if a client has the id of the operation.
    pub(super) async fn refused<E>(&self, outcome: Outcome, keyed: Option<Keyed<E>>) {
        match keyed {
            Some(keyed) if !self.report.has_progress() => {
                if !self.forget(&keyed).await {
                    self.answered(outcome.clone()).await;
                }
                // Fails if the client has its reply already.
                let _ = keyed.first.send(Told::Response(outcome));
            }
            // The client waits until `_keyed` is dropped.
            _keyed => self.answered(outcome).await,
        }
    }

    /// Stores an error or a panic as the end, and passes it to the client that waits, so that outer layers see it as
    /// they do without a key.
    pub(super) async fn raised<E: Into<BoxError>>(&self, told: Told<E>, keyed: Option<Keyed<E>>) {
        let Some(keyed) = keyed else {
            let failure = self.log(told);
            return self.end(OperationStatus::Failed, Some(failure), None).await;
        };
        let has_begun = match told {
            // A layer refuses with an error, not with a panic. A panic may come from the handler, after an effect.
            Told::Panic(_) => self.report.is_called(),
            _ => self.has_begun,
        };
        let failure = failed(match told {
            Told::Panic(_) => "Panicked",
            _ => "ServiceError",
        });
        let end = (OperationStatus::Failed, failure);
        self.end_or_forget(end, has_begun, &keyed).await;
        if let Err(told) = keyed.first.send(told) {
            self.log(told);
        }
    }

    /// Ends the operation of work that was given up.
    pub(super) async fn given_up<E>(
        &self,
        status: OperationStatus,
        failure: Failure,
        keyed: Option<Keyed<E>>,
    ) {
        let Some(keyed) = keyed else {
            return self.end(status, Some(failure), None).await;
        };
        let end = (status, failure);
        self.end_or_forget(end, self.has_begun, &keyed).await;
        if !self.has_begun {
            let _ = keyed.first.send(Told::Unavailable);
        }
    }

    /// Stores the end of an operation. If its work has not begun, its key becomes free, and the operation is forgotten
    /// unless a client has its id.
    async fn end_or_forget<E>(
        &self,
        (status, failure): (OperationStatus, Failure),
        has_begun: bool,
        keyed: &Keyed<E>,
    ) {
        if !has_begun {
            if self.forget(keyed).await {
                return;
            }
            // Releases the key before the end is stored, because other requests with the key must not get this end.
            self.release(keyed).await;
        }
        self.end(status, Some(failure), None).await;
    }

    /// Logs a failure that no outer layer sees.
    fn log<E: Into<BoxError>>(&self, told: Told<E>) -> Failure {
        match told {
            Told::Panic(panic) => panicked(self.key, &*panic),
            Told::Error(error) => {
                observe::service_failed(self.key, &*error.into());
                failed("ServiceError")
            }
            Told::Response(_) | Told::Unavailable => failed("ServiceError"),
        }
    }

    /// Forgets an operation whose id no client has, and frees its key. Returns whether the operation is forgotten.
    ///
    /// One compare-and-set decides whether the operation is forgotten or a client gets its id. From then on the key is
    /// free, even if this process ends.
    async fn forget<E>(&self, keyed: &Keyed<E>) -> bool {
        let (instance, key) = (self.instance, self.key);
        let forget = || {
            instance.records.change(key, |record| {
                if record.status.is_terminal() || record.told {
                    return false;
                }
                record.forgotten = true;
                true
            })
        };
        match repeat(key, forget).await {
            // The operation is also gone if an earlier attempt has succeeded whose answer was lost.
            Ok(Changed::Yes(_) | Changed::Gone) => {}
            Ok(Changed::No(_)) => return false,
            Err(_) => {
                // The key may be in a part of the store that still answers.
                self.release(keyed).await;
                return false;
            }
        }
        self.release(keyed).await;
        instance.records.discard(&keyed.record).await;
        observe::not_remembered(key);
        true
    }

    async fn release<E>(&self, keyed: &Keyed<E>) {
        let (instance, key) = (self.instance, self.key);
        let release = || claim::release(&instance.records.backend, &keyed.name, &keyed.record.id);
        let _ = repeat(key, release).await;
    }
}
