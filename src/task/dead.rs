//! Dead letters: tasks that were given up, listed by service.

use super::core::Core;
use super::record::{Failure, Record, Unread, milliseconds, now};
use super::records::{Changed, Update};
use super::{TaskError, TaskId, TaskState, TaskStatus, observe};
use crate::backend::{BackendError, Delivery, Priority};
use std::time::Duration;
use uuid::Uuid;

/// How many bytes the ids of a service's dead letters may have together, as JSON: that is more than a thousand random
/// ones. The oldest are not listed any more.
pub const MAX_DEAD_LETTER_BYTES: usize = 48 * 1024;

/// What comes between the submission and a random part in the id of an envelope whose letter is sent again unread.
pub(super) const AGAIN: char = '~';

/// The store has no list of keys, so this is one: the ids, oldest first.
fn list_key(service: &str) -> String {
    format!("task/dead/{service}")
}

/// How many bytes an id takes in the list, with the comma.
fn listed_bytes(id: &TaskId) -> usize {
    // Ids may have what JSON escapes.
    serde_json::to_string(id).map_or(0, |id| id.len() + 1)
}

impl Core {
    /// Adds a dead letter to the list of its service, if it is not there.
    pub(super) async fn list(&self, service: &str, id: &TaskId) -> Result<(), BackendError> {
        let mut dropped = 0;
        let time_to_live = self.settings.dead_letter_time_to_live;
        let update = |found: Option<Vec<TaskId>>| {
            let mut ids = found.unwrap_or_default();
            if ids.contains(id) {
                return Update::Keep(());
            }
            ids.push(id.clone());
            let mut size: usize = ids.iter().map(listed_bytes).sum();
            dropped = 0;
            while size > MAX_DEAD_LETTER_BYTES && dropped + 1 < ids.len() {
                size -= listed_bytes(&ids[dropped]);
                dropped += 1;
            }
            Update::Set(ids.split_off(dropped), time_to_live, ())
        };
        let key = list_key(service);
        self.records.update(&key, update).await?;
        if dropped > 0 {
            observe::dead_letters_dropped(service, dropped);
        }
        Ok(())
    }

    /// Takes an id off the list, unless it is that of a dead letter again.
    async fn unlist(&self, service: &str, id: &TaskId) -> Result<(), BackendError> {
        self.remove(service, id).await?;
        // It may have died meanwhile, and been found on the list.
        match self.records.find(id).await? {
            Some(record) if record.state == TaskState::Dead && record.is_kept() => {
                self.list(&record.service, id).await
            }
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
                // It hides no others, and stays listed for a version that can read it.
                Err(error @ BackendError::Unreadable { .. }) => {
                    observe::backend_failed(&id, &error);
                    continue;
                }
                found => found?,
            };
            match found {
                // One that is being sent again is listed until it is in the queue.
                Some(record) if record.is_kept() => {
                    letters.push(TaskStatus::new(id, record));
                }
                _ => self.unlist(service, &id).await?,
            }
        }
        Ok(letters)
    }

    /// Makes a letter that no worker could read a dead letter with its bytes, and lists it. Returns whether it is one.
    pub(super) async fn bury_unread(
        &self,
        service: &str,
        id: &TaskId,
        submission: &str,
        delivery: &Delivery,
        failure: &Failure,
    ) -> Result<bool, BackendError> {
        let bury = |has_room: bool| {
            let update = move |found: Option<Record>| {
                let mut record = match found {
                    Some(record) if record.submission != submission => return Update::Keep(false),
                    Some(record) if record.state == TaskState::Dead => return Update::Keep(true),
                    Some(record) if record.state.is_terminal() => return Update::Keep(false),
                    Some(record) => record,
                    None => Record::of_unread(service, submission),
                };
                record.attempt = delivery.number;
                record.failure = Some(failure.clone());
                record.end(TaskState::Dead, self.settings.dead_letter_time_to_live);
                record.unread = has_room.then(|| Unread::new(&delivery.payload));
                let time_to_live = record.time_to_live();
                Update::Set(record, time_to_live, true)
            };
            async move { self.records.update(&id.record(), update).await }
        };
        let mut is_dead = bury(true).await;
        if let Err(BackendError::TooLarge { .. }) = is_dead {
            is_dead = bury(false).await;
        }
        if is_dead? {
            self.list(service, id).await?;
            return Ok(true);
        }
        Ok(false)
    }

    pub(super) async fn send_again(&self, service: &str, id: &TaskId) -> Result<(), TaskError> {
        let submission = Uuid::new_v4().simple().to_string();
        let lifetime = milliseconds(self.settings.lifetime);
        let changed = self.records.change(id, |record| {
            if record.service != service || record.state != TaskState::Dead {
                return false;
            }
            if record.unread.is_some() {
                // Its type and principal stay unknown until a worker can read it.
                *record = Record {
                    unread: record.unread.clone(),
                    extended: Some(now().saturating_add(lifetime)),
                    expires: now().saturating_add(lifetime),
                    principal: record.principal.clone(),
                    fingerprint: record.fingerprint.clone(),
                    task: record.task.clone(),
                    created: record.created,
                    ..Record::of_unread(service, &record.submission)
                };
                return true;
            }
            let Some(letter) = &mut record.letter else {
                return false;
            };
            letter.submission.clone_from(&submission);
            letter.expires = now().saturating_add(lifetime);
            // It keeps the letter until it has begun: it may not come to be enqueued.
            *record = Record {
                letter: Some(letter.clone()),
                ..Record::new(letter)
            };
            true
        });
        let not_found = || TaskError::NotFound { id: id.clone() };
        let record = match changed.await? {
            Changed::Yes(record) => record,
            // It was being sent again before, which did not come to its end.
            Changed::No(record) if record.service == service => record,
            Changed::No(_) | Changed::Gone => return Err(not_found()),
        };
        if let Some(unread) = &record.unread {
            // Another envelope, which the queue does not know yet, for the same submission.
            let envelope = format!("{id}/{}{AGAIN}{submission}", record.submission);
            self.enqueue_payload(service, envelope, unread.payload())
                .await?;
        } else {
            let letter = record.letter.as_ref().ok_or_else(not_found)?;
            self.enqueue(letter, Duration::ZERO, Priority::Normal)
                .await?;
        }
        self.announce(id, super::hub::News::Changed).await;
        Ok(self.unlist(service, id).await?)
    }

    pub(super) async fn discard(&self, service: &str, id: &TaskId) -> Result<(), TaskError> {
        let time_to_live = self.settings.result_time_to_live;
        let changed = self.records.change(id, |record| {
            let is_dead =
                record.service == service && record.state == TaskState::Dead && record.is_kept();
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
