use super::super::Key;
use super::Entry;
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// Up to so many names are looked for one by one, which is cheaper than to hash them.
const FEW: usize = 16;

/// The promises of a request in the order in which they came.
#[derive(Default)]
pub(super) struct Entries {
    /// `None` where one has been removed, so that the others stay where they are.
    list: Vec<Option<Entry>>,
    /// Where a name is in the list, once that has more than a [`FEW`].
    index: HashMap<Key, usize, RandomState>,
    /// Where the next one is looked for first: handlers ask for the same things in the same order in each pass.
    next: usize,
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.list.iter_mut().flatten()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.list[self.position(key)?].as_ref()
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        let position = match self.list.get(self.next) {
            Some(Some(entry)) if entry.key == *key => self.next,
            _ => self.position(key)?,
        };
        self.next = position + 1;
        self.list[position].as_mut()
    }

    /// The next pass begins, and is expected to ask for the first one first.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Adds a name that is not there.
    pub(super) fn insert(&mut self, entry: Entry) -> &mut Entry {
        let position = self.list.len();
        if position == FEW {
            let entries = self.list.iter().zip(0..);
            self.index
                .extend(entries.filter_map(|(entry, at)| Some((entry.as_ref()?.key.clone(), at))));
        }
        if position >= FEW {
            self.index.insert(entry.key.clone(), position);
        }
        self.list.push(None);
        self.list[position].insert(entry)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        let position = self.position(key)?;
        self.index.remove(key);
        self.list[position].take()
    }

    fn position(&self, key: &Key) -> Option<usize> {
        if self.list.len() > FEW {
            return self.index.get(key).copied();
        }
        let is_it = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.key == *key);
        self.list.iter().position(is_it)
    }
}
