use super::super::error::Failure;
use super::super::outcome::Type;
use super::super::{Key, observe};
use super::{Demand, Entry, Registry};
use http::StatusCode;

/// Advice for developers.
impl Registry {
    /// Warns about suspicious promises when a response is about to be published.
    pub(in crate::promise) fn advise_on_response(&self, status: StatusCode) {
        let is_wanted = status.is_success() || status.is_redirection();
        if !is_wanted || !observe::advice_is_wanted() {
            return;
        }
        let (unread, swallowed) = {
            let state = self.state.lock();
            let Some(ledger) = &state.ledger else {
                return;
            };
            // Most requests need no advice.
            let is_suspicious =
                |it: &Entry| !it.was_read() && (it.is_settled_in_vain() || it.is_swallowed());
            if !ledger.entries.iter().any(is_suspicious) {
                return;
            }
            (
                state.keys(Entry::is_settled_in_vain),
                state.keys(Entry::is_swallowed),
            )
        };
        if !unread.is_empty() {
            observe::never_read(&unread);
        }
        if !swallowed.is_empty() {
            observe::pending_swallowed(&swallowed);
        }
    }

    /// Warns about names that change from pass to pass, at most once for a request.
    pub(in crate::promise) fn advise_on_keys(&self) {
        if !observe::advice_is_wanted() {
            return;
        }
        let (pass, unread, asked) = {
            let mut state = self.state.lock();
            let pass = state.pass;
            if pass == 1 || state.ledger().has_been_advised {
                return;
            }
            let before = state.keys(|entry| entry.is_worth_reading() && entry.is_of(pass - 1));
            let read = state.keys(|entry| entry.is_of(pass - 1) && entry.is_read_in(pass));
            let asked = state.keys(|entry| entry.is_worth_reading() && entry.is_of(pass));
            if before.is_empty() || !read.is_empty() || asked.is_empty() {
                return;
            }
            state.ledger().has_been_advised = true;
            (pass, before, asked)
        };
        observe::keys_change(pass, &unread, &asked);
    }

    /// Records that a placeholder was used for the value of this pending promise.
    pub(in crate::promise) fn accept_placeholder(&self, key: &Key) {
        if let Some(entry) = self.state.lock().entry_mut(key) {
            entry.advice.memory.has_placeholder = true;
        }
    }
}

impl Entry {
    /// Whether reading the value makes sense. A promise of `()` exists for its side effect, as a batch of a loader
    /// does.
    fn is_worth_reading(&self) -> bool {
        !Type::of::<()>().matches((self.kind)())
    }

    fn is_of(&self, pass: u32) -> bool {
        self.advice.memory.submitted == pass
    }

    fn is_read_in(&self, pass: u32) -> bool {
        self.advice.memory.read == pass
    }

    /// Whether the value was read, so that the promise has settled.
    fn was_read(&self) -> bool {
        self.advice.memory.read > 0
    }

    fn is_settled_in_vain(&self) -> bool {
        if self.was_read() || self.advice.memory.was_missed {
            return false;
        }
        let Some(outcome) = self.progress.outcome() else {
            return false;
        };
        // A cancelled promise causes no pass.
        let is_cancelled = matches!(outcome.failure(), Some(Failure::Cancelled));
        self.is_worth_reading() && !is_cancelled
    }

    fn is_swallowed(&self) -> bool {
        let is_missed = self.demand == Demand::Missed && !self.is_settled();
        is_missed && !self.advice.memory.has_placeholder
    }
}
