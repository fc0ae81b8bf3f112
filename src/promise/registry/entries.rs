use super::super::Key;
use super::super::observe::Advice;
use super::super::outcome::{Kind, Progress, Work};
use super::index::Index;
use super::members::Members;
use super::{Demand, Entry, Ledger, More, State};
use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;
use std::iter;
use std::sync::LazyLock;

/// Up to this many names are searched linearly.
const MAX_LINEAR: usize = 16;

/// The list has room for this many promises from the start, which takes less than 1 KiB.
const ROOM: usize = 10;

/// The largest number of places for which there is room.
const MAX_ROOM: usize = 32;

/// The hasher of all requests, with a seed that clients do not know. A seed for each request costs about 300
/// instructions.
static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// The promises of a request, in the order of submission.
pub(super) struct Entries {
    /// Removed promises leave a gap, so that the places of the others do not change. Behind the last place there is
    /// room, so that an entry is created in its place instead of being moved there.
    list: Vec<Option<Entry>>,
    /// The number of promises so far, including removed promises.
    places: usize,
    /// The places of the names in the list. Empty while there are at most [`MAX_LINEAR`] places.
    index: Index,
    /// A bit for the hash of each name. A name whose bit is missing is missing.
    filter: u64,
    /// The place to check first: handlers request the same names in the same order in each pass.
    next: usize,
}

/// The findings of a look-up of a name that is missing.
#[derive(Clone, Copy)]
pub(super) struct Vacancy {
    /// The number of places in the list at that time.
    pub(super) places: usize,
    hash: u32,
}

impl Vacancy {
    /// A vacancy in a list without promises.
    pub(super) fn new(key: &Key) -> Self {
        Self {
            places: 0,
            hash: hash(key),
        }
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            list: iter::repeat_with(|| None).take(ROOM).collect(),
            places: 0,
            index: Index::default(),
            filter: 0,
            next: 0,
        }
    }
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The number of promises so far, including removed promises.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list[..self.places].iter().filter_map(Option::as_ref)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.list[..self.places]
            .iter_mut()
            .filter_map(Option::as_mut)
    }

    /// The entry at this place, unless it was removed.
    #[cfg(feature = "fragments")]
    pub(super) fn get(&self, place: usize) -> Option<&Entry> {
        self.list.get(place)?.as_ref()
    }

    /// The entry at this place, unless it was removed.
    #[inline]
    pub(super) fn at(&mut self, place: usize) -> Option<&mut Entry> {
        self.list.get_mut(place)?.as_mut()
    }

    /// The entries of a group that begins at this place.
    pub(super) fn group_from(&mut self, place: usize) -> &mut [Option<Entry>] {
        let end = self.places.min(place + Members::MAX);
        &mut self.list[place..end]
    }

    /// Finds the promise with a name, and its place.
    #[inline(always)]
    pub(super) fn find(&mut self, key: &Key) -> Result<(usize, &mut Entry), Vacancy> {
        let expected = self.next;
        let place = match self.list.get(expected) {
            Some(Some(entry)) if entry.key.is(key) => expected,
            _ => match self.search(key) {
                Ok(place) => place,
                Err(hash) => {
                    let places = self.places;
                    return Err(Vacancy { places, hash });
                }
            },
        };
        match self.list.get_mut(place) {
            Some(Some(entry)) => {
                self.next = place + 1;
                Ok((place, entry))
            }
            _ => unreachable!("a search finds no removed promise"),
        }
    }

    /// Expects the first name next, because a new pass begins.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Makes room for an entry, and returns its place.
    #[inline(always)]
    fn room(&mut self) -> usize {
        if self.places == self.list.len() {
            self.grow();
        }
        self.places
    }

    /// Finishes adding the entry at the place of the [room](Self::room). Its name was not in use.
    #[inline(always)]
    fn added(&mut self, hash: u32) {
        let place = self.places;
        self.filter |= bit(hash);
        self.places = place + 1;
        // The next name is most likely missing, too.
        self.next = place + 1;
        if place >= MAX_LINEAR {
            self.add_to_index(place, hash);
        }
    }

    /// Makes room for a few more entries. Four times the memory is reserved: copying all promises costs more than memory
    /// that is not used.
    #[cold]
    fn grow(&mut self) {
        if self.places == self.list.capacity() {
            self.list.reserve_exact(3 * self.places);
        }
        let room = (self.list.capacity() - self.places).min(MAX_ROOM);
        self.list.extend(iter::repeat_with(|| None).take(room));
    }

    fn add_to_index(&mut self, place: usize, hash: u32) {
        match self.index.has_room(place + 1) {
            true => self.index.insert(hash, place, |it| self.list[it].is_none()),
            false => self.make_index(place + 1),
        }
    }

    /// Makes an index of this many places, with room for more.
    #[cold]
    fn make_index(&mut self, places: usize) {
        self.index = Index::with_room(places);
        for (place, entry) in self.list[..places].iter().enumerate() {
            if let Some(entry) = entry {
                self.index.insert(entry.hash, place, |_| false);
            }
        }
    }

    /// Removes an entry. Its place in the list remains.
    fn remove(&mut self, place: usize) -> Option<Entry> {
        self.list.get_mut(place)?.take()
    }

    /// Searches a name by its hash, which is returned if the name is missing.
    fn search(&self, key: &Key) -> Result<usize, u32> {
        let hash = hash(key);
        let may_be_there = match self.places > MAX_LINEAR {
            true => self.index.may_have(hash),
            false => self.filter & bit(hash) != 0,
        };
        match may_be_there {
            true => self.locate(key, hash).ok_or(hash),
            false => Err(hash),
        }
    }

    #[inline(never)]
    fn locate(&self, key: &Key, hash: u32) -> Option<usize> {
        let is_it = |entry: &Option<Entry>| match entry {
            Some(entry) => entry.hash == hash && entry.key == *key,
            None => false,
        };
        match self.places > MAX_LINEAR {
            true => self.index.find(hash, |place| is_it(&self.list[place])),
            false => self.list[..self.places].iter().position(is_it),
        }
    }
}

