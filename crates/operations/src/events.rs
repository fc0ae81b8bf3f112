//! The event stream of an operation.

use super::body::OperationBody;
use super::document::document;
use super::instance::Instance;
use super::observe;
use super::record::{Key, Record};
use super::reply::{Reply, no_store};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode, request};
use std::sync::Arc;
use tokio::select;
use tokio::time::sleep;
use tower_promises_backend::kit::topics::Subscription;

const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The delay before a client with a broken stream reconnects.
const RETRY_MILLISECONDS: u32 = 2000;

/// Answers `GET P/events`.
pub(super) fn answer<R>(
    instance: &Arc<Instance>,
    key: Key,
    record: &Record,
    request: &request::Parts,
) -> Reply<R> {
    let last = request.headers.get(LAST_EVENT_ID);
    let last: Option<u64> = last.and_then(|id| id.to_str().ok()?.trim().parse().ok());
    // An id above the current version is not the id of an event. Waiting for later versions might never end.
    let last = last.filter(|last| *last <= record.version);
    if record.status.is_terminal() && last == Some(record.version) {
        // The client has seen the end. Status 204 stops it from reconnecting.
        let mut response = Response::new(Bytes::new().into());
        *response.status_mut() = StatusCode::NO_CONTENT;
        no_store(response.headers_mut());
        return response;
    }
    let mut response = Response::new(if request.method == Method::HEAD {
        Bytes::new().into()
    } else {
        let events = Events {
            // Subscribes before the record is read, so that no change is missed.
            news: instance.changes.all(&key),
            instance: instance.clone(),
            key,
            last,
            is_first: true,
            is_over: false,
        };
        let events = stream::unfold(events, async |mut events| {
            let event = events.next().await?;
            Some((event, events))
        });
        // A compression layer polls a body again after its end.
        OperationBody::stream(Box::pin(events.fuse()))
    });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Both headers make proxies forward each event at once: RFC 10036, and the header of nginx and similar proxies.
    headers.insert(INCREMENTAL, HeaderValue::from_static("?1"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    no_store(headers);
    response
}

struct Events {
    instance: Arc<Instance>,
    key: Key,
    news: Subscription,
    /// The version that the client has seen.
    last: Option<u64>,
    is_first: bool,
    is_over: bool,
}

impl Events {
    /// Returns the next event or comment. An event has the latest state, however long the client has not read.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.is_over {
                return None;
            }
            match self.instance.read_or_declare_lost(&self.key).await {
                Ok(Some(record)) => {
                    self.is_over = record.status.is_terminal();
                    if self.last.is_none_or(|last| record.version > last) {
                        return Some(self.event(&record));
                    }
                }
                // The operation was removed or has expired. A client that reconnects gets 404 or 410.
                Ok(None) => return None,
                // The stream continues: the next read may succeed.
                Err(error) => observe::backend_failed(&self.key, &error),
            }
            if self.is_over {
                return None;
            }
            let settings = &self.instance.settings;
            select! {
                () = self.news.notified() => {}
                // The end of a lease is not announced.
                () = sleep(settings.heartbeat.min(settings.lease)) => {
                    return Some(Bytes::from_static(b":\n\n"));
                }
                // A client that connects again reaches another process.
                () = self.instance.drain.given_up() => return None,
            }
        }
    }

    fn event(&mut self, record: &Record) -> Bytes {
        self.last = Some(record.version);
        let name = if self.is_over { "done" } else { "status" };
        let links = self.instance.settings.links(&record.id);
        // This JSON has no line breaks, so it is one line of data.
        let document = document(record, &links);
        let version = record.version;
        let retry = if std::mem::take(&mut self.is_first) {
            format!("retry: {RETRY_MILLISECONDS}\n")
        } else {
            String::new()
        };
        format!("event: {name}\nid: {version}\n{retry}data: {document}\n\n").into()
    }
}
