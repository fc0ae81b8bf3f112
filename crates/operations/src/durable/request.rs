//! The stored request of a durable operation.

use crate::body::OperationRequestBody;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request};
use http_body::Body;
use serde::{Deserialize, Serialize};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::documents::encode;

/// The head of a request. Header values may not be UTF-8, so each byte is stored as the character with that number.
#[derive(Serialize, Deserialize)]
struct Head {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
    principal: Option<String>,
}

/// A request as the store has it.
pub(super) struct StoredRequest {
    pub(super) parts: request::Parts,
    pub(super) body: Bytes,
    pub(super) principal: Option<String>,
}

impl StoredRequest {
    /// Returns the stored form: the size of the head, the head in JSON, and the body. Headers that are not allowed are
    /// left out.
    pub(super) fn encode(
        parts: &request::Parts,
        body: &Bytes,
        principal: Option<String>,
        allowed: &[HeaderName],
    ) -> Result<Bytes, BackendError> {
        let headers = parts.headers.iter();
        let headers = headers.filter(|(name, _)| allowed.contains(name));
        let head = Head {
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: headers
                .map(|(name, value)| {
                    let value = value.as_bytes().iter().copied().map(char::from);
                    (name.to_string(), value.collect())
                })
                .collect(),
            principal,
        };
        let head = encode(&head)?;
        let mut stored = BytesMut::with_capacity(head.len() + body.len() + 8);
        stored.put_u64(head.len() as u64);
        stored.extend_from_slice(&head);
        stored.extend_from_slice(body);
        Ok(stored.freeze())
    }

    pub(super) fn decode(mut stored: Bytes) -> Result<Self, BackendError> {
        let unreadable = || BackendError::unreadable("it is no stored request");
        let bytes = stored.try_get_u64().map_err(|_| unreadable())?;
        let bytes = usize::try_from(bytes).map_err(BackendError::unreadable)?;
        if bytes > stored.len() {
            return Err(unreadable());
        }
        let head = stored.split_to(bytes);
        let head: Head = serde_json::from_slice(&head).map_err(BackendError::unreadable)?;
        let mut request = Request::new(());
        *request.method_mut() = head
            .method
            .parse::<Method>()
            .map_err(BackendError::unreadable)?;
        *request.uri_mut() = head.uri.parse::<Uri>().map_err(BackendError::unreadable)?;
        *request.headers_mut() = headers(&head.headers).ok_or_else(unreadable)?;
        Ok(Self {
            parts: request.into_parts().0,
            body: stored,
            principal: head.principal,
        })
    }

    /// Returns the body for the inner service.
    pub(super) fn body<B: Body>(&self) -> OperationRequestBody<B> {
        OperationRequestBody::whole(self.body.clone())
    }
}

fn headers(stored: &[(String, String)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in stored {
        let value: Option<Vec<u8>> = value
            .chars()
            .map(|character| u8::try_from(u32::from(character)).ok())
            .collect();
        let name: HeaderName = name.parse().ok()?;
        headers.append(name, HeaderValue::from_bytes(&value?).ok()?);
    }
    Some(headers)
}
