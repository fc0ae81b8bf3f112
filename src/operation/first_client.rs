//! What the client that has sent an idempotency key first is told, and when its key is free again.

use super::claim;
use super::observe;
use super::progress::Report;
use super::record::Failure;
use super::records::Changed;
use super::result::Outcome;
use super::runner::{Runner, repeat};
use super::status::Status;
use super::work::{failed, panicked};
use crate::BoxError;
use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use std::any::Any;
use tokio::sync::oneshot;

/// The key of an operation, and the client that has sent it first.
pub(super) struct Keyed<E> {
    /// The name of the key in the store.
    pub(super) name: String,
    /// The id of the operation.
    pub(super) id: String,
    /// Open while that client waits for its first reply.
    pub(super) first: oneshot::Sender<Told<E>>,
}

/// What the first client of a key is told in place of what is stored.
pub(super) enum Told<E> {
    /// A refusal that is not remembered.
    Response(Outcome),
    Error(E),
    Panic(Box<dyn Any + Send>),
}

impl<R, E> Runner<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    /// Stores an error or a panic as the end, and hands it to the client that waits, so that layers outside see it as
    /// they do without a key.
    pub(super) async fn raised(&self, told: Told<E>, keyed: Option<Keyed<E>>, report: &Report) {
        let has_begun = self.work.progress().has_begun();
        let Some(keyed) = keyed else {
            let failure = self.log(told);
            return self.end(Status::Failed, Some(failure), None, report).await;
        };
        if !has_begun && self.forget(&keyed).await {
            if let Err(told) = keyed.first.send(told) {
                self.log(told);
            }
            return;
        }
        let failure = failed(match told {
            Told::Panic(_) => "Panicked",
            _ => "ServiceError",
        });
        self.end(Status::Failed, Some(failure), None, report).await;
        if !has_begun {
            self.release(&keyed).await;
        }
        if let Err(told) = keyed.first.send(told) {
            self.log(told);
        }
    }

    /// Tells the log of what no layer outside sees.
    fn log(&self, told: Told<E>) -> Failure {
        match told {
            Told::Panic(panic) => panicked(&self.key, &*panic),
            Told::Error(error) => {
                observe::service_failed(&self.key, &*error.into());
                failed("ServiceError")
            }
            Told::Response(_) => failed("ServiceError"),
        }
    }

    /// Removes an operation of which no client was told, and frees its key. Returns whether its first client still waits
    /// for its reply.
    pub(super) async fn forget(&self, keyed: &Keyed<E>) -> bool {
        if keyed.first.is_closed() {
            return false;
        }
        let (core, key) = (&self.core, &self.key);
        let retention = core.settings.retention;
        // The end takes it away from the client that is about to be told of the operation, or the other way round.
        let end = || {
            core.records.change(key, |record| {
                if record.status.is_terminal() || !record.in_flight {
                    return false;
                }
                record.end(Status::Failed, Some(failed("Refused")), retention);
                true
            })
        };
        let Ok(Changed::Yes(_)) = repeat(key, end).await else {
            return false;
        };
        core.discard(key).await;
        self.release(keyed).await;
        observe::not_remembered(key);
        true
    }

    pub(super) async fn release(&self, keyed: &Keyed<E>) {
        let (core, key) = (&self.core, &self.key);
        let release = || claim::release(&core.records, &keyed.name, &keyed.id);
        let _ = repeat(key, release).await;
    }
}

/// Whether a status says that the request may be sent again later, and that nothing has come of it.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE
}
