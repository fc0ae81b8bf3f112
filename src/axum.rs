//! Extractors for `Promises`, `Operations`, `Progress` and `Tasks`, and error types as axum responses.
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_promises::{PromiseError, PromiseLayer, Promises};
//!
//! async fn hello(promises: Promises) -> Result<String, PromiseError> {
//!     let name: String = promises.result_or_submit("name", async || "Ferris".to_owned())?;
//!     Ok(format!("Hello, {name}!"))
//! }
//!
//! let app: Router = Router::new()
//!     .route("/", get(hello))
//!     .layer(PromiseLayer::new());
//! ```
//!
//! # Security
//!
//! The response of a [`PromiseError`] or a [`SubmitError`] has the error's [status](PromiseError::status) and a body
//! without details of the promise. The details go to the log. The same holds for a `TaskError` and its status.

use crate::log;
use crate::problem;
use crate::promise::{MissingPromiseLayer, PromiseError, Promises, SubmitError};
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::{StatusCode, request::Parts};
use std::convert::Infallible;
use std::error::Error;

impl IntoResponse for MissingPromiseLayer {
    fn into_response(self) -> Response {
        log::error!("{self}");
        problem::response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server is misconfigured.",
        )
    }
}

impl<S> FromRequestParts<S> for Promises
where
    S: Sync,
{
    type Rejection = MissingPromiseLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(MissingPromiseLayer)
    }
}

impl<S> OptionalFromRequestParts<S> for Promises
where
    S: Sync,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

impl IntoResponse for PromiseError {
    fn into_response(self) -> Response {
        if !self.is_pending() {
            log::error!(error = &self as &(dyn Error + 'static), "handler failed");
        }
        problem::response(self.status(), "The request could not be completed.")
    }
}

impl IntoResponse for SubmitError {
    fn into_response(self) -> Response {
        PromiseError::Rejected { error: self }.into_response()
    }
}
