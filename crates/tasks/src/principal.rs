use super::scope::{self, Scope, Scoped};
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

    /// Returns the principal of the running code: the one that [`TaskLayer`](super::TaskLayer) has found in the
    /// request, or the one that submitted the task.
    ///
    /// `None` if there is no principal. Code in `tokio::spawn` and in other threads has none either; use
    /// [`scope`](Self::scope) there.
    #[must_use]
    pub fn current() -> Option<Self> {
        scope::current().caller.principal.clone()
    }

    /// Runs a future with this principal as the [current](Self::current) one.
    ///
    /// ```
    /// use tower_promises_tasks::Principal;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let clean_up = async { Principal::current().map(|principal| principal.to_string()) };
    /// let ran_as = Principal::new("janitor").scope(clean_up).await;
    /// assert_eq!(ran_as.as_deref(), Some("janitor"));
    /// assert_eq!(Principal::current(), None);
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        let mut scope = Scope::clone(&scope::current());
        scope.caller.principal = Some(self);
        Scoped::new(Arc::new(scope), future)
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
