use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The identity that a request or a task acts for: an id, such as the id of a user.
///
/// A principal travels with a task and is [current](Self::current) in its `run` function. It is not a permission: the
/// task looks up what the principal may do at the time it runs. So use an id, and no roles, which may be revoked in the
/// meantime. Use no passwords or tokens either, because the principal is written to the queue, the store and the log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Principal(Arc<str>);

impl Principal {
    /// Creates a principal from an id.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// Returns the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Principal {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl From<&str> for Principal {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<Principal> for String {
    fn from(principal: Principal) -> Self {
        principal.as_str().to_owned()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({:?})", &*self.0)
    }
}
