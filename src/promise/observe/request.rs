use super::PassOutcome;
use super::group::ObservedGroup;
use super::observation::Observation;
#[cfg(feature = "tracing")]
use super::observation::spans_are_wanted;
#[cfg(feature = "tracing")]
use super::spans::Spans;

use crate::promise::Key;
#[cfg(feature = "metrics")]
use crate::{
    gauge::{self, Gauge},
    metrics,
};
use http::Response;
use std::mem;

/// The observation of a request. If it is dropped before the request has ended, the request was abandoned.
pub(in crate::promise) struct ObservedRequest {
    /// `None` if no observer is interested. Boxed, so that other requests do not move it.
    observation: Option<Box<Observation>>,
    /// Whether a pass is running. Counters count passes also if no other observer is interested.
    is_in_pass: bool,
}

impl ObservedRequest {
    /// Begins the observation of a request and its first pass. `is_timed` tells whether timings are wanted.
    #[inline]
    pub(in crate::promise) fn new(is_timed: bool) -> Self {
        #[cfg(feature = "metrics")]
        let in_flight = Gauge::recorded(&gauge::REQUESTS_IN_FLIGHT);
        #[cfg(feature = "metrics")]
        let is_wanted = is_timed || in_flight.is_some();
        #[cfg(not(feature = "metrics"))]
        let is_wanted = is_timed;
        #[cfg(feature = "tracing")]
        let is_wanted = is_wanted || spans_are_wanted();
        Self {
            observation: is_wanted.then(|| {
                Box::new(Observation::new(
                    is_timed,
                    #[cfg(feature = "metrics")]
                    in_flight,
                ))
            }),
            is_in_pass: true,
        }
    }

    /// Creates the observation of a request that has ended.
    #[cfg(feature = "fragments")]
    pub(in crate::promise) fn ended() -> Self {
        Self {
            observation: None,
            is_in_pass: false,
        }
    }

    /// Begins the pass after the one that has ended.
    pub(in crate::promise) fn begin_pass(&mut self) {
        self.is_in_pass = true;
        if let Some(observation) = &mut self.observation {
            observation.begin_pass();
        }
    }

    /// Enters the span of the pass until the guard is dropped.
    #[inline]
    pub(in crate::promise) fn enter_pass(&self) -> impl Sized {
        #[cfg(feature = "tracing")]
        self.spans().map(|spans| spans.pass().enter())
    }

    #[cfg(feature = "tracing")]
    #[inline]
    fn spans(&self) -> Option<&Spans> {
        self.observation.as_ref()?.spans()
    }

    /// Ends the pass, if one is running.
    #[inline]
    pub(in crate::promise) fn end_pass(&mut self, outcome: PassOutcome) {
        if !mem::take(&mut self.is_in_pass) {
            return;
        }
        match &mut self.observation {
            Some(observation) => observation.end_pass(outcome),
            None => {
                #[cfg(feature = "metrics")]
                metrics::pass_counted(outcome as usize);
            }
        }
    }

    /// Ends the request, and the pass if one is running.
    #[inline]
    pub(in crate::promise) fn end(&mut self, outcome: PassOutcome) {
        self.end_pass(outcome);
        if let Some(observation) = &mut self.observation {
            observation.end(outcome);
        }
    }

    /// Inserts the timings into the response for outer layers. There must be no running [`ObservedGroup`] left.
    #[inline]
    pub(in crate::promise) fn annotate<R>(&mut self, response: &mut Response<R>) {
        #[cfg(feature = "server-timing")]
        if let Some(passes) = self.observation.as_mut().and_then(|it| it.passes()) {
            response.extensions_mut().insert(passes);
        }
        #[cfg(not(feature = "server-timing"))]
        let _ = response;
    }

    /// Starts `count` promises together, with these numbers and names.
    pub(in crate::promise) fn start_promises(
        &mut self,
        count: usize,
        names: impl FnOnce() -> Vec<(usize, Key)>,
    ) -> ObservedGroup {
        ObservedGroup::new(self.observation.as_deref_mut(), count, names)
    }

    /// Opens the spans and the timings, because there is a promise or a second pass to show.
    #[cfg(feature = "fragments")]
    pub(in crate::promise) fn open(&mut self) {
        if let Some(observation) = &mut self.observation {
            observation.open();
        }
    }
}

impl Drop for ObservedRequest {
    #[inline]
    fn drop(&mut self) {
        self.end(PassOutcome::Abandoned);
    }
}
