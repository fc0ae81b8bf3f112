use super::document::Links;
use super::limits::Share;
use super::page::{ErrorContext, PageContext, Strings};
use super::prefer::callback;
use super::record::{RECORD_BYTES, Record, principal_digest};
use futures_util::future::BoxFuture;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CONNECTION, CONTENT_LANGUAGE, CONTENT_TYPE, HOST, HeaderName, UPGRADE,
    USER_AGENT,
};
use http::{Method, request};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::BoxError;
use tower_promises_backend::kit::clock;

/// The default mount path.
pub(super) const MOUNT: &str = "/.operations";

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
    pub(super) escalate: Arc<EscalateFn>,
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
    pub(super) error_page: Option<Arc<ErrorPage>>,
    pub(super) on_end: Option<Arc<OnEnd>>,
    pub(super) callbacks: Option<Arc<Callbacks>>,
    pub(super) strings: Arc<Strings>,
    pub(super) durable: DurableSettings,
    /// The present time in milliseconds since the epoch.
    pub(super) clock: Arc<Clock>,
}

/// The settings of durable operations.
#[derive(Clone)]
pub(super) struct DurableSettings {
    /// `None` if no operation is durable.
    pub(super) predicate: Option<Arc<IsDurable>>,
    pub(super) rebuild: Arc<Rebuild>,
    /// The headers that are stored.
    pub(super) headers: Arc<[HeaderName]>,
    pub(super) queue: Arc<str>,
    /// A part of the key for tokens and idempotency keys. It is not stored.
    pub(super) secret: Arc<[u8]>,
    pub(super) max_runs: usize,
    pub(super) max_recoveries: u32,
    pub(super) max_remembered: usize,
    pub(super) max_remembered_bytes: usize,
    /// `usize::MAX` if there is no limit, and no count.
    pub(super) max_open: usize,
    pub(super) max_open_per_principal: usize,
    pub(super) shows: Arc<Shows>,
}

impl Default for DurableSettings {
    fn default() -> Self {
        Self {
            predicate: None,
            rebuild: Arc::new(|_| {}),
            headers: Arc::new([
                ACCEPT,
                ACCEPT_LANGUAGE,
                CONTENT_LANGUAGE,
                CONTENT_TYPE,
                HOST,
                USER_AGENT,
            ]),
            queue: "operations".into(),
            secret: Arc::new([]),
            max_runs: 64,
            max_recoveries: 3,
            max_remembered: 1000,
            max_remembered_bytes: 1024 * 1024,
            max_open: 10_000,
            max_open_per_principal: 100,
            shows: Arc::new(|_| false),
        }
    }
}

pub(super) type EscalateFn = dyn Fn(&request::Parts) -> Escalate + Send + Sync;
pub(super) type Principal = dyn Fn(&request::Parts) -> Option<String> + Send + Sync;
/// Decides whether a client may set this address, which is called when its operation has ended.
pub(super) type Callbacks = dyn Fn(&request::Parts, &str) -> bool + Send + Sync;
/// Is called with the record of an operation that has ended.
pub(super) type OnEnd = dyn Fn(Record) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;
pub(super) type IsDurable = dyn Fn(&request::Parts) -> bool + Send + Sync;
pub(super) type Rebuild = dyn Fn(&mut request::Parts) + Send + Sync;
pub(super) type Shows = dyn Fn(&str) -> bool + Send + Sync;
pub(super) type Clock = dyn Fn() -> u64 + Send + Sync;
pub(super) type ErrorPage = dyn Fn(&ErrorContext<'_>) -> String + Send + Sync;

pub(super) type Page = dyn Fn(&PageContext<'_>) -> String + Send + Sync;

impl Default for Settings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(2),
            max_wait: Duration::from_secs(30),
            mount: MOUNT.into(),
            origin: "".into(),
            escalate: Arc::new(by_method),
            principal: Arc::new(|_| None),
            on_disconnect: OnDisconnect::default(),
            idempotency_keys: false,
            result_once: false,
            max_running: 1000,
            max_running_per_principal: 20,
            max_receiving: 256,
            max_receiving_per_principal: 20,
            receive_timeout: Duration::from_secs(60),
            max_body_bytes: 2 * 1024 * 1024,
            max_result_bytes: 4 * 1024 * 1024,
            max_stored_bytes: 32 * 1024 * 1024,
            max_stored_bytes_per_principal: None,
            lifetime: Duration::from_secs(60 * 60),
            retention: Duration::from_secs(60 * 60),
            progress_interval: Duration::from_millis(200),
            lease: Duration::from_secs(15),
            retry_after: Duration::from_secs(1),
            heartbeat: Duration::from_secs(15),
            backend_timeout: Duration::from_secs(5),
            page: None,
            error_page: None,
            on_end: None,
            callbacks: None,
            strings: Arc::default(),
            durable: DurableSettings::default(),
            clock: Arc::new(clock::now),
        }
    }
}

/// The default decision. Requests that change data become operations; requests that read do so if their client prefers
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

/// Whether the request begins a web socket. All other requests with `Upgrade` and `Connection: upgrade` are as durable as
/// without them: many proxies and clients add these headers, and a server may ignore them (RFC 9110, section 7.8).
fn is_web_socket(request: &request::Parts) -> bool {
    let mut protocols = request.headers.get_all(UPGRADE).iter();
    request.method == Method::GET
        && protocols.any(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether the response is a part of the connection, as after `Upgrade` and `CONNECT`.
fn needs_connection(request: &request::Parts) -> bool {
    let upgrades = request.headers.contains_key(UPGRADE)
        || request.headers.get_all(CONNECTION).iter().any(|value| {
            let mut names = value.as_bytes().split(|byte| *byte == b',');
            names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        });
    upgrades || request.method == Method::CONNECT
}

impl Settings {
    /// Whether responses to a request depend on the headers that `Vary` names, where `escalate` is the decision
    /// about the request. Responses to `HEAD` have the headers of responses to `GET`, so they also depend on them if only the
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

    /// Returns the decision of the application. Requests that need their connection never become operations.
    pub(super) fn escalate(&self, request: &request::Parts) -> Escalate {
        if needs_connection(request) {
            return Escalate::Never;
        }
        (self.escalate)(request)
    }

    /// Returns the principal of a request, as a digest.
    pub(super) fn principal(&self, request: &request::Parts) -> Option<String> {
        let principal = (self.principal)(request);
        principal.map(|principal| principal_digest(&principal))
    }

    /// Returns the address that a client wants to be called when its operation has ended, if it may set it.
    pub(super) fn callback(&self, request: &request::Parts) -> Option<String> {
        let callbacks = self.callbacks.as_ref()?;
        callback(&request.headers).filter(|url| callbacks(request, url))
    }

    /// The present time in milliseconds since the epoch.
    pub(super) fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Whether a request becomes a durable operation. The methods that only ask about a resource never do: a preflight
    /// of a browser or a link preview would be stored.
    pub(super) fn is_durable(&self, request: &request::Parts) -> bool {
        let Some(predicate) = &self.durable.predicate else {
            return false;
        };
        let never = [
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::CONNECT,
        ];
        !never.contains(&request.method) && !is_web_socket(request) && predicate(request)
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
