use super::super::Key;
use super::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Up to this many names are searched linearly. The list has room for them from the start, which takes 1 KiB.
const MAX_LINEAR: usize = 16;

/// The promises of a request, in the order of submission.
pub(super) struct Entries {
    /// Removed promises leave a gap, so that the positions of the others do not change.
    list: Vec<Listed>,
    /// The positions of the names in the list. Empty while the list has at most [`MAX_LINEAR`] places.
    index: HashTable<usize>,
    hasher: DefaultHashBuilder,
    /// The position to check first: handlers request the same names in the same order in each pass.
    next: usize,
}

/// Proof that a name is missing, with the findings of the look-up.
#[derive(Clone, Copy, Default)]
pub(in crate::promise) struct Vacancy {
    /// The number of places in the list at that time.
    places: usize,
    /// `None` if the list was empty, so that no hash was needed.
    hash: Option<u64>,
}

impl Vacancy {
    /// Whether it belongs to a list that has not grown since.
    pub(super) fn is_of(self, entries: Option<&Entries>) -> bool {
        self.places == entries.map_or(0, |entries| entries.list.len())
    }
}

struct Listed {
    hash: u64,
    entry: Option<Entry>,
}

impl Listed {
    fn is(&self, hash: u64, key: &Key) -> bool {
        self.hash == hash && self.entry.as_ref().is_some_and(|entry| entry.key() == key)
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            list: Vec::with_capacity(MAX_LINEAR),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            next: 0,
        }
    }
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter().filter_map(|listed| listed.entry.as_ref())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.list
            .iter_mut()
            .filter_map(|listed| listed.entry.as_mut())
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        let position = self.position(key).ok()?;
        self.list[position].entry.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Result<&mut Entry, Vacancy> {
        let expected = self.list.get(self.next);
        let expected = expected.and_then(|listed| listed.entry.as_ref());
        let position = match expected {
            Some(entry) if entry.key() == key => self.next,
            _ => self.position(key)?,
        };
        self.next = position + 1;
        let entry = self.list[position].entry.as_mut();
        entry.ok_or(Vacancy::default())
    }

    /// Expects the first name next, because a new pass begins.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Adds an entry whose name is not in use.
    pub(super) fn insert(&mut self, entry: Entry, vacancy: Vacancy) -> &mut Entry {
        let position = self.list.len();
        let hash = match vacancy.hash {
            Some(hash) if vacancy.is_of(Some(self)) => hash,
            _ => self.hasher.hash_one(entry.key()),
        };
        self.list.push(Listed { hash, entry: None });
        if position >= MAX_LINEAR {
            let first = if position == MAX_LINEAR { 0 } else { position };
            let list = &self.list;
            for position in first..=position {
                let hash_of = |&position: &usize| list[position].hash;
                self.index
                    .insert_unique(list[position].hash, position, hash_of);
            }
        }
        // The next name is most likely missing, too.
        self.next = position + 1;
        self.list[position].entry.insert(entry)
    }

    /// Removes an entry. Its place in the list remains.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        let position = self.position(key).ok()?;
        let hash = self.list[position].hash;
        // A name that is removed and added repeatedly must not make each of its look-ups slower.
        if let Ok(indexed) = self.index.find_entry(hash, |&other| other == position) {
            indexed.remove();
        }
        self.list[position].entry.take()
    }

    fn position(&self, key: &Key) -> Result<usize, Vacancy> {
        let places = self.list.len();
        if places == 0 {
            return Err(Vacancy::default());
        }
        let hash = self.hasher.hash_one(key);
        let position = if places <= MAX_LINEAR {
            self.list.iter().position(|listed| listed.is(hash, key))
        } else {
            let is_it = |&position: &usize| self.list[position].is(hash, key);
            self.index.find(hash, is_it).copied()
        };
        let hash = Some(hash);
        position.ok_or(Vacancy { places, hash })
    }
}
