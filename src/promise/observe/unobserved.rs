use super::PassOutcome;
use crate::promise::Key;
use crate::promise::error::Failure;
use http::Response;

/// An empty stand-in, because no feature observes requests.
pub(in crate::promise) struct ObservedRequest;

/// An empty stand-in, because no feature observes promises.
#[derive(Default)]
pub(in crate::promise) struct ObservedGroup;

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

    pub(in crate::promise) fn start_promises(
        &mut self,
        _: usize,
        _: impl FnOnce() -> Vec<(usize, Key)>,
    ) -> ObservedGroup {
        ObservedGroup
    }

    pub(in crate::promise) fn end(&mut self, _: PassOutcome) {}

    pub(in crate::promise) fn annotate<R>(&mut self, _: &mut Response<R>) {}
}

impl ObservedGroup {
    pub(in crate::promise) fn is_interested(&self) -> bool {
        false
    }

    pub(in crate::promise) fn in_scope<R>(&self, _: usize, f: impl FnOnce() -> R) -> R {
        f()
    }

    pub(in crate::promise) fn end(&mut self, _: usize, _: Option<&Failure>) {}

    pub(in crate::promise) fn count(&mut self, _: usize) {}

    pub(in crate::promise) fn must_end(&self) -> bool {
        false
    }
}
