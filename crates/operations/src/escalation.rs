//! Escalation: a request whose inner response takes longer than its client waits becomes an operation.

use super::body::OperationBody;
use super::inner_call::{Call, Work, unwrapped};
use super::instance::Instance;
use super::limits::Admission;
use super::metrics::{self, FirstReply};
use super::mount::UnreachableMount;
use super::observe;
use super::prefer::Preferences;
use super::progress::Report;
use super::record::{Key, Record, Requester};
use super::records::Records;
use super::reply::{self, Reply, varying};
use super::runner::Runner;
use super::settings::OnDisconnect;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::select;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::sleep;
use tower_promises_backend::{BackendError, BoxError};

/// The client of a request that can become an operation: the data that its first reply depends on.
pub(super) struct Client {
    pub(super) requester: Requester,
    pub(super) preferences: Preferences,
    /// How long the client waits.
    pub(super) patience: Duration,
    pub(super) headers: HeaderMap,
}

impl Client {
    /// The reply that gives the client the address of an operation.
    pub(super) fn accepted<R>(&self, instance: &Instance, record: &Record) -> Reply<R> {
        if instance.mount.gives() {
            observe::suspicious(&UnreachableMount::at(&instance.settings.mount));
        }
        reply::accepted(&instance.settings, record, self.preferences, &self.headers)
    }
}

/// Answers with the inner response, if it begins while the client waits, and else with the address of an operation.
pub(super) async fn answer<R, E>(
    instance: Arc<Instance>,
    client: Client,
    admission: Admission,
    call: Call<R, E>,
) -> Result<Reply<R>, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    let mut waiting = Waiting {
        instance: instance.clone(),
        requester: client.requester.clone(),
        running: Some((call, admission)),
    };
    let (call, _) = waiting
        .running
        .as_mut()
        .expect("it is there until it is taken");
    select! {
        biased;
        ended = &mut *call => {
            return published(ended).await;
        }
        () = sleep(client.patience) => {}
    }
    if instance.drain.is_draining() {
        return published(call.await).await;
    }
    let report = call.progress().latest();
    let mut creating = Creating::start(&instance.records, client.requester.clone(), report);
    let created = select! {
        biased;
        ended = &mut *call => return published(ended).await,
        created = creating.created() => created,
    };
    let (key, record) = match created {
        Ok(created) => created,
        Err(error) => {
            observe::stays_on_connection(&error);
            return published(call.await).await;
        }
    };
    // Registers before the check for draining, so that `drain` waits for this operation.
    let registration = instance.register(&key);
    if instance.drain.is_draining() {
        drop(registration);
        return published(call.await).await;
    }
    // A reply must not name an operation that has ended.
    if let Some(ended) = call.poll_now() {
        return published(ended).await;
    }
    if let Some((call, admission)) = waiting.running.take() {
        creating.keep();
        let work = Work::Calling(call);
        tokio::spawn(Runner::new(registration, work, admission, None).run());
    }
    metrics::replied(FirstReply::Accepted);
    Ok(client.accepted(&instance, &record))
}

/// Passes the end of the inner call on.
async fn published<R, E>(ended: Result<Result<Response<R>, E>, JoinError>) -> Result<Reply<R>, E> {
    metrics::replied(FirstReply::Inline);
    let response = unwrapped(ended).await?;
    Ok(varying(response.map(OperationBody::inner)))
}

/// An operation that is being created. Dropping it discards the operation, unless [`keep`](Self::keep) was called.
struct Creating {
    records: Records,
    task: Option<JoinHandle<Result<(Key, Record), BackendError>>>,
    created: Option<Record>,
}

impl Creating {
    fn start(records: &Records, requester: Requester, report: Report) -> Self {
        let create = {
            let records = records.clone();
            async move { records.create(requester, report, None).await }
        };
        Self {
            records: records.clone(),
            task: Some(tokio::spawn(create)),
            created: None,
        }
    }

    /// Resolves once, to the created operation. Cancel safe.
    async fn created(&mut self) -> Result<(Key, Record), BackendError> {
        let Some(task) = &mut self.task else {
            return std::future::pending().await;
        };
        let created = task.await;
        self.task = None;
        let (key, record) = created.map_err(BackendError::unavailable)??;
        self.created = Some(record.clone());
        Ok((key, record))
    }

    fn keep(mut self) {
        self.created = None;
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        let (task, created) = (self.task.take(), self.created.take());
        if task.is_none() && created.is_none() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let records = self.records.clone();
        runtime.spawn(async move {
            let mut created = created;
            if let Some(task) = task {
                created = task
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .map(|(_, record)| record);
            }
            if let Some(record) = created {
                records.discard(&record).await;
            }
        });
    }
}

/// Work whose client waits. If the client disconnects and drops it before the end, the work continues where that is
/// configured.
struct Waiting<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    instance: Arc<Instance>,
    requester: Requester,
    running: Option<(Call<R, E>, Admission)>,
}

impl<R, E> Drop for Waiting<R, E>
where
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    fn drop(&mut self) {
        let Some((call, admission)) = self.running.take() else {
            return;
        };
        if call.has_ended() || self.instance.settings.on_disconnect == OnDisconnect::Drop {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (instance, requester) = (self.instance.clone(), self.requester.clone());
        runtime.spawn(async move {
            let report = call.progress().latest();
            match instance.records.create(requester, report, None).await {
                Ok((key, _)) => {
                    let work = Work::Calling(call);
                    let registration = instance.register(&key);
                    Runner::new(registration, work, admission, None).run().await;
                }
                Err(error) => {
                    // The work continues without an address.
                    observe::stays_on_connection(&error);
                    let _ = call.await;
                }
            }
        });
    }
}
