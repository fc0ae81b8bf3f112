//! The status document of an operation and its addresses.

use super::memory::{WaitKind, Waiting};
use super::record::{OperationStatus, Record};
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

/// The addresses of an operation.
#[derive(Clone, Debug)]
pub(super) struct Links {
    pub(super) own: String,
    pub(super) events: String,
    pub(super) result: String,
    pub(super) cancel: String,
}

impl Links {
    /// `origin` is empty for addresses that are path-absolute.
    pub(super) fn new(origin: &str, mount: &str, id: &str) -> Self {
        let own = format!("{origin}{mount}/{id}");
        Self {
            events: format!("{own}/events"),
            result: format!("{own}/result"),
            cancel: format!("{own}/cancel"),
            own,
        }
    }
}

/// The status document. Its members have the order of the wire contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    id: &'a str,
    status: OperationStatus,
    progress: Option<serde_json::Number>,
    message: Option<&'a str>,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    updated: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<String>,
    expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_for: Vec<WaitingPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_location: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorPart<'a>>,
    links: LinksPart<'a>,
}

#[derive(Serialize)]
struct ErrorPart<'a> {
    code: &'a str,
    message: &'a str,
}

/// A promise that a suspended operation waits for.
#[derive(Serialize)]
struct WaitingPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    kind: WaitKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Serialize)]
struct LinksPart<'a> {
    #[serde(rename = "self")]
    own: &'a str,
    events: &'a str,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel: Option<&'a str>,
}

/// The promises that a suspended operation waits for.
pub(super) fn waiting(record: &Record) -> impl Iterator<Item = &Waiting> {
    let durable = record.durable.as_deref();
    let waiting = durable.into_iter().flat_map(|durable| &durable.waiting);
    waiting.filter(|_| !record.status.is_terminal())
}

impl<'a> WaitingPart<'a> {
    fn of(waiting: &'a Waiting) -> Self {
        Self {
            name: waiting.shown_name(),
            kind: waiting.kind,
            until: waiting.until.map(timestamp),
        }
    }
}

/// Returns the document as JSON, on one line.
pub(super) fn document(record: &Record, links: &Links) -> String {
    let succeeded = record.status == OperationStatus::Succeeded;
    let durable = record.durable.as_deref();
    let document = Document {
        id: &record.id,
        status: record.status,
        progress: record.progress.and_then(number),
        message: record.message.as_deref(),
        created: timestamp(record.created),
        started: record.started.map(timestamp),
        updated: timestamp(record.updated),
        finished: record.finished.map(timestamp),
        expires: timestamp(record.expires),
        attempt: durable.map(|durable| durable.runs).filter(|runs| *runs > 1),
        waiting_for: waiting(record).map(WaitingPart::of).collect(),
        resource_location: succeeded.then_some(&*links.result),
        error: record.error.as_ref().map(|error| ErrorPart {
            code: &error.code,
            message: &error.message,
        }),
        links: LinksPart {
            own: &links.own,
            events: &links.events,
            result: &links.result,
            // An operation that has ended keeps the link, as it keeps the others.
            cancel: (!record.refuses_cancel()).then_some(&links.cancel),
        },
    };
    serde_json::to_string(&document).expect("strings and finite numbers are JSON")
}

/// Converts to a JSON number, without `.0` for whole numbers.
fn number(progress: f64) -> Option<serde_json::Number> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 to 100"
    )]
    let whole = progress as u64;
    #[expect(clippy::cast_precision_loss, reason = "it is from 0 to 100")]
    if (whole as f64).to_bits() == progress.to_bits() {
        return Some(whole.into());
    }
    serde_json::Number::from_f64(progress)
}

/// Formats milliseconds since the epoch as RFC 3339.
fn timestamp(milliseconds: u64) -> String {
    // The year 9999 is the last in this format.
    let last = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(milliseconds.min(last));
    humantime::format_rfc3339_millis(time).to_string()
}
