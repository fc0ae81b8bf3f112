use crate::{TaskError, Tasks};
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::{StatusCode, request::Parts};
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use tower_promises_backend::kit::log;
use tower_promises_backend::kit::problem;

/// Rejection of the extractor [`Tasks`] for handlers outside of a [`TaskLayer`](crate::TaskLayer).
///
/// The response is a 500 that tells the client that the server is misconfigured. The log contains the missing layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingTaskLayer;

impl fmt::Display for MissingTaskLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the extractor `Tasks` needs `TaskLayer` around the handler: add \
             `.layer(TaskLayer::new(tasks))` to the router, after its routes",
        )
    }
}

impl Error for MissingTaskLayer {}

impl IntoResponse for MissingTaskLayer {
    fn into_response(self) -> Response {
        log::error!("{self}");
        problem::response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server is misconfigured.",
        )
    }
}

impl<S: Sync> FromRequestParts<S> for Tasks {
    type Rejection = MissingTaskLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(MissingTaskLayer)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Tasks {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

impl IntoResponse for TaskError {
    fn into_response(self) -> Response {
        let status = self.status();
        // Not logged: any client can request a task that does not exist.
        if status != StatusCode::NOT_FOUND {
            log::error!(error = &self as &(dyn Error + 'static), "handler failed");
        }
        problem::response(status, "The request could not be completed.")
    }
}
