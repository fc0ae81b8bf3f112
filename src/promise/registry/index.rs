/// The places of promises by the hashes of their names: a table with open addressing and linear probing.
///
/// The `HashTable` of hashbrown takes about 100 instructions more for each promise. This table needs less, because the
/// entries have the hashes, and places are never removed from it.
#[derive(Default)]
pub(super) struct Index {
    /// A place plus one, or zero. The length is zero or a power of two. At least half of the slots are zero.
    slots: Vec<u32>,
}

impl Index {
    /// Whether there is room for this many places.
    pub(super) fn has_room(&self, places: usize) -> bool {
        2 * places <= self.slots.len()
    }

    /// Creates an empty index with room for four times as many places.
    pub(super) fn with_room(places: usize) -> Self {
        let slots = (8 * places).next_power_of_two();
        Self {
            slots: vec![0; slots],
        }
    }

    /// Adds a place. The promises of places that `is_free` accepts were removed, so the slots of these places are used
    /// again: a name that is removed and added repeatedly does not make its look-ups slower.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "so many promises do not fit into memory"
    )]
    pub(super) fn insert(&mut self, hash: u32, place: usize, is_free: impl Fn(usize) -> bool) {
        let mask = self.slots.len().wrapping_sub(1);
        let mut slot = hash as usize & mask;
        while let Some(occupied) = self.slots.get_mut(slot) {
            if *occupied == 0 || is_free(*occupied as usize - 1) {
                *occupied = place as u32 + 1;
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Whether there may be a place with this hash.
    pub(super) fn may_have(&self, hash: u32) -> bool {
        let mask = self.slots.len().wrapping_sub(1);
        let first = self.slots.get(hash as usize & mask);
        first.is_some_and(|slot| *slot != 0)
    }

    /// Finds the place with this hash that `is_it` accepts.
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut slot = hash as usize & mask;
        loop {
            let place = self.slots.get(slot)?.checked_sub(1)? as usize;
            if is_it(place) {
                return Some(place);
            }
            slot = (slot + 1) & mask;
        }
    }
}
