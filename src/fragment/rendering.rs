use super::observe::{self, FragmentOutcome, ObservedPage};
use super::render::{Attempt, attempt, failed};
use super::settings::Settings;
use crate::Promises;
use crate::promise::Key;
use crate::promise::fragment_error::FragmentError;
use crate::promise::registry::{FragmentNumber, PendingFragment};
use crate::promise::{Rest, poll_deadline};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// The pending fragments of a page, each of which is rendered when its promises have settled.
pub(super) struct Rendering {
    /// `None` after the last fragment.
    rest: Option<Rest>,
    settings: Arc<Settings>,
    deadline: Pin<Box<Sleep>>,
    /// `None` while the response has not begun.
    watchdog: Option<Watchdog>,
    has_timed_out: bool,
    observed: ObservedPage,
}

/// A task that lets the promises of a page time out although its client does not read, so that nothing polls the body.
struct Watchdog(AbortHandle);

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The HTML of a fragment.
pub(super) struct Output {
    pub(super) number: FragmentNumber,
    pub(super) name: Key,
    pub(super) html: String,
}

impl Rendering {
    pub(super) fn new(rest: Rest, start: Instant, settings: Arc<Settings>) -> Self {
        // `sleep` accepts any duration; an addition could overflow.
        let mut deadline = Box::pin(sleep(settings.timeout));
        let is_earlier = |of_request: &Instant| *of_request < deadline.deadline();
        if let Some(of_request) = rest.deadline().filter(is_earlier) {
            deadline = Box::pin(sleep_until(of_request));
        }
        Self {
            observed: ObservedPage::new(start),
            rest: Some(rest),
            settings,
            deadline,
            watchdog: None,
            has_timed_out: false,
        }
    }

    /// Watches the time for the fragments from now on, also while the body is not polled.
    pub(super) fn watch(&mut self) {
        if let Some(rest) = &self.rest {
            let deadline = self.deadline.deadline();
            let time_out = rest.time_out_later();
            let task = tokio::spawn(async move {
                sleep_until(deadline).await;
                time_out();
            });
            self.watchdog = Some(Watchdog(task.abort_handle()));
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether there are no more fragments.
    pub(super) fn is_complete(&self) -> bool {
        self.rest.is_none()
    }

    /// The numbers and names of the fragments that wait for promises.
    pub(super) fn pending(&self) -> Vec<(FragmentNumber, Key)> {
        let rest = self.rest.as_ref();
        rest.map_or_else(Vec::new, |rest| {
            rest.promises().registry.pending_fragments()
        })
    }

    /// Runs the promises without rendering a fragment.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(rest) = &mut self.rest {
            if rest.drive(cx).is_pending() {
                let _ = self.poll_time_out(cx);
            }
        }
    }

    /// Renders fragments whose promises have settled. Ready with at least one fragment, or without any after the last
    /// fragment.
    pub(super) fn poll_outputs(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Output>> {
        let mut outputs = Vec::new();
        // The watchdog may have found that the time is over.
        if Instant::now() >= self.deadline.deadline() {
            let _ = self.poll_time_out(cx);
        }
        loop {
            let Some(rest) = &mut self.rest else {
                return Poll::Ready(outputs);
            };
            let mut bytes = 0;
            while outputs.is_empty() || bytes < self.settings.max_buffered_bytes {
                let Some(fragment) = rest.take_ready() else {
                    break;
                };
                let _span = rest.enter();
                let outcome = Self::render(rest, fragment, self.has_timed_out, &self.observed);
                if let Some(output) = outcome {
                    bytes += output.html.len();
                    outputs.push(output);
                }
            }
            if !rest.has_fragments() {
                self.finish();
                return Poll::Ready(outputs);
            }
            if !outputs.is_empty() {
                return Poll::Ready(outputs);
            }
            if rest.drive(cx).is_ready() {
                continue;
            }
            ready!(self.poll_time_out(cx));
        }
    }

    /// Drops pending fragments that have no place.
    pub(super) fn leave_out(&mut self, numbers: &[FragmentNumber]) {
        if let Some(rest) = &self.rest {
            let left_out = rest.promises().registry.remove_fragments(numbers);
            self.observed.left_out(left_out);
            if !rest.has_fragments() {
                self.finish();
            }
        }
    }

    /// Ends the page after its last fragment.
    fn finish(&mut self) {
        self.watchdog = None;
        if let Some(mut rest) = self.rest.take() {
            rest.finish();
            self.observed.complete();
        }
    }

    /// Ready once, when the time for the fragments is over. Their promises have timed out then.
    fn poll_time_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(rest) = self.rest.as_mut().filter(|_| !self.has_timed_out) else {
            return Poll::Pending;
        };
        ready!(poll_deadline(self.deadline.as_mut(), cx));
        self.has_timed_out = true;
        {
            let _span = rest.enter();
            observe::timed_out(&rest.promises().registry.pending_fragments());
        }
        rest.time_out();
        Poll::Ready(())
    }

    /// Drops what is pending.
    pub(super) fn abort(&mut self) {
        self.abandon();
        self.rest = None;
    }

    fn abandon(&self) {
        if let Some(rest) = &self.rest {
            let _span = rest.enter();
            let pending = rest.promises().registry.pending_fragments();
            self.observed.abandoned(&pending);
        }
    }

    /// Renders a fragment again. `None` if it waits for further promises.
    fn render(
        rest: &Rest,
        mut fragment: PendingFragment,
        has_timed_out: bool,
        observed: &ObservedPage,
    ) -> Option<Output> {
        let promises = rest.promises();
        let number = fragment.number;
        let outside = Promises::of_reader(&promises.registry, promises.reader.of_parent(&fragment));
        let attempted = observed.render(&fragment.name, || {
            attempt(&outside, Some(number), &fragment.name, |inside| {
                (fragment.render)(&inside.registry, inside.reader)
            })
        });
        fragment.renders += 1;
        let (html, outcome) = match attempted {
            Attempt::Rendered(html) if has_timed_out => (html, FragmentOutcome::TimedOut),
            Attempt::Rendered(html) => (html, FragmentOutcome::Rendered),
            Attempt::Failed(error) => (failed(promises, &error), FragmentOutcome::Failed),
            Attempt::Pending { waits, .. } if fragment.renders < rest.max_renders() => {
                fragment.waits = waits;
                promises.registry.keep_fragment(fragment);
                return None;
            }
            Attempt::Pending { .. } => {
                let error = FragmentError::TooManyRenders {
                    name: fragment.name.clone(),
                    limit: fragment.renders,
                };
                (failed(promises, &error), FragmentOutcome::Failed)
            }
        };
        observed.ended(&fragment.name, outcome);
        let name = fragment.name;
        Some(Output { number, name, html })
    }
}

impl Drop for Rendering {
    fn drop(&mut self) {
        self.abandon();
    }
}
