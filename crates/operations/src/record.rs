//! What the store keeps of an operation.

use super::progress::Report;
use super::status::Status;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::{milliseconds, now};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// The state of an operation. Whoever changes it does so by compare-and-set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    /// Rises with each change that the document shows.
    pub(super) version: u64,
    pub(super) status: Status,
    pub(super) progress: Option<f64>,
    pub(super) message: Option<String>,
    // All times are milliseconds since the epoch.
    pub(super) created: u64,
    pub(super) started: Option<u64>,
    pub(super) updated: u64,
    pub(super) finished: Option<u64>,
    /// When the store forgets it, at the latest.
    pub(super) expires: u64,
    pub(super) error: Option<Failure>,
    /// The digest of the principal.
    pub(super) principal: Option<String>,
    /// What the form on the page sends along.
    pub(super) token: String,
    /// The client waits for its first reply.
    pub(super) in_flight: bool,
    /// A client that has sent its idempotency key was told the id.
    #[serde(default)]
    pub(super) told: bool,
    /// The request was refused and no client was told the id: the operation counts as one that does not exist, and its
    /// idempotency key as free.
    #[serde(default)]
    pub(super) forgotten: bool,
    /// What its idempotency key is called in the store.
    #[serde(default)]
    pub(super) claim: Option<String>,
    /// Where the inner service has answered.
    pub(super) result: Option<Stored>,
    /// The result was to be read once, and was.
    pub(super) consumed: bool,
}

/// Why an operation has failed or was cancelled. Neither part is empty.
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

/// How a stored result is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) chunks: usize,
    pub(super) bytes: usize,
}

impl Record {
    pub(super) fn new(
        id: String,
        token: String,
        principal: Option<String>,
        received: u64,
        longest: Duration,
    ) -> Self {
        let now = now().max(received);
        Self {
            id,
            version: 1,
            status: Status::NotStarted,
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
            result: None,
            consumed: false,
        }
    }

    /// Takes over what the work has reported. Returns whether that changes anything.
    pub(super) fn report(&mut self, report: &Report) -> bool {
        let before = self.clone();
        if report.started.is_some() && self.status == Status::NotStarted {
            self.status = Status::Running;
        }
        // A clock that is set back must not make it start before it was created.
        self.started = report.started.map(|started| started.max(self.created));
        self.progress = report.percent;
        self.message = report.message.as_deref().map(str::to_owned);
        *self != before
    }

    /// Ends it. What ended it first stays.
    pub(super) fn end(&mut self, status: Status, error: Option<Failure>, retention: Duration) {
        let now = self.touch();
        self.status = status;
        self.error = error;
        self.finished = Some(now);
        self.expires = now.saturating_add(milliseconds(retention));
        self.in_flight = false;
    }

    /// Makes it a new version.
    pub(super) fn touch(&mut self) -> u64 {
        self.version += 1;
        self.updated = now().max(self.updated);
        self.updated
    }

    /// For how long the store is to keep it.
    pub(super) fn time_to_live(&self) -> Duration {
        // At least a moment: no time at all might mean forever to a backend.
        Duration::from_millis(self.expires.saturating_sub(now()).max(1000))
    }
}

/// What an operation is called in the store, on the bus and within the process: a digest of its id, so that neither
/// shows up in a log as what it is, a capability.
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

    /// Outlives the record, so that its owner is told that it is gone.
    pub(super) fn tombstone(&self) -> String {
        format!("operation/tombstone/{}", self.0)
    }

    pub(super) fn head(&self) -> String {
        format!("operation/result/{}/head", self.0)
    }

    pub(super) fn chunk(&self, number: usize) -> String {
        format!("operation/result/{}/{number}", self.0)
    }

    pub(super) fn topic(&self) -> String {
        format!("{TOPIC_PREFIX}{}", self.0)
    }
}

pub(super) const TOPIC_PREFIX: &str = "operation/";

/// What the log shows of an operation.
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

/// The SHA-256 digest of some parts, each with its length, in hexadecimal.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hexadecimal(&hash.finalize())
}

/// 128 random bits in hexadecimal: an id, or a token.
pub(super) fn random() -> Result<String, BackendError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| BackendError::unavailable(format!("no random numbers: {error}")))?;
    Ok(hexadecimal(&bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
