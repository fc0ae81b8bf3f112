use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

/// Builds a response in the format `application/problem+json` (RFC 9457), without internals of the server.
///
/// `detail` is inserted without JSON escaping, so it must not contain quotes, backslashes or control characters.
/// The reason phrases of HTTP contain none of them.
pub fn response<B: From<Bytes>>(status: StatusCode, detail: &'static str) -> Response<B> {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{code},"detail":"{detail}"}}"#
    );
    let mut response = Response::new(B::from(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}
