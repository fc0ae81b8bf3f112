//! The batches of tasks that were submitted last. A store cannot list its keys, so the instances keep this list as a
//! value.

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tower_promises::BoxError;
use tower_promises::backend::{CompareAndSet, Revision, Store};
use tower_promises::tasks::{TaskError, TaskId, Tasks};

/// The key of the list.
const KEY: &str = "cluster/submitted";

/// The maximum number of batches in the list.
const KEPT: usize = 3;

/// The number of tasks that an instance submits, or queries, at a time.
pub(crate) const AT_A_TIME: usize = 100;

/// Tasks that were submitted together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    pub(crate) task: String,
    count: u32,
    /// The final states of the tasks, once all have ended.
    ended: Option<String>,
}

async fn list(store: &dyn Store) -> Result<(Vec<Batch>, Option<Revision>), BoxError> {
    Ok(match store.get(KEY).await? {
        Some(entry) => (serde_json::from_slice(&entry.value)?, Some(entry.revision)),
        None => (Vec::new(), None),
    })
}

/// Changes the list. If another instance is faster, applies the change to the new list.
async fn change<T>(
    store: &dyn Store,
    change: impl Fn(&mut Vec<Batch>) -> T,
) -> Result<T, BoxError> {
    loop {
        let (mut batches, revision) = list(store).await?;
        let changed = change(&mut batches);
        let value = serde_json::to_vec(&batches)?.into();
        let set = store.compare_and_set(KEY, revision, value, None).await?;
        if let CompareAndSet::Set(_) = set {
            return Ok(changed);
        }
    }
}

impl Batch {
    /// Adds a batch to the list, before its tasks are submitted.
    pub(crate) async fn begin(store: &dyn Store, task: &str, count: u32) -> Result<Self, BoxError> {
        let begin = |batches: &mut Vec<Self>| {
            let batch = Self {
                number: batches.first().map_or(1, |last| last.number + 1),
                task: task.to_owned(),
                count,
                ended: None,
            };
            batches.insert(0, batch.clone());
            batches.truncate(KEPT);
            batch
        };
        change(store, begin).await
    }

    /// Returns the batches, newest first.
    pub(crate) async fn all(store: &dyn Store) -> Result<Vec<Self>, BoxError> {
        Ok(list(store).await?.0)
    }

    /// Returns the id of a task of the batch.
    pub(crate) fn id(&self, index: u32) -> TaskId {
        TaskId::new(format!("batch-{}-{index}", self.number))
    }

    /// Describes the states of the tasks and their attempts.
    pub(crate) async fn progress(
        &self,
        store: &dyn Store,
        tasks: &Tasks,
    ) -> Result<String, BoxError> {
        if let Some(ended) = &self.ended {
            return Ok(ended.clone());
        }
        let ids: Vec<_> = (0..self.count).map(|index| self.id(index)).collect();
        let (mut states, mut attempts, mut have_ended) = (BTreeMap::new(), 0, true);
        for some in ids.chunks(AT_A_TIME) {
            for status in join_all(some.iter().map(|id| tasks.status(id))).await {
                let (state, has_ended) = match status {
                    Ok(status) => {
                        attempts += status.attempt();
                        (status.state().to_string(), status.state().is_terminal())
                    }
                    Err(TaskError::NotFound { .. }) => ("not submitted".into(), false),
                    Err(error) => return Err(error.into()),
                };
                *states.entry(state).or_insert(0) += 1;
                have_ended &= has_ended;
            }
        }
        let states = states
            .iter()
            .map(|(state, count)| format!("{count} {state}"));
        let states: Vec<_> = states.collect();
        let progress = format!("{}, {attempts} attempts", states.join(", "));
        if have_ended {
            // Stored, because each query would read every task of the batch.
            let end = |batches: &mut Vec<Self>| {
                let this = batches.iter_mut().find(|it| it.number == self.number);
                if let Some(this) = this {
                    this.ended = Some(progress.clone());
                }
            };
            change(store, end).await?;
        }
        Ok(progress)
    }
}
