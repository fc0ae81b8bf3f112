use std::error::Error;
use std::fmt;

/// The error of a promise whose outcome could not be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotRemembered {
    /// The operation has as many remembered promises as it may have.
    #[non_exhaustive]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The outcome is larger than the room that is left for the memory of the operation.
    #[non_exhaustive]
    TooLarge {
        /// The size of the memory with the outcome, in bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

impl fmt::Display for NotRemembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { limit } => write!(
                f,
                "the operation has {limit} remembered entries, and may not have more"
            ),
            Self::TooLarge { size, limit } => write!(
                f,
                "the operation would remember {size} bytes, and may remember {limit}"
            ),
        }
    }
}

impl Error for NotRemembered {}
