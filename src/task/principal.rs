use super::scope::{self, Scope, Scoped};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The identity that a request or a task acts for: an id, such as that of a user.
///
/// It travels with a task and is [current](Self::current) in its `run`. It is a name, not a permission: the task
/// looks up what the principal may do, at the time it runs. So put an id into it and no roles, which may have been
/// taken away in the meantime, and no password or token, because it stands in the queue, in the store and in the
/// log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Principal(Arc<str>);

impl Principal {
    /// The principal with this id.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For whom this code runs: the principal that [`TaskLayer`](super::TaskLayer) has found in the request, or the
    /// one who has submitted the task.
    ///
    /// `None` stands for nobody. It is nobody, too, in what is given to `tokio::spawn` or to another thread: use
    /// [`scope`](Self::scope) there.
    #[must_use]
    pub fn current() -> Option<Self> {
        scope::current().caller.principal.clone()
    }

    /// Runs a future with this principal as [`current`](Self::current).
    ///
    /// ```
    /// use tower_promises::task::Principal;
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
