//! Names as tokens of subjects.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// A name as one token. Subjects may not have all characters that names may, and dots and stars mean something in
/// them. A queue and an id of 1024 bytes each still fit into the 4096 bytes that a server takes for a line.
pub(super) fn token(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// The name of which a subject has the token at its end.
pub(super) fn last_name(subject: &str) -> Option<String> {
    let token = subject.rsplit('.').next()?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

/// What the consumer of a queue is called. It is the name of a file for the server, so it is short.
pub(super) fn consumer(queue: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, queue.as_bytes())
        .simple()
        .to_string()
}

/// Whether streams and subjects can start with it.
pub(super) fn is_prefix(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=100).contains(&text.len()) && text.bytes().all(is_allowed)
}
