use super::Key;
use super::excerpt::{Name, OneLine};
use crate::BoxError;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The reason why a fragment could not be rendered.
///
/// The text is a single line and contains at most 256 bytes of the name.
#[derive(Debug)]
#[non_exhaustive]
pub enum FragmentError {
    /// The render function returned an error, and was not waiting for a promise.
    #[non_exhaustive]
    Failed {
        /// The name of the fragment.
        name: Key,
        /// The error of the render function.
        error: BoxError,
    },
    /// The render function panicked.
    #[non_exhaustive]
    Panicked {
        /// The name of the fragment.
        name: Key,
        /// The panic message. `the panic had no message` if the payload is not a string.
        message: Arc<str>,
    },
    /// The render function requested another promise each time that it was called.
    #[non_exhaustive]
    TooManyRenders {
        /// The name of the fragment.
        name: Key,
        /// The number of calls.
        limit: usize,
    },
}

impl FragmentError {
    /// The name of the fragment.
    #[must_use]
    pub fn name(&self) -> &Key {
        match self {
            Self::Failed { name, .. }
            | Self::Panicked { name, .. }
            | Self::TooManyRenders { name, .. } => name,
        }
    }
}

impl fmt::Display for FragmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name(self.name());
        match self {
            Self::Failed { .. } => write!(f, "fragment `{name}` failed"),
            Self::Panicked { message, .. } => {
                write!(f, "fragment `{name}` panicked: {}", OneLine(message))
            }
            Self::TooManyRenders { limit, .. } => write!(
                f,
                "fragment `{name}` requested another promise in each of {limit} calls of its render function"
            ),
        }
    }
}

impl Error for FragmentError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { error, .. } => Some(&**error),
            _ => None,
        }
    }
}
