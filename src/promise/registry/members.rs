/// The promises of a group. They are at neighbouring places, and their number in the group is the distance of their
/// place from the first.
#[derive(Clone, Copy, Default)]
pub(in crate::promise) struct Members {
    /// The place of number 0.
    first: usize,
    /// A bit for each promise, by its number.
    bits: u32,
    /// The number with which the next round begins.
    turn: u32,
}

/// The promises that a round has yet to come to.
pub(super) struct Round {
    /// The number with which the round has begun.
    turn: u32,
    /// A bit for each promise, by the distance of its number from `turn`.
    bits: u32,
}

impl Members {
    /// The largest number of promises.
    pub(super) const MAX: usize = u32::BITS as usize;

    /// A group without promises that begins at this place.
    pub(super) fn at(first: usize) -> Self {
        Self {
            first,
            bits: 0,
            turn: 0,
        }
    }

    /// A group of the promise at this place.
    pub(in crate::promise) fn one(place: usize) -> Self {
        Self {
            bits: 1,
            ..Self::at(place)
        }
    }

    pub(in crate::promise) fn is_empty(&self) -> bool {
        self.bits == 0
    }

    pub(in crate::promise) fn len(&self) -> usize {
        self.bits.count_ones() as usize
    }

    pub(in crate::promise) fn place(&self, number: usize) -> usize {
        self.first + number
    }

    /// Adds the promise at this place. `false` if its place is not near those of the others.
    pub(super) fn add(&mut self, place: usize) -> bool {
        if self.is_empty() {
            *self = Self::one(place);
            return true;
        }
        match place.checked_sub(self.first) {
            Some(number) if number < Self::MAX => {
                self.insert(number);
                true
            }
            _ => false,
        }
    }

    pub(super) fn insert(&mut self, number: usize) {
        self.bits |= 1 << number;
    }

    pub(super) fn remove(&mut self, number: usize) {
        self.bits &= !(1 << number);
    }

    /// The numbers of all promises in order.
    pub(in crate::promise) fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        Round {
            turn: 0,
            bits: self.bits,
        }
    }

    /// The numbers of all promises in the order of their turn.
    pub(super) fn round(&self) -> Round {
        Round {
            turn: self.turn,
            bits: self.bits.rotate_right(self.turn),
        }
    }

    /// Lets the next round begin with the second promise of this one.
    pub(in crate::promise) fn take_turns(&mut self) {
        let first = self.round().bits.trailing_zeros();
        self.turn = (self.turn + first + 1) % u32::BITS;
    }
}

impl Iterator for Round {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.bits == 0 {
            return None;
        }
        let distance = self.bits.trailing_zeros();
        self.bits &= self.bits - 1;
        Some(((self.turn + distance) % u32::BITS) as usize)
    }
}
