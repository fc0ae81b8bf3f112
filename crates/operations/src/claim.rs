//! The claim of a client that sends an `Idempotency-Key`.

use super::prefer::split;
use super::record::digest;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, request};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::deadline::TimedBackend;
use tower_promises_backend::kit::documents::encode;

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The largest number of bytes of a key.
const MAX_KEY_BYTES: usize = 255;

/// A claim on a key.
pub(super) struct Claim {
    /// The name of the key in the store. It includes the principal.
    pub(super) name: String,
    /// A digest of the request. A different request must not get the reply to this one.
    pub(super) fingerprint: String,
}

/// The stored owner of a key.
#[derive(Serialize, Deserialize)]
pub(super) struct Claimed {
    pub(super) fingerprint: String,
    /// The operation of the key. The key is free if the operation does not exist.
    pub(super) id: String,
}

impl Claim {
    /// Returns `None` for a request without a key, and an error for a malformed key.
    pub(super) fn of(
        request: &request::Parts,
        principal: Option<&str>,
        body: &Bytes,
    ) -> Result<Option<Self>, ()> {
        let mut keys = request.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = keys.next() else {
            return Ok(None);
        };
        let key = key_of(key).ok_or(())?;
        if keys.next().is_some() {
            return Err(());
        }
        // The host is in the URI in HTTP/2, and in a header in HTTP/1.
        let authority = request.uri.authority().map(Authority::as_str);
        let host = authority.map(str::as_bytes);
        let host = host.or_else(|| Some(request.headers.get(HOST)?.as_bytes()));
        let host = host.unwrap_or_default().to_ascii_lowercase();
        let path = request.uri.path_and_query().map(PathAndQuery::as_str);
        let content_type = request.headers.get(CONTENT_TYPE);
        let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
        let mut sent_with = vec![
            request.method.as_str().as_bytes(),
            &host,
            path.unwrap_or_default().as_bytes(),
        ];
        match boundary(content_type) {
            Some((before, boundary, after)) => {
                sent_with.extend([before, after]);
                sent_with.extend(parts(body, boundary));
            }
            None => sent_with.extend([content_type, body]),
        }
        let principal = principal.unwrap_or_default().as_bytes();
        Ok(Some(Self {
            name: format!("operation/key/{}", digest(&[principal, &key])),
            fingerprint: digest(&sent_with),
        }))
    }
}

/// Frees the key of an operation, unless another operation has it by now.
pub(super) async fn release(
    backend: &TimedBackend,
    name: &str,
    id: &str,
) -> Result<(), BackendError> {
    let claimed: Option<(Claimed, _)> = backend.read_revision(name).await?;
    if let Some((_, revision)) = claimed.filter(|(claimed, _)| claimed.id == id) {
        // The store deletes unconditionally only, so the key gets an operation that does not exist.
        let free = Claimed {
            fingerprint: String::new(),
            id: String::new(),
        };
        let moment = Duration::from_secs(1);
        backend
            .set(name, Some(revision), encode(&free)?, moment)
            .await?;
    }
    Ok(())
}

/// Parses the key: a string of structured fields (RFC 9651, section 3.3.3), whose parameters are ignored, or for
/// compatibility the key without quotes. Returns `None` if the value is neither, empty or too long.
fn key_of(value: &HeaderValue) -> Option<Vec<u8>> {
    let value = value.to_str().ok()?.trim();
    let key = match value.strip_prefix('"') {
        Some(string) => {
            let (key, rest) = unescaped(string)?;
            are_parameters(rest).then_some(key)?
        }
        None => {
            let is_part = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
            value.bytes().all(is_part).then(|| value.into())?
        }
    };
    (1..=MAX_KEY_BYTES).contains(&key.len()).then_some(key)
}

/// Returns the content of a string, and the text after its closing quote.
fn unescaped(string: &str) -> Option<(Vec<u8>, &str)> {
    let mut content = Vec::new();
    let mut bytes = string.bytes().enumerate();
    while let Some((position, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((content, &string[position + 1..])),
            b'\\' => match bytes.next()? {
                (_, escaped @ (b'"' | b'\\')) => content.push(escaped),
                _ => return None,
            },
            b' '..=b'~' => content.push(byte),
            _ => return None,
        }
    }
    None
}

/// Whether the text is empty or a list of parameters.
fn are_parameters(text: &str) -> bool {
    let mut parameters = split(text, ';').map(|parameter| parameter.trim_start_matches(' '));
    parameters.next() == Some("")
        && parameters.all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, "?1"));
            let begins = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '*');
            let is_part = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
            };
            begins && name.bytes().all(is_part) && !value.is_empty()
        })
}

/// Returns the boundary of a multipart media type, with the text before and after it. Clients generate a new boundary
/// for each request.
fn boundary(content_type: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let text = std::str::from_utf8(content_type).ok()?;
    let is_multipart = text.get(..10)?.eq_ignore_ascii_case("multipart/");
    if !is_multipart {
        return None;
    }
    let mut offset = 0;
    for parameter in split(text, ';') {
        let begin = offset;
        offset += parameter.len() + 1;
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        if !name.trim().eq_ignore_ascii_case("boundary") {
            continue;
        }
        let is_around = |character: char| character == '"' || character.is_ascii_whitespace();
        let boundary = value.trim_matches(is_around);
        let space = value.len() - value.trim_start_matches(is_around).len();
        let begin = begin + name.len() + 1 + space;
        let end = begin + boundary.len();
        if boundary.is_empty() {
            return None;
        }
        let (before, after) = (&content_type[..begin], &content_type[end..]);
        return Some((before, boundary.as_bytes(), after));
    }
    None
}

/// Returns the parts of a multipart body. A body without boundaries is one part.
fn parts<'a>(body: &'a [u8], boundary: &[u8]) -> Vec<&'a [u8]> {
    let is_boundary = |line: &[u8]| {
        let line = line.strip_prefix(b"--");
        line.is_some_and(|line| line.starts_with(boundary))
    };
    let (mut parts, mut begin, mut line) = (Vec::new(), 0, 0);
    loop {
        if is_boundary(&body[line..]) {
            parts.push(&body[begin..line]);
            begin = line + 2 + boundary.len();
            line = begin;
        }
        // A boundary is at the beginning of a line.
        let next = body[line..].windows(2).position(|end| end == b"\r\n");
        let Some(next) = next else {
            parts.push(&body[begin..]);
            return parts;
        };
        line += next + 2;
    }
}
