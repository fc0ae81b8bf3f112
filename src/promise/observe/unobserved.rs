use super::PassOutcome;
use crate::promise::Key;
use crate::promise::error::Failure;
use http::Response;

/// An empty stand-in, because no feature observes requests.
pub(in crate::promise) struct ObservedRequest;

/// An empty stand-in, because no feature observes promises.
pub(in crate::promise) struct ObservedPromise;

impl ObservedRequest {
    pub(in crate::promise) fn new() -> Self {
        Self
    }

    pub(in crate::promise) fn begin_pass(&mut self) {}

    pub(in crate::promise) fn enter_pass(&self) -> impl Sized {}

    pub(in crate::promise) fn end_pass(&mut self, _: PassOutcome) {}

    pub(in crate::promise) fn start_promise(&mut self, _: &Key) -> ObservedPromise {
        ObservedPromise
    }

    pub(in crate::promise) fn end(&mut self, _: PassOutcome) {}

    pub(in crate::promise) fn annotate<R>(&mut self, _: &mut Response<R>) {}
}

impl ObservedPromise {
    pub(in crate::promise) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }

    pub(in crate::promise) fn is_wanted(&self) -> bool {
        false
    }

    pub(in crate::promise) fn end(&mut self, _: Option<&Failure>) {}
}
