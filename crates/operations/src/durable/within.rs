//! Remembering an outcome in a transaction of the application.

use super::not_remembered::NotRemembered;
use super::owned::Owned;
use super::run::DurableRun;
use crate::memory::{Entry, Fact, Settlement};
use crate::record::Record;
use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::pending;
use tower_promises_backend::kit::documents::{self, Documents, encode};
use tower_promises_backend::kit::sync::lock;
use tower_promises_backend::{ApplicationConnection, BackendError};

/// The error of an outcome that could not be stored in a transaction of the application. The transaction must be rolled
/// back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RememberWithinError {
    /// The promise has an outcome already: the application has settled it, or the transaction has.
    Settled,
    /// A limit of the operation's memory is exceeded.
    #[non_exhaustive]
    Limit {
        /// The limit.
        error: NotRemembered,
    },
    /// The backend has failed, or has no such transactions.
    #[non_exhaustive]
    Backend {
        /// The error of the backend.
        error: BackendError,
    },
}

impl RememberWithinError {
    /// Whether repeating the transaction from its beginning may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let Self::Backend { error } = self else {
            return false;
        };
        matches!(
            error,
            BackendError::Conflict { .. }
                | BackendError::TimedOut { .. }
                | BackendError::Unavailable { .. }
        )
    }
}

impl From<BackendError> for RememberWithinError {
    fn from(error: BackendError) -> Self {
        Self::Backend { error }
    }
}

impl fmt::Display for RememberWithinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => f.write_str("the promise has an outcome already"),
            Self::Limit { .. } | Self::Backend { .. } => {
                f.write_str("the outcome could not be stored in the transaction")
            }
        }
    }
}

impl Error for RememberWithinError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Settled => None,
            Self::Limit { error } => Some(error),
            Self::Backend { error } => Some(error),
        }
    }
}

impl DurableRun {
    /// Stores the outcome of a promise in the transaction that a connection of the application is in. It is remembered if
    /// and only if that transaction commits, so the work that the transaction does happens once. Call
    /// [`remember`](Self::remember) with the same outcome after the commit, which then stores nothing.
    ///
    /// If the run was replaced, the future never resolves: the run is being dropped, and the transaction with it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the transaction may or may not contain the outcome.
    ///
    /// # Errors
    ///
    /// After any error, the transaction must be rolled back: its work does not belong to the outcome that counts.
    pub async fn remember_within<C: Any + Send>(
        &self,
        name: &str,
        settlement: Settlement,
        connection: &mut C,
    ) -> Result<(), RememberWithinError> {
        let entry = Entry {
            name: name.to_owned(),
            fact: Fact::Settled(settlement),
        };
        let owned = &*self.owned;
        owned.check_room(&entry)?;
        let backend = &owned.instance.records.backend;
        let connection = ApplicationConnection::new(connection);
        let mut transaction = backend.join(connection).await?;
        if !owned.append(&mut transaction, &entry).await? {
            drop(transaction);
            // Finds the run replaced, too.
            let _ = owned.refresh().await;
            return pending().await;
        }
        Ok(transaction.finish().await?)
    }
}

impl Owned {
    fn check_room(&self, entry: &Entry) -> Result<(), RememberWithinError> {
        let memory = lock(&self.memory);
        if memory.has(entry) {
            return Err(RememberWithinError::Settled);
        }
        let settings = &self.instance.settings.durable;
        let size = memory.bytes + memory.pending_bytes() + entry.bytes();
        let (limit, limit_bytes) = (settings.max_remembered, settings.max_remembered_bytes);
        let error = if memory.known + memory.pending().len() >= limit {
            NotRemembered::TooMany { limit }
        } else if size > limit_bytes {
            let limit = limit_bytes;
            NotRemembered::TooLarge { size, limit }
        } else {
            return Ok(());
        };
        Err(RememberWithinError::Limit { error })
    }

    /// Adds an entry to the journal, as the transaction sees it. Returns whether the run still owns the operation.
    ///
    /// The entries stay in the document even if they are large, because a part would have to be in the transaction as
    /// well. The next entry that is stored without a transaction moves them out.
    async fn append(
        &self,
        transaction: &mut impl Documents,
        entry: &Entry,
    ) -> Result<bool, RememberWithinError> {
        let key = self.key.record();
        loop {
            let found = documents::read::<Record>(transaction, &key).await?;
            let Some((mut record, revision)) = found else {
                return Ok(false);
            };
            let has_ended = record.forgotten || record.status.is_terminal();
            let Some(durable) = &mut record.durable else {
                return Ok(false);
            };
            if has_ended || durable.fence != self.fence() {
                return Ok(false);
            }
            let known = {
                let memory = lock(&self.memory);
                // The run may have learned of an outcome since the check. It is then among the entries that are known.
                if memory.has(entry) {
                    return Err(RememberWithinError::Settled);
                }
                memory.known
            };
            let new = match durable.journal.after(known) {
                Some(new) => new.to_vec(),
                None => {
                    let backend = &self.instance.records.backend;
                    durable.journal.read(backend, &self.key.memory()).await?
                }
            };
            let is_settled =
                |other: &Entry| other.name == entry.name && matches!(other.fact, Fact::Settled(_));
            if new.iter().any(is_settled) {
                return Err(RememberWithinError::Settled);
            }
            durable.journal.push(entry.clone(), entry.bytes());
            // The run gets on, so it is not what ends its processes.
            durable.recoveries = 0;
            let (value, time_to_live) = (encode(&record)?, record.time_to_live());
            let replaced = transaction.replace(&key, Some(revision), value, time_to_live);
            if replaced.await?.is_some() {
                return Ok(true);
            }
        }
    }
}
