use super::document::Links;
use super::limits::Share;
use super::page::{PageContext, Strings};
use super::record::{RECORD_BYTES, principal_digest};
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{Method, request};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The default time that a client waits for its first reply.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(2);

/// The default limit on the wait that a client can request.
pub const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(30);

/// The default mount path.
pub const DEFAULT_MOUNT: &str = "/.operations";

/// The default number of requests that can become operations and that a process runs at the same time.
pub const DEFAULT_MAX_RUNNING: usize = 1000;

/// The default number of these requests of a principal.
pub const DEFAULT_MAX_RUNNING_PER_PRINCIPAL: usize = 20;

/// The default number of bytes of a request body that are read before the work begins.
pub const DEFAULT_MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// The default limit on the size of a result, in bytes.
pub const DEFAULT_MAX_RESULT_BYTES: usize = 4 * 1024 * 1024;

/// The default limit on the size of all results of a process, in bytes.
pub const DEFAULT_MAX_STORED_BYTES: usize = 32 * 1024 * 1024;

/// The default lifetime of an operation.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// The default time for which an operation is stored after its end.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(60 * 60);

/// The default interval at which progress is written to the store.
pub const DEFAULT_PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The default time that an operation stays valid after the last sign of life of its process.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// The default delay in `Retry-After`.
pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The default interval between comments in an idle event stream.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);

/// The default timeout of a backend call.
pub const DEFAULT_BACKEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The default number of request bodies that a process receives at the same time.
pub(super) const RECEIVING: usize = 256;

/// The default number of these bodies of a principal.
pub(super) const RECEIVING_PER_PRINCIPAL: usize = 20;

/// The default time that the body of a request may take to arrive.
pub(super) const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether a request becomes an operation when it takes longer than the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Escalate {
    /// The request stays on its connection. Its response has no `Vary`.
    Never,
    /// The request becomes an operation if the client sends `Prefer: respond-async`.
    WhenPreferred,
    /// The request becomes an operation, with or without a preference of the client.
    Always,
}

/// What happens to the work of a client that disconnects before its first reply. After the reply the work always
/// continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// The work is dropped, as in a server without the layer.
    #[default]
    Drop,
    /// The work continues as an operation. Its client does not know the id, but its principal finds the operation with
    /// [`Operations::list`](super::Operations::list).
    Continue,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) wait: Duration,
    pub(super) max_wait: Duration,
    /// Without a trailing slash.
    pub(super) mount: Arc<str>,
    /// Empty for addresses that are path-absolute.
    pub(super) origin: Arc<str>,
    pub(super) predicate: Arc<Predicate>,
    pub(super) principal: Arc<Principal>,
    pub(super) on_disconnect: OnDisconnect,
    pub(super) idempotency_keys: bool,
    pub(super) result_once: bool,
    pub(super) max_running: usize,
    pub(super) max_running_per_principal: usize,
    pub(super) max_receiving: usize,
    pub(super) max_receiving_per_principal: usize,
    pub(super) receive_timeout: Duration,
    pub(super) max_body_bytes: usize,
    pub(super) max_result_bytes: usize,
    pub(super) max_stored_bytes: usize,
    /// `None` derives the value from the other limits.
    pub(super) max_stored_bytes_per_principal: Option<usize>,
    pub(super) lifetime: Duration,
    pub(super) retention: Duration,
    pub(super) progress_interval: Duration,
    pub(super) lease: Duration,
    pub(super) retry_after: Duration,
    pub(super) heartbeat: Duration,
    pub(super) backend_timeout: Duration,
    pub(super) page: Option<Arc<Page>>,
    pub(super) strings: Arc<Strings>,
}

