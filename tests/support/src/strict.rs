//! A service that has to be polled ready before each call.

use crate::{Counter, TestBody, TestRequest, promises};
use http::Response;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use tower::Service;
use tower_promises::{BoxError, Promises};

/// A service that is ready only after `poll_ready`, for one call. A clone is not ready.
pub struct Strict<H> {
    handler: H,
    is_ready: bool,
    calls: Counter,
}

impl<H> Strict<H> {
    /// Creates a service that counts its calls.
    pub fn new(handler: H, calls: &Counter) -> Self {
        Self {
            handler,
            is_ready: false,
            calls: calls.clone(),
        }
    }
}

impl<H: Clone> Clone for Strict<H> {
    fn clone(&self) -> Self {
        Self::new(self.handler.clone(), &self.calls)
    }
}

impl<H> Service<TestRequest> for Strict<H>
where
    H: Fn(&Promises) -> Result<Response<TestBody>, BoxError>,
{
    type Response = Response<TestBody>;
    type Error = BoxError;
    type Future = Ready<Result<Response<TestBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: TestRequest) -> Self::Future {
        assert!(self.is_ready, "called without being polled ready");
        self.is_ready = false;
        self.calls.add();
        ready((self.handler)(&promises(&request)))
    }
}
