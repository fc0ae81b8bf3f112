//! The end of work with an idempotency key, for the client that sent the key first, and the release of the key.

use super::claim;
use super::observe;
use super::progress::Report;
use super::record::{Failure, Record};
use super::records::Changed;
use super::result::Outcome;
use super::runner::{Runner, repeat};
use super::status::Status;
use super::work::{failed, panicked};
use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use std::any::Any;
use tokio::sync::oneshot;
use tower_promises_backend::BoxError;

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

impl<R, E> Runner<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    /// Ends the operation of work that has answered 503 or 429. With a key, the end is remembered only if the work has
    /// reported progress, so that it may have had an effect, or if a client has the id of the operation.
    pub(super) async fn refused(&self, outcome: Outcome, keyed: Option<Keyed<E>>, report: &Report) {
        match keyed {
            Some(keyed) if !report.has_progress() => {
                if !self.forget(&keyed).await {
                    self.answered(outcome.clone(), report).await;
                }
                // Fails if the client has its reply already.
                let _ = keyed.first.send(Told::Response(outcome));
            }
            // The client waits until `_keyed` is dropped.
            _keyed => self.answered(outcome, report).await,
        }
    }

    /// Stores an error or a panic as the end, and passes it to the client that waits, so that outer layers see it as
    /// they do without a key.
    pub(super) async fn raised(&self, told: Told<E>, keyed: Option<Keyed<E>>, report: &Report) {
        let Some(keyed) = keyed else {
            let failure = self.log(told);
            return self.end(Status::Failed, Some(failure), None, report).await;
        };
        let has_begun = match told {
            // A layer refuses with an error, not with a panic. A panic may come from the handler, after an effect.
            Told::Panic(_) => report.is_called(),
            _ => self.work.progress().has_begun(),
        };
        let failure = failed(match told {
            Told::Panic(_) => "Panicked",
            _ => "ServiceError",
        });
        let end = (Status::Failed, failure);
        self.end_or_forget(end, has_begun, &keyed, report).await;
        if let Err(told) = keyed.first.send(told) {
            self.log(told);
        }
    }

    /// Ends the operation of work that was given up.
    pub(super) async fn given_up(
        &self,
        status: Status,
        failure: Failure,
        keyed: Option<Keyed<E>>,
        report: &Report,
    ) {
        let Some(keyed) = keyed else {
            return self.end(status, Some(failure), None, report).await;
        };
        let has_begun = self.work.progress().has_begun();
        let end = (status, failure);
        self.end_or_forget(end, has_begun, &keyed, report).await;
        if !has_begun {
            let _ = keyed.first.send(Told::Unavailable);
        }
    }

    /// Stores the end of an operation. If its work has not begun, its key becomes free, and the operation is forgotten
    /// unless a client has its id.
    async fn end_or_forget(
        &self,
        (status, failure): (Status, Failure),
        has_begun: bool,
        keyed: &Keyed<E>,
        report: &Report,
    ) {
        if !has_begun {
            if self.forget(keyed).await {
                return;
            }
            // Releases the key before the end is stored, because other requests with the key must not get this end.
            self.release(keyed).await;
        }
        self.end(status, Some(failure), None, report).await;
    }

    /// Logs a failure that no outer layer sees.
    fn log(&self, told: Told<E>) -> Failure {
        match told {
            Told::Panic(panic) => panicked(&self.key, &*panic),
            Told::Error(error) => {
                observe::service_failed(&self.key, &*error.into());
                failed("ServiceError")
            }
            Told::Response(_) | Told::Unavailable => failed("ServiceError"),
        }
    }

    /// Forgets an operation whose id no client has, and frees its key. Returns whether the operation is forgotten.
    ///
    /// One compare-and-set decides whether the operation is forgotten or a client gets its id. From then on the key is
    /// free, even if this process ends.
    async fn forget(&self, keyed: &Keyed<E>) -> bool {
        let (core, key) = (&self.core, &self.key);
        let forget = || {
            core.records.change(key, |record| {
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
        core.discard(&keyed.record).await;
        observe::not_remembered(key);
        true
    }

    async fn release(&self, keyed: &Keyed<E>) {
        let (core, key) = (&self.core, &self.key);
        let release = || claim::release(&core.records.backend, &keyed.name, &keyed.record.id);
        let _ = repeat(key, release).await;
    }
}

/// Whether a status means that the request had no effect and can be repeated later.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE
}
