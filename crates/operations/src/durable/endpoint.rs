//! `POST P/promises/{token}`: the settlement of a promise over HTTP.

use super::settle::{Settling, Target, settle};
use crate::body::OperationRequestBody;
use crate::instance::Instance;
use crate::memory::{Json, RememberedError, Settlement};
use crate::observe;
use crate::record::Key;
use crate::reply::{self, Reply};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode, request};
use http_body::Body;
use serde::Deserialize;
use tokio::time::timeout;

/// The largest size of a settlement.
const MAX_SETTLEMENT_BYTES: usize = 64 * 1024;

/// The content of a request: one of the two members.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Value(Json),
    Error { code: String, message: String },
}

/// Answers a request for the promise of an operation. The token is a capability, so the principal does not matter.
pub(crate) async fn answer<B: Body, R>(
    instance: &Instance,
    (id, token): (&str, &str),
    parts: &request::Parts,
    body: B,
) -> Reply<R> {
    let (settings, headers) = (&instance.settings, &parts.headers);
    if parts.method != Method::POST {
        // No preview of a link settles anything.
        return reply::not_allowed(settings, "POST", headers);
    }
    let problem = |status, detail| reply::problem(settings, status, detail, headers);
    if !is_json(headers) {
        let detail = "The content type must be application/json.";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    }
    let body = OperationRequestBody::read(body, MAX_SETTLEMENT_BYTES);
    let Ok(body) = timeout(settings.receive_timeout, body).await else {
        return reply::too_slow(settings, headers);
    };
    if !body.is_whole() {
        return if body.is_too_large() {
            reply::too_large(settings, headers)
        } else {
            reply::incomplete(settings, headers)
        };
    }
    let Some(settlement) = settlement(body.read_bytes()) else {
        let detail =
            "The body must be {\"value\": …} or {\"error\": {\"code\": …, \"message\": …}}.";
        return problem(StatusCode::UNPROCESSABLE_ENTITY, detail);
    };
    let key = Key::of(id);
    match settle(instance, &key, Target::Token(token), &settlement).await {
        Ok(Settling::Settled | Settling::Repeated) => {
            reply::json(StatusCode::OK, r#"{"settled":true}"#.to_owned())
        }
        Ok(Settling::Conflict) => {
            problem(StatusCode::CONFLICT, "The promise was settled otherwise.")
        }
        Ok(Settling::TooLate) => {
            reply::gone(settings, "The promise cannot be settled any more.", headers)
        }
        Ok(Settling::NotFound) => reply::not_found(settings, headers),
        Ok(Settling::TooLarge) => reply::too_large(settings, headers),
        Ok(Settling::WrongType) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The value does not have the type that the promise needs.",
        ),
        Err(error) => {
            observe::backend_failed(&key, &error);
            reply::unavailable(settings, headers)
        }
    }
}

fn settlement(body: &Bytes) -> Option<Settlement> {
    Some(match serde_json::from_slice(body).ok()? {
        Message::Value(json) => Settlement::untyped(json),
        Message::Error { code, message } => Settlement::Failed(RememberedError::new(code, message)),
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = content_type.and_then(|value| value.split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| {
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/json")
    })
}
