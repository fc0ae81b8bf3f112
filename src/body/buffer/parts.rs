use super::Part;
use std::collections::VecDeque;

/// The parts of a body in order. Most bodies are a single frame, which needs no list and so no allocation.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// `None` only if there are no parts.
    first: Option<Part>,
    rest: VecDeque<Part>,
}

impl Parts {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.first.iter().chain(&self.rest)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Part> {
        match index.checked_sub(1) {
            None => self.first.as_ref(),
            Some(index) => self.rest.get(index),
        }
    }

    pub(super) fn back(&self) -> Option<&Part> {
        self.rest.back().or(self.first.as_ref())
    }

    pub(super) fn push_back(&mut self, part: Part) {
        match self.first {
            None => self.first = Some(part),
            Some(_) => self.rest.push_back(part),
        }
    }

    pub(super) fn pop_back(&mut self) -> Option<Part> {
        self.rest.pop_back().or_else(|| self.first.take())
    }

    pub(super) fn pop_front(&mut self) -> Option<Part> {
        let part = self.first.take();
        self.first = self.rest.pop_front();
        part
    }

    /// Drops the first `count` parts.
    pub(super) fn drop_front(&mut self, count: usize) {
        if let Some(others) = count.checked_sub(1) {
            self.rest.drain(..others);
            self.pop_front();
        }
    }
}

#[cfg(feature = "spool")]
impl Parts {
    pub(super) fn front(&self) -> Option<&Part> {
        self.first.as_ref()
    }

    pub(super) fn back_mut(&mut self) -> Option<&mut Part> {
        self.rest.back_mut().or(self.first.as_mut())
    }

    /// Removes the parts from this index on and returns them.
    pub(super) fn split_off(&mut self, index: usize) -> impl Iterator<Item = Part> + use<> {
        let first = if index == 0 { self.first.take() } else { None };
        let rest = self.rest.split_off(index.saturating_sub(1));
        first.into_iter().chain(rest)
    }
}
