//! The conditions that a request makes (RFC 9110, section 13): what its client has seen must still be so, or must not.

use super::record::Record;
use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::request;

/// The tag of the status document.
pub(super) fn tag(record: &Record) -> String {
    format!("\"{}\"", record.version)
}

/// Takes the range out of a request whose response is to be kept, and from one that reads also the conditions that ask
/// whether there is something new.
///
/// They describe what the client of this request has already. The result is for every client that asks for it, and must
/// not be an empty 304 or a part. Conditions that protect from lost updates stay: `If-Match`, `If-Unmodified-Since`, and
/// `If-None-Match` of a request that writes, where it is a precondition whose failure is a 412 (RFC 9110, section 13.1.2).
pub(super) fn remove(request: &mut request::Parts) {
    let headers = &mut request.headers;
    for name in [IF_RANGE, RANGE] {
        headers.remove(name);
    }
    // The methods that are answered with 304.
    if matches!(request.method.as_str(), "GET" | "HEAD" | "QUERY") {
        for name in [IF_MODIFIED_SINCE, IF_NONE_MATCH] {
            headers.remove(name);
        }
    }
}

/// Whether a request that changes an operation may do so, as far as its conditions go.
pub(super) fn allows(headers: &HeaderMap, record: &Record) -> bool {
    let tag = tag(record);
    matches(headers, &tag) && !is_known(headers, &tag)
}

/// [`allows`] for a record that is still to be found.
pub(super) fn of(headers: &HeaderMap) -> impl Fn(&Record) -> bool + Send + Sync + use<> {
    let headers = headers.clone();
    move |record| allows(&headers, record)
}

/// Whether `If-Match` is absent or names this tag. A weak tag, of a page or from a proxy that compresses, might stand
/// for another state, so it is never the same here (section 8.8.3.2).
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

/// A tag without its weakness.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The tags that a header lists. Those of the layer have no comma, so it does not matter where others are divided.
fn tags(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    let tags = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tags.map(<[u8]>::trim_ascii)
}
