//! The stored result of an operation: a head, and a body in chunks.

use super::record::{Key, Stored};
use super::records::Records;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::documents::encode;

/// The chunk size, which every store accepts as one value.
const CHUNK_BYTES: usize = 64 * 1024;

/// Headers that belong to a connection and not to the response.
const HOP_BY_HOP: [&str; 8] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The complete response of the inner service.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    /// Values may not be UTF-8, so each byte is stored as the character with that number.
    headers: Vec<(String, String)>,
}

impl Outcome {
    pub(super) fn new(status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Self {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
        // The server computes the length of the body that it sends.
        headers.remove(CONTENT_LENGTH);
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
        Self {
            status,
            headers,
            body,
        }
    }

    /// Whether the status means that the request had no effect and can be repeated later.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    /// Returns the approximate number of stored bytes.
    pub(super) fn size(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        headers + self.body.len()
    }

    /// Returns the size of the stored result.
    pub(super) fn stored(&self, run: u32) -> Stored {
        Stored {
            chunks: self.body.len().div_ceil(CHUNK_BYTES),
            bytes: self.body.len(),
            run,
        }
    }

    fn head(&self) -> Head {
        let headers = self.headers.iter().map(|(name, value)| {
            let value = value.as_bytes().iter().copied().map(char::from).collect();
            (name.to_string(), value)
        });
        Head {
            status: self.status.as_u16(),
            headers: headers.collect(),
        }
    }

    /// Returns the outcome with this head, or `None` if the head is invalid.
    fn of(head: Head, body: Bytes) -> Option<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in head.headers {
            let value: Option<Vec<u8>> = value
                .chars()
                .map(|character| u8::try_from(u32::from(character)).ok())
                .collect();
            let name: HeaderName = name.parse().ok()?;
            headers.append(name, HeaderValue::from_bytes(&value?).ok()?);
        }
        Some(Self {
            status: StatusCode::from_u16(head.status).ok()?,
            headers,
            body,
        })
    }
}

impl Records {
    /// Stores a result, before the record refers to it. After an error, the caller must [delete](Self::delete_result)
    /// the stored parts.
    pub(super) async fn put_result(
        &self,
        key: &Key,
        outcome: &Outcome,
        stored: Stored,
        time_to_live: Duration,
    ) -> Result<(), BackendError> {
        let backend = &self.backend;
        let head = encode(&outcome.head())?;
        backend
            .put(&key.head(stored.run), head, time_to_live)
            .await?;
        let mut rest = outcome.body.clone();
        for number in 0..stored.chunks {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            let key = key.chunk(stored.run, number);
            backend.put(&key, chunk, time_to_live).await?;
        }
        Ok(())
    }

    /// Returns the result, or `None` if a part of it is missing.
    pub(super) async fn get_result(
        &self,
        key: &Key,
        stored: Stored,
    ) -> Result<Option<Outcome>, BackendError> {
        let Some(head) = self.backend.read::<Head>(&key.head(stored.run)).await? else {
            return Ok(None);
        };
        let unreadable = || BackendError::unreadable("it is no head of a response");
        let mut body = Bytes::new();
        if stored.chunks == 1 {
            let Some(chunk) = self.backend.get(&key.chunk(stored.run, 0)).await? else {
                return Ok(None);
            };
            body = chunk.value;
        } else if stored.chunks > 1 {
            let mut whole = BytesMut::with_capacity(stored.bytes);
            for number in 0..stored.chunks {
                let Some(chunk) = self.backend.get(&key.chunk(stored.run, number)).await? else {
                    return Ok(None);
                };
                whole.extend_from_slice(&chunk.value);
            }
            body = whole.freeze();
        }
        Outcome::of(head, body).map(Some).ok_or_else(unreadable)
    }

    pub(super) async fn delete_result(
        &self,
        key: &Key,
        stored: Stored,
    ) -> Result<(), BackendError> {
        self.backend.delete(&key.head(stored.run)).await?;
        for number in 0..stored.chunks {
            self.backend.delete(&key.chunk(stored.run, number)).await?;
        }
        Ok(())
    }
}
