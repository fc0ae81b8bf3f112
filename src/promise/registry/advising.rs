use super::super::error::Failure;
use super::super::slot::Type;
use super::super::{Key, observe};
use super::{Demand, Entry, Registry};
use crate::sync::lock;
use http::StatusCode;

/// For those who debug a handler.
impl Registry {
    /// Tells what is odd about a response that is about to be published.
    pub(in crate::promise) fn advise_on_response(&self, status: StatusCode) {
        if !status.is_success() && !status.is_redirection() {
            return;
        }
        let (unread, swallowed) = {
            let state = lock(&self.state);
            if state.ledger.is_none() {
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

    /// Tells what is odd about a pass that has been discarded. Once is enough.
    pub(in crate::promise) fn advise_on_keys(&self) {
        let (pass, unread, asked) = {
            let mut state = lock(&self.state);
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

    /// Somebody has used a placeholder for the value of this promise, which is pending.
    pub(in crate::promise) fn accept_placeholder(&self, key: &Key) {
        if let Some(entry) = lock(&self.state).entry_mut(key) {
            entry.advice.memory.has_placeholder = true;
        }
    }
}

impl Entry {
    /// A promise of `()` is there for its effect, or for what it tells others, as a loader's is.
    fn is_worth_reading(&self) -> bool {
        !Type::of::<()>().matches(self.slot.value_type())
    }

    fn is_of(&self, pass: usize) -> bool {
        self.advice.memory.submitted == pass
    }

    fn is_read_in(&self, pass: usize) -> bool {
        self.advice.memory.read == pass
    }

    fn is_settled_in_vain(&self) -> bool {
        let memory = &self.advice.memory;
        let is_unread = memory.read == 0 && !memory.was_missed;
        // One that was cancelled asks for no pass.
        let is_cancelled = matches!(self.slot.failure(), Some(Failure::Cancelled));
        is_unread && self.is_worth_reading() && self.is_settled() && !is_cancelled
    }

    fn is_swallowed(&self) -> bool {
        let is_missed = self.demand == Demand::Missed && !self.is_settled();
        is_missed && !self.advice.memory.has_placeholder
    }
}
