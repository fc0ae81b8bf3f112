//! Names as tokens of subjects.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// Encodes a name as one token. Subjects do not allow all characters that names allow, and give dots and stars a
/// meaning. A queue and an id of 1024 bytes each still fit into the 4096 bytes that a server accepts for a line.
pub(super) fn token(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// Decodes the name in the last token of a subject.
pub(super) fn last_name(subject: &str) -> Option<String> {
    let token = subject.rsplit('.').next()?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

/// The name of the consumer of a queue. The server uses it as a file name, so it is short.
pub(super) fn consumer(queue: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, queue.as_bytes())
        .simple()
        .to_string()
}

/// Whether names of streams and subjects can start with the text.
pub(super) fn is_prefix(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=100).contains(&text.len()) && text.bytes().all(is_allowed)
}
