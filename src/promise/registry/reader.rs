#[cfg(not(feature = "fragments"))]
use super::State;
#[cfg(feature = "fragments")]
use super::{FragmentNumber, PendingFragment};

/// The code that a handle was made for. It is small enough for a register, because each look-up takes it along.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    /// The number of the pass, starting at 1.
    pub(crate) pass: u32,
    /// The fragment that is being rendered.
    #[cfg(feature = "fragments")]
    pub(crate) fragment: Option<FragmentNumber>,
}

impl Reader {
    /// A fragment in the same pass.
    #[cfg(feature = "fragments")]
    pub(crate) fn of_fragment(self, number: FragmentNumber) -> Self {
        Self {
            fragment: Some(number),
            ..self
        }
    }

    /// The code that contains a fragment of the same pass.
    #[cfg(feature = "fragments")]
    pub(crate) fn of_parent(self, fragment: &PendingFragment) -> Self {
        Self {
            fragment: fragment.parent,
            ..self
        }
    }

    /// A handler in the pass with this number.
    pub(in crate::promise) fn of_pass(pass: u32) -> Self {
        Self {
            pass,
            #[cfg(feature = "fragments")]
            fragment: None,
        }
    }
}

#[cfg(not(feature = "fragments"))]
impl State {
    /// Whether a value that the reader misses requires another pass.
    pub(super) fn is_required_by(&self, _: Reader) -> bool {
        true
    }
}
