use crate::{Operations, Progress};
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::{StatusCode, request::Parts};
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use tower_promises_backend::kit::log;
use tower_promises_backend::kit::problem;

/// Rejection of the extractors [`Operations`] and [`Progress`] where no
/// [`OperationLayer`](crate::OperationLayer) wraps the handler.
///
/// The client gets a 500 which says that the server is misconfigured; the log says what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingOperationLayer;

impl fmt::Display for MissingOperationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the extractors `Operations` and `Progress` need `OperationLayer` around the handler: add \
             `.layer(OperationLayer::memory())` to the router, after its routes, or extract an `Option`",
        )
    }
}

impl Error for MissingOperationLayer {}

impl IntoResponse for MissingOperationLayer {
    fn into_response(self) -> Response {
        log::error!("{self}");
        problem::response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server is misconfigured.",
        )
    }
}

impl<S: Sync> FromRequestParts<S> for Operations {
    type Rejection = MissingOperationLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(MissingOperationLayer)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Operations {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

impl<S: Sync> FromRequestParts<S> for Progress {
    type Rejection = MissingOperationLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(MissingOperationLayer)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Progress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}
