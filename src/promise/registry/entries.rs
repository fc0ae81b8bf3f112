use super::super::Key;
use super::super::observe::Advice;
use super::super::slot::AnySlot;
use super::{Demand, Entry, Ledger, State};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::sync::Arc;

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

/// The findings of a look-up of a name that is missing.
#[derive(Clone, Copy, Default)]
pub(super) struct Vacancy {
    /// The number of places in the list at that time.
    pub(super) places: usize,
    /// `None` if the list was empty, so that no hash was needed.
    hash: Option<u64>,
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

    fn get_mut(&mut self, key: &Key) -> Result<&mut Entry, Vacancy> {
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
    fn insert(&mut self, entry: Entry, vacancy: Vacancy) -> &mut Entry {
        let position = self.list.len();
        let hash = vacancy.hash;
        let hash = hash.unwrap_or_else(|| self.hasher.hash_one(entry.key()));
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

/// The entries of a request that may have none.
impl State {
    /// The number of promises so far, including removed promises.
    #[inline]
    pub(super) fn places(&self) -> usize {
        let ledger = self.ledger.as_ref();
        ledger.map_or(0, |ledger| ledger.entries.list.len())
    }

    /// Finds the promise with this name, or returns the vacancy for it.
    pub(super) fn look_up(&mut self, key: &Key) -> Result<&mut Entry, Vacancy> {
        match &mut self.ledger {
            Some(ledger) => ledger.entries.get_mut(key),
            None => Err(Vacancy::default()),
        }
    }

    pub(super) fn entry_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.look_up(key).ok()
    }

    pub(super) fn entry(&self, key: &Key) -> Option<&Entry> {
        self.ledger.as_ref()?.entries.get(key)
    }

    pub(super) fn ledger(&mut self) -> &mut Ledger {
        self.ledger.get_or_insert_default()
    }

    /// Adds a promise with a name that is not in use.
    pub(super) fn insert(
        &mut self,
        slot: Arc<dyn AnySlot>,
        demand: Demand,
        vacancy: Vacancy,
    ) -> &mut Entry {
        let entry = Entry {
            slot,
            is_queued: false,
            demand,
            waiters: 0,
            advice: Advice::new(self.pass, demand.is_missed()),
        };
        self.ledger().entries.insert(entry, vacancy)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        self.ledger.as_mut()?.entries.remove(key)
    }

    pub(super) fn keys(&self, condition: impl Fn(&Entry) -> bool) -> Vec<Key> {
        let entries = self.ledger.iter().flat_map(|ledger| ledger.entries.iter());
        let entries = entries.filter(|entry| condition(entry));
        entries.map(|entry| entry.key().clone()).collect()
    }
}

impl Entry {
    pub(super) fn key(&self) -> &Key {
        self.slot.key()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.slot.is_settled()
    }
}
