use super::PassOutcome;
use crate::promise::Key;
use crate::promise::error::Failure;
use http::Response;

/// An empty stand-in, because no feature observes requests.
pub(in crate::promise) struct ObservedRequest;

/// A type without values, because no feature observes promises.
pub(in crate::promise) enum ObservedStart {}

/// A type without values, because no feature observes promises.
pub(in crate::promise) enum ObservedPromise {}

impl ObservedRequest {
    pub(in crate::promise) fn new(_: bool) -> Self {
        Self
    }

    #[cfg(feature = "fragments")]
    pub(in crate::promise) fn ended() -> Self {
        Self
    }

    pub(in crate::promise) fn begin_pass(&mut self) {}

    pub(in crate::promise) fn enter_pass(&self) -> impl Sized {}

    #[cfg(feature = "fragments")]
    pub(in crate::promise) fn open(&mut self) {}

    pub(in crate::promise) fn end_pass(&mut self, _: PassOutcome) {}

    pub(in crate::promise) fn start_promises(&mut self, _: usize) -> Option<ObservedStart> {
        None
    }

    pub(in crate::promise) fn end(&mut self, _: PassOutcome) {}

    pub(in crate::promise) fn annotate<R>(&mut self, _: &mut Response<R>) {}
}

impl ObservedStart {
    pub(in crate::promise) fn promise(&self, _: &Key) -> ObservedPromise {
        match *self {}
    }
}

impl ObservedPromise {
    pub(in crate::promise) fn in_scope<R>(&self, _: impl FnOnce() -> R) -> R {
        match *self {}
    }

    pub(in crate::promise) fn end(self, _: Option<&Failure>) {
        match self {}
    }
}
