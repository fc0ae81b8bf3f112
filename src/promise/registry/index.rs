/// The places of promises by the hashes of their names: a table with open addressing and linear probing.
///
/// The table of hashbrown also works here, but takes three times the instructions: it has to find groups of free slots
/// with each insertion.
#[derive(Default)]
pub(super) struct Index {
    /// A place plus one, or zero. The length is zero or a power of two. At least half of the slots are zero.
    slots: Vec<usize>,
}

impl Index {
    /// Whether there is room for so many places.
    pub(super) fn has_room(&self, places: usize) -> bool {
        2 * places <= self.slots.len()
    }

    /// Makes an empty index with room for more than so many places.
    pub(super) fn with_room(places: usize) -> Self {
        let slots = (8 * places).next_power_of_two();
        Self {
            slots: vec![0; slots],
        }
    }

    /// Adds a place. The promises of places that `is_free` accepts have been removed, so their slots can be used again:
    /// a name that is removed and added repeatedly does not make its look-ups slower.
    pub(super) fn insert(&mut self, hash: u32, place: usize, is_free: impl Fn(usize) -> bool) {
        let mask = self.slots.len().wrapping_sub(1);
        let mut slot = hash as usize & mask;
        while let Some(occupied) = self.slots.get_mut(slot) {
            if *occupied == 0 || is_free(*occupied - 1) {
                *occupied = place + 1;
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
            let place = self.slots.get(slot)?.checked_sub(1)?;
            if is_it(place) {
                return Some(place);
            }
            slot = (slot + 1) & mask;
        }
    }
}