/// Half of the hash of a name, which is enough to tell apart the promises of a request.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the other half is left out"
)]
fn hash(key: &Key) -> u32 {
    HASHER.hash_one(key) as u32
}

/// The bit of a hash in the filter.
fn bit(hash: u32) -> u64 {
    1 << (hash % u64::BITS)
}

/// The entries of a request that may have none.
impl State {
    /// The number of promises so far, including removed promises.
    #[inline]
    pub(super) fn places(&self) -> usize {
        let ledger = self.ledger.as_ref();
        ledger.map_or(0, |ledger| ledger.entries.places())
    }

    /// Finds the promise with this name, and its place, or returns the vacancy for it.
    #[inline]
    pub(super) fn look_up(&mut self, key: &Key) -> Result<(usize, &mut Entry), Vacancy> {
        match &mut self.ledger {
            Some(ledger) => ledger.entries.find(key),
            None => Err(Vacancy::new(key)),
        }
    }

    /// The promise at this place, unless it was removed.
    #[inline]
    pub(super) fn at(&mut self, place: usize) -> Option<&mut Entry> {
        self.ledger.as_mut()?.entries.at(place)
    }

    pub(super) fn entry_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        Some(self.look_up(key).ok()?.1)
    }

    #[inline]
    pub(super) fn ledger(&mut self) -> &mut Ledger {
        self.ledger.get_or_insert_default()
    }

    /// Adds a promise with a name that is not in use, and returns its place. A promise without work is settled next.
    #[inline(always)]
    pub(super) fn insert(
        &mut self,
        key: &Key,
        kind: Kind,
        work: Option<Work>,
        demand: Demand,
        vacancy: Vacancy,
    ) -> usize {
        let pass = self.pass;
        let entries = &mut self.ledger().entries;
        let place = entries.room();
        // The check lets the compiler leave out the drop of a former entry.
        if let Some(room @ None) = entries.list.get_mut(place) {
            *room = Some(Entry {
                key: key.clone(),
                hash: vacancy.hash,
                kind,
                progress: Progress::new(work),
                has_started: false,
                demand,
                waiters: 0,
                #[cfg(feature = "operations")]
                limits_itself: false,
                advice: Advice::new(pass, demand.is_missed()),
            });
        }
        entries.added(vacancy.hash);
        place
    }

    /// Removes the promise at this place.
    pub(super) fn remove(&mut self, place: usize) -> Option<Entry> {
        self.ledger.as_mut()?.entries.remove(place)
    }

    pub(super) fn keys(&self, condition: impl Fn(&Entry) -> bool) -> Vec<Key> {
        let mut keys = Vec::new();
        if let Some(ledger) = &self.ledger {
            let entries = ledger.entries.iter().filter(|entry| condition(entry));
            keys.extend(entries.map(|entry| entry.key.clone()));
        }
        keys
    }
}

impl Ledger {
    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}
