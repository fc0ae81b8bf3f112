//! Dead letters: tasks that were given up, listed by service.

use super::core::Core;
use super::record::{Letter, Record};
use super::records::{Changed, Update};
use super::{TaskError, TaskId, TaskState, TaskStatus, observe};
use crate::backend::clock::{milliseconds, now};
use crate::backend::{BackendError, Priority};
use std::time::Duration;
use uuid::Uuid;

/// The maximum size of the list of a service's dead letters: the bytes of their ids as JSON. A list has room for more
/// than a thousand random ids. The oldest ids are dropped from a full list; the newest id is always listed.
pub const MAX_DEAD_LETTER_BYTES: usize = 48 * 1024;

/// The key of a service's list. The store cannot enumerate keys, so the ids are kept in one value, oldest first.
fn list_key(service: &str) -> String {
    format!("task/dead/{service}")
}

/// Returns the size of an id in the list, including the comma.
fn listed_bytes(id: &TaskId) -> usize {
    // Ids may contain characters that JSON escapes.
    serde_json::to_string(id).map_or(0, |id| id.len() + 1)
}

impl Core {
    /// Adds a dead letter to the list of its service, if it is not listed yet.
    pub(super) async fn list(&self, letter: &Letter) -> Result<(), BackendError> {
        let mut dropped = 0;
        let time_to_live = self.settings.dead_letter_time_to_live;
        let update = |found: Option<Vec<TaskId>>| {
            let mut ids = found.unwrap_or_default();
            if ids.contains(&letter.id) {
                return Update::Keep(());
            }
            ids.push(letter.id.clone());
            let mut size: usize = ids.iter().map(listed_bytes).sum();
            dropped = 0;
            while size > MAX_DEAD_LETTER_BYTES && dropped + 1 < ids.len() {
                size -= listed_bytes(&ids[dropped]);
                dropped += 1;
            }
            Update::Set(ids.split_off(dropped), time_to_live, ())
        };
        let key = list_key(&letter.service);
        self.records.update(&key, update).await?;
        if dropped > 0 {
            observe::dead_letters_dropped(&letter.service, dropped);
        }
        Ok(())
    }

    /// Removes an id from the list, but keeps it if the task is a dead letter again.
    async fn unlist(&self, service: &str, id: &TaskId) -> Result<(), BackendError> {
        self.remove(service, id).await?;
        // The task may have become a dead letter again, while its old entry was still listed.
        match self.records.find(id).await? {
            Some(Record {
                state: TaskState::Dead,
                letter: Some(letter),
                ..
            }) => self.list(&letter).await,
            _ => Ok(()),
        }
    }

    async fn remove(&self, service: &str, id: &TaskId) -> Result<(), BackendError> {
        let time_to_live = self.settings.dead_letter_time_to_live;
        let update = |found: Option<Vec<TaskId>>| {
            let mut ids = found.unwrap_or_default();
            let before = ids.len();
            ids.retain(|listed| listed != id);
            if ids.len() == before {
                Update::Keep(())
            } else {
                Update::Set(ids, time_to_live, ())
            }
        };
        self.records.update(&list_key(service), update).await
    }

    pub(super) async fn dead_letters(&self, service: &str) -> Result<Vec<TaskStatus>, TaskError> {
        let none = |found: Option<Vec<TaskId>>| Update::Keep(found.unwrap_or_default());
        let ids = self.records.update(&list_key(service), none).await?;
        let mut letters = Vec::new();
        for id in ids {
            let found = match self.records.find(&id).await {
                // An unreadable record hides no others, and stays listed for a version that can read it.
                Err(error @ BackendError::Unreadable { .. }) => {
                    observe::backend_failed(&id, &error);
                    continue;
                }
                found => found?,
            };
            match found {
                // A dead letter that is being sent again stays listed until it is in the queue.
                Some(record) if record.letter.is_some() => {
                    letters.push(TaskStatus::new(id, record));
                }
                _ => self.unlist(service, &id).await?,
            }
        }
        Ok(letters)
    }

    pub(super) async fn send_again(&self, service: &str, id: &TaskId) -> Result<(), TaskError> {
        let submission = Uuid::new_v4().simple().to_string();
        let lifetime = milliseconds(self.settings.lifetime);
        let changed = self.records.change(id, |record| {
            if record.service != service || record.state != TaskState::Dead {
                return false;
            }
            let Some(letter) = &mut record.letter else {
                return false;
            };
            letter.submission.clone_from(&submission);
            letter.expires = now().saturating_add(lifetime);
            // The record keeps the letter until an attempt starts, because enqueueing may fail.
            *record = Record {
                letter: Some(letter.clone()),
                ..Record::new(letter)
            };
            true
        });
        let not_found = || TaskError::NotFound { id: id.clone() };
        let letter = match changed.await? {
            Changed::Yes(record) => record.letter,
            // An earlier call changed the record but may not have enqueued the task.
            Changed::No(record) if record.service == service => record.letter,
            Changed::No(_) | Changed::Gone => None,
        };
        let letter = letter.ok_or_else(not_found)?;
        self.enqueue(&letter, Duration::ZERO, Priority::Normal)
            .await?;
        self.announce(id, super::hub::News::Changed).await;
        Ok(self.unlist(service, id).await?)
    }

    pub(super) async fn discard(&self, service: &str, id: &TaskId) -> Result<(), TaskError> {
        let time_to_live = self.settings.result_time_to_live;
        let changed = self.records.change(id, |record| {
            let is_dead = record.service == service
                && record.state == TaskState::Dead
                && record.letter.is_some();
            if is_dead {
                record.end(TaskState::Dead, time_to_live);
            }
            is_dead
        });
        match changed.await? {
            Changed::Yes(_) => Ok(self.unlist(service, id).await?),
            Changed::No(_) | Changed::Gone => Err(TaskError::NotFound { id: id.clone() }),
        }
    }
}
