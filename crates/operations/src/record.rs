//! The stored data of an operation.

use super::memory::Durable;
use super::progress::Report;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::{milliseconds, now};

/// The status of an operation. [`as_str`](Self::as_str) returns the spelling of the wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OperationStatus {
    /// Accepted. The inner service is not ready for it yet.
    NotStarted,
    /// The inner service is running.
    Running,
    /// The inner service has answered with a status below 400.
    Succeeded,
    /// The inner service has answered with a status of 400 or more, or has not answered: it panicked, its process was
    /// lost, or its response is too large to be stored.
    Failed,
    /// Cancelled by its owner or by the end of its lifetime. `Canceled` on the wire.
    #[serde(rename = "Canceled")]
    Cancelled,
}

impl OperationStatus {
    /// Whether the status is final.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Returns the spelling on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "NotStarted",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Canceled",
        }
    }
}

impl fmt::Display for OperationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of an operation. It is changed only by compare-and-set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    /// Increases with each change that the document shows.
    pub(super) version: u64,
    pub(super) status: OperationStatus,
    pub(super) progress: Option<f64>,
    pub(super) message: Option<String>,
    // All times are milliseconds since the epoch.
    pub(super) created: u64,
    pub(super) started: Option<u64>,
    pub(super) updated: u64,
    pub(super) finished: Option<u64>,
    /// The latest expiry in the store.
    pub(super) expires: u64,
    pub(super) error: Option<Failure>,
    /// The digest of the principal.
    pub(super) principal: Option<String>,
    /// The token in the form on the page.
    pub(super) token: String,
    /// The client waits for its first reply.
    pub(super) in_flight: bool,
    /// A client that has sent its idempotency key has the id.
    #[serde(default)]
    pub(super) told: bool,
    /// The request was refused and no client has the id: the operation counts as absent, and its idempotency key as
    /// free.
    #[serde(default)]
    pub(super) forgotten: bool,
    /// The name of its idempotency key in the store.
    #[serde(default)]
    pub(super) claim: Option<String>,
    /// The address that the client wants to be called at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) callback: Option<String>,
    /// The application is still to be told of the end.
    #[serde(default)]
    pub(super) untold: bool,
    /// The stored response, if the inner service has answered.
    pub(super) result: Option<Stored>,
    /// The result could be read once, and has been read.
    pub(super) consumed: bool,
    /// The state of a durable operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) durable: Option<Box<Durable>>,
}

/// The approximate size of a stored operation without its result.
pub(super) const RECORD_BYTES: usize = 1024;

/// The origin of a request: its principal and its time.
#[derive(Clone)]
pub(super) struct Requester {
    /// A digest.
    pub(super) principal: Option<String>,
    /// In milliseconds since the epoch.
    pub(super) received: u64,
    /// The address that the client wants to be called at the end.
    pub(super) callback: Option<String>,
}

/// The reason why an operation has failed or was cancelled. Neither part is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// The size of a stored result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) chunks: usize,
    pub(super) bytes: usize,
    /// The number of the run that has stored the result of a durable operation. Two runs may store results at the same
    /// time if one of them was suspended, so each has its own.
    #[serde(default)]
    pub(super) run: u32,
}

impl Record {
    /// Whether the handler has refused that clients cancel the operation.
    pub(super) fn refuses_cancel(&self) -> bool {
        let durable = self.durable.as_ref();
        durable.is_some_and(|durable| durable.refuses_cancel)
    }

    /// Whether clients can cancel the operation.
    pub(super) fn can_cancel(&self) -> bool {
        !self.status.is_terminal() && !self.refuses_cancel()
    }

    pub(super) fn new(id: String, token: String, requester: Requester, longest: Duration) -> Self {
        let Requester {
            principal,
            received,
            callback,
        } = requester;
        let now = now().max(received);
        Self {
            id,
            version: 1,
            status: OperationStatus::NotStarted,
            progress: None,
            message: None,
            created: received,
            started: None,
            updated: now,
            finished: None,
            expires: now.saturating_add(milliseconds(longest)),
            error: None,
            principal,
            token,
            in_flight: false,
            told: false,
            forgotten: false,
            claim: None,
            callback,
            untold: false,
            result: None,
            consumed: false,
            durable: None,
        }
    }

