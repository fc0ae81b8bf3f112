//! The conditions of a request (RFC 9110, section 13).

use super::record::Record;
use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::request;

/// Returns the tag of the status document.
pub(super) fn tag(record: &Record) -> String {
    format!("\"{}\"", record.version)
}

/// Removes the range of a request whose response is to be stored. For a request that reads, also removes the conditions
/// that would make the response a 304.
///
/// They depend on the state of the client that sends this request. The result is for every client that requests it, and
/// must not be an empty 304 or a part. Conditions that protect from lost updates stay: `If-Match`,
/// `If-Unmodified-Since`, and `If-None-Match` of a request that writes, where a failed condition is a 412 (RFC 9110,
/// section 13.1.2).
pub(super) fn remove(request: &mut request::Parts) {
    let headers = &mut request.headers;
    for name in [IF_RANGE, RANGE] {
        headers.remove(name);
    }
    // Only these methods are answered with 304.
    if matches!(request.method.as_str(), "GET" | "HEAD" | "QUERY") {
        for name in [IF_MODIFIED_SINCE, IF_NONE_MATCH] {
            headers.remove(name);
        }
    }
}

/// Whether the conditions of a request allow it to change the operation.
pub(super) fn allows(headers: &HeaderMap, record: &Record) -> bool {
    let tag = tag(record);
    matches(headers, &tag) && !is_known(headers, &tag)
}

/// Returns whether a request may cancel an operation whose record is loaded later.
pub(super) fn may_cancel(headers: &HeaderMap) -> impl Fn(&Record) -> bool + Send + Sync + use<> {
    let headers = headers.clone();
    move |record| record.can_cancel() && allows(&headers, record)
}

/// Whether `If-Match` is absent or names this tag. A weak tag, of a page or from a proxy that compresses, may belong to
/// another state, so it never matches (section 8.8.3.2).
pub(super) fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let is_strong = !tag.starts_with("W/");
    !headers.contains_key(IF_MATCH)
        || tags(headers, IF_MATCH)
            .any(|known| known == b"*" || is_strong && known == tag.as_bytes())
}

/// Whether `If-None-Match` names this tag, weak or not.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let tag = opaque(tag.as_bytes());
    tags(headers, IF_NONE_MATCH).any(|known| known == b"*" || opaque(known) == tag)
}

/// Returns the tag without the weakness prefix.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Returns the tags in a header. The layer's own tags have no comma, so a tag of another origin that is split at a
/// comma does no harm.
fn tags(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    let tags = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tags.map(<[u8]>::trim_ascii)
}