pub(super) type Predicate = dyn Fn(&request::Parts) -> Escalate + Send + Sync;
pub(super) type Principal = dyn Fn(&request::Parts) -> Option<String> + Send + Sync;
pub(super) type Page = dyn Fn(&PageContext<'_>) -> String + Send + Sync;

impl Default for Settings {
    fn default() -> Self {
        Self {
            wait: DEFAULT_WAIT,
            max_wait: DEFAULT_MAX_WAIT,
            mount: DEFAULT_MOUNT.into(),
            origin: "".into(),
            predicate: Arc::new(by_method),
            principal: Arc::new(|_| None),
            on_disconnect: OnDisconnect::default(),
            idempotency_keys: false,
            result_once: false,
            max_running: DEFAULT_MAX_RUNNING,
            max_running_per_principal: DEFAULT_MAX_RUNNING_PER_PRINCIPAL,
            max_receiving: RECEIVING,
            max_receiving_per_principal: RECEIVING_PER_PRINCIPAL,
            receive_timeout: RECEIVE_TIMEOUT,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            max_result_bytes: DEFAULT_MAX_RESULT_BYTES,
            max_stored_bytes: DEFAULT_MAX_STORED_BYTES,
            max_stored_bytes_per_principal: None,
            lifetime: DEFAULT_LIFETIME,
            retention: DEFAULT_RETENTION,
            progress_interval: DEFAULT_PROGRESS_INTERVAL,
            lease: DEFAULT_LEASE,
            retry_after: DEFAULT_RETRY_AFTER,
            heartbeat: DEFAULT_HEARTBEAT,
            backend_timeout: DEFAULT_BACKEND_TIMEOUT,
            page: None,
            strings: Arc::default(),
        }
    }
}

/// The default predicate. Requests that change data become operations; requests that read do so if their client prefers
/// it.
fn by_method(request: &request::Parts) -> Escalate {
    match request.method {
        // The client of a gRPC call may wait for a message before it sends the next, so the body cannot be read first.
        _ if is_grpc(request) => Escalate::Never,
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => Escalate::Always,
        Method::HEAD | Method::OPTIONS | Method::TRACE => Escalate::Never,
        _ => Escalate::WhenPreferred,
    }
}

/// Whether the media type begins with `application/grpc`.
fn is_grpc(request: &request::Parts) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let content_type = request.headers.get(CONTENT_TYPE);
    let begin = content_type.and_then(|value| value.as_bytes().get(..GRPC.len()));
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(GRPC))
}

impl Settings {
    /// Whether responses to a request depend on the headers that `Vary` names, where `escalate` is the predicate's
    /// decision. Responses to `HEAD` have the headers of responses to `GET`, so they also depend on them if only the
    /// `GET` request can become an operation.
    pub(super) fn varies(&self, request: &mut request::Parts, escalate: Escalate) -> bool {
        if escalate != Escalate::Never {
            return true;
        }
        if request.method != Method::HEAD {
            return false;
        }
        request.method = Method::GET;
        let as_get = self.escalate(request);
        request.method = Method::HEAD;
        as_get != Escalate::Never
    }

    /// Returns the predicate's decision. Requests that need their connection never become operations.
    pub(super) fn escalate(&self, request: &request::Parts) -> Escalate {
        let upgrades = request.headers.contains_key(UPGRADE)
            || request.headers.get_all(CONNECTION).iter().any(|value| {
                let names = value.as_bytes().split(|byte| *byte == b',');
                names
                    .into_iter()
                    .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
            });
        if upgrades || request.method == Method::CONNECT {
            return Escalate::Never;
        }
        (self.predicate)(request)
    }

    /// Returns the principal of a request, as a digest.
    pub(super) fn principal(&self, request: &request::Parts) -> Option<String> {
        let principal = (self.principal)(request);
        principal.map(|principal| principal_digest(&principal))
    }

    pub(super) fn links(&self, id: &str) -> Links {
        Links::new(&self.origin, &self.mount, id)
    }

    /// Returns the limits in total and per principal.
    pub(super) fn shares(&self) -> (Share, Share) {
        let one = self.max_result_bytes.saturating_add(RECORD_BYTES);
        let stored_bytes = self.max_stored_bytes_per_principal;
        let total = Share {
            running: self.max_running,
            receiving: self.max_receiving,
            stored_bytes: self.max_stored_bytes,
        };
        let per_principal = Share {
            running: self.max_running_per_principal,
            receiving: self.max_receiving_per_principal,
            stored_bytes: stored_bytes.unwrap_or((self.max_stored_bytes / 4).max(one)),
        };
        (total, per_principal)
    }

    /// The longest time between the acceptance of an operation and its end in the store.
    pub(super) fn longest(&self) -> Duration {
        self.lifetime.saturating_add(self.retention)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("wait", &self.wait)
            .field("max_wait", &self.max_wait)
            .field("mount", &self.mount)
            .field("origin", &self.origin)
            .field("on_disconnect", &self.on_disconnect)
            .field("idempotency_keys", &self.idempotency_keys)
            .field("result_once", &self.result_once)
            .field("lifetime", &self.lifetime)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}