    /// Whether the run with this fence owns the operation. An operation that is not durable has one run only.
    pub(super) fn is_owned_by(&self, fence: Option<&str>) -> bool {
        fence.is_none_or(|fence| {
            let durable = self.durable.as_ref();
            durable.is_some_and(|durable| durable.fence == fence)
        })
    }

    /// Copies the report of the work. Returns whether the record has changed.
    pub(super) fn report(&mut self, report: &Report) -> bool {
        let before = self.clone();
        if report.started.is_some() && self.status == OperationStatus::NotStarted {
            self.status = OperationStatus::Running;
        }
        // The clock may have been set back since the creation. A later run of a durable operation starts once more.
        let started = report.started.map(|started| started.max(self.created));
        self.started = self.started.or(started);
        if report.has_progress() {
            self.progress = report.progress.percent;
            self.message.clone_from(&report.progress.message);
        }
        *self != before
    }

    /// Records the end. The caller checks that the operation has not ended.
    pub(super) fn end(
        &mut self,
        status: OperationStatus,
        error: Option<Failure>,
        retention: Duration,
    ) {
        let now = self.touch();
        self.status = status;
        self.error = error;
        self.finished = Some(now);
        self.expires = now.saturating_add(milliseconds(retention));
        self.in_flight = false;
    }

    /// Starts a new version and returns its time.
    pub(super) fn touch(&mut self) -> u64 {
        self.version += 1;
        self.updated = now().max(self.updated);
        self.updated
    }

    /// Returns how long the store must keep what the record refers to: longer than the record.
    pub(super) fn time_to_live_of_parts(&self) -> Duration {
        self.time_to_live().saturating_add(Duration::from_secs(60))
    }

    /// Returns how long the store must keep the record.
    pub(super) fn time_to_live(&self) -> Duration {
        // At least a second: a backend may treat zero as no expiry.
        Duration::from_millis(self.expires.saturating_sub(now()).max(1000))
    }
}

/// The name of an operation in the store, on the bus and within the process: a digest of its id. The id is a capability
/// and must not appear in a log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(Arc<str>);

impl Key {
    pub(super) fn of(id: &str) -> Self {
        Self(digest(&[id.as_bytes()]).into())
    }

    pub(super) fn parse(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn record(&self) -> String {
        format!("operation/record/{}", self.0)
    }

    pub(super) fn lease(&self) -> String {
        format!("operation/lease/{}", self.0)
    }

    /// Returns the name of the tombstone, which outlives the record so that the owner gets 410.
    pub(super) fn tombstone(&self) -> String {
        format!("operation/tombstone/{}", self.0)
    }

    pub(super) fn head(&self, run: u32) -> String {
        format!("{}/head", self.result(run))
    }

    pub(super) fn chunk(&self, run: u32, number: usize) -> String {
        format!("{}/{number}", self.result(run))
    }

    fn result(&self, run: u32) -> String {
        match run {
            0 => format!("operation/result/{}", self.0),
            run => format!("operation/result/{}/run/{run}", self.0),
        }
    }

    /// Returns the prefix of the stored request of a durable operation.
    pub(super) fn request(&self) -> String {
        format!("operation/request/{}", self.0)
    }

    /// Returns the prefix of what a durable operation remembers beyond its record.
    pub(super) fn memory(&self) -> String {
        format!("operation/memory/{}", self.0)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn topic(&self) -> String {
        format!("{TOPIC_PREFIX}{}", self.0)
    }
}

pub(super) const TOPIC_PREFIX: &str = "operation/";

/// Writes the part of the digest that appears in the log.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..8).unwrap_or(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Returns the SHA-256 digest of the parts, each with its length, in hexadecimal.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hexadecimal(&hash.finalize())
}

/// Returns the form in which the store contains a principal.
pub(super) fn principal_digest(principal: &str) -> String {
    digest(&[principal.as_bytes()])
}

/// Returns 128 random bits in hexadecimal, for an id or a token.
pub(super) fn random() -> Result<String, BackendError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| BackendError::unavailable(format!("no random numbers: {error}")))?;
    Ok(hexadecimal(&bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
