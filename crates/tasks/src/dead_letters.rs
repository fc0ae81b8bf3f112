//! Dead letters: tasks that were given up, listed by queue.

use super::meters::LetterChange;
use super::news::News;
use super::record::{Failure, Record, Unread};
use super::records::Changed;
use super::tasks::Core;
use super::{TaskError, TaskId, TaskState, TaskStatus, observe};
use std::time::Duration;
use tower_promises_backend::kit::clock::{milliseconds, now};
use tower_promises_backend::kit::documents::Update;
use tower_promises_backend::{BackendError, Delivery};
use uuid::Uuid;

/// The maximum size of the list of a queue's dead letters: the bytes of their ids as JSON. A list has room for more
/// than a thousand random ids. The oldest ids are dropped from a full list; the newest id is always listed.
const MAX_DEAD_LETTER_BYTES: usize = 48 * 1024;

/// Separates the submission from a random part in the id of an envelope whose letter is sent again unread.
pub(super) const AGAIN: char = '~';

/// The key of a queue's list. The store cannot enumerate keys, so the ids are kept in one value, oldest first.
fn list_key(queue: &str) -> String {
    format!("task/dead/{queue}")
}

/// Returns the size of an id in the list, including the comma.
fn listed_bytes(id: &TaskId) -> usize {
    // Ids may contain characters that JSON escapes.
    serde_json::to_string(id).map_or(0, |id| id.len() + 1)
}

/// Makes a letter a dead one that no worker could read.
enum Burial {
    /// The call has made it one, as a task of this type.
    Now(String),
    /// It was one.
    Earlier,
}

impl Core {
    /// Adds a dead letter to the list of its queue, if it is not listed yet.
    pub(super) async fn list(&self, queue: &str, id: &TaskId) -> Result<(), BackendError> {
        let mut dropped = 0;
        let time_to_live = self.settings.dead_letter_retention;
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
        let key = list_key(queue);
        self.records.backend.change(&key, update).await?;
        if dropped > 0 {
            observe::dead_letters_dropped(queue, dropped);
            self.meters
                .letter_changed(queue, LetterChange::Dropped, dropped);
        }
        Ok(())
    }

    /// Removes an id from the list, but keeps it if the task is a dead letter again.
    async fn unlist(&self, queue: &str, id: &TaskId) -> Result<(), BackendError> {
        self.remove(queue, id).await?;
        // The task may have become a dead letter again, while its old entry was still listed.
        match self.records.read(id).await? {
            Some(record) if record.state == TaskState::Dead && record.is_kept() => {
                self.list(&record.queue, id).await
            }
            _ => Ok(()),
        }
    }

    async fn remove(&self, queue: &str, id: &TaskId) -> Result<(), BackendError> {
        let time_to_live = self.settings.dead_letter_retention;
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
        self.records.backend.change(&list_key(queue), update).await
    }

    /// Returns the ids of the list, oldest first. Some of the dead letters may have expired.
    pub(super) async fn listed_dead_letters(
        &self,
        queue: &str,
    ) -> Result<Vec<TaskId>, BackendError> {
        let ids: Option<Vec<TaskId>> = self.records.backend.read(&list_key(queue)).await?;
        Ok(ids.unwrap_or_default())
    }

    pub(super) async fn dead_letters(&self, queue: &str) -> Result<Vec<TaskStatus>, TaskError> {
        let mut letters = Vec::new();
        for id in self.listed_dead_letters(queue).await? {
            let found = match self.records.read(&id).await {
                // An unreadable record hides no others, and stays listed for a version that can read it.
                Err(error @ BackendError::Unreadable { .. }) => {
                    observe::backend_failed(&id, &error);
                    continue;
                }
                found => found?,
            };
            match found {
                // A dead letter that is being sent again stays listed until it is in the queue.
                Some(record) if record.is_kept() => {
                    letters.push(TaskStatus::new(id, record));
                }
                _ => self.unlist(queue, &id).await?,
            }
        }
        Ok(letters)
    }

    /// Makes a letter that no worker could read a dead letter with its bytes, and lists it. Returns whether it is one.
    pub(super) async fn bury_unread(
        &self,
        queue: &str,
        id: &TaskId,
        submission: &str,
        delivery: &Delivery,
        failure: &Failure,
    ) -> Result<bool, BackendError> {
        let bury = |has_room: bool| {
            let update = move |found: Option<Record>| {
                let mut record = match found {
                    Some(record) if record.submission != submission => return Update::Keep(None),
                    Some(record) if record.state == TaskState::Dead => {
                        return Update::Keep(Some(Burial::Earlier));
                    }
                    Some(record) if record.state.is_terminal() => return Update::Keep(None),
                    Some(record) => record,
                    None => Record::of_unread(queue, submission),
                };
                record.attempt = delivery.number;
                record.failure = Some(failure.clone());
                record.end(TaskState::Dead, self.settings.dead_letter_retention);
                record.unread = has_room.then(|| Unread::new(&delivery.payload));
                let time_to_live = record.time_to_live();
                let burial = Burial::Now(record.task.clone());
                Update::Set(record, time_to_live, Some(burial))
            };
            async move { self.records.backend.change(&id.record(), update).await }
        };
        let mut buried = bury(true).await;
        if let Err(BackendError::TooLarge { .. }) = buried {
            buried = bury(false).await;
        }
        let Some(burial) = buried? else {
            return Ok(false);
        };
        if let Burial::Now(task) = burial {
            self.meters.ended(queue, &task, TaskState::Dead);
        }
        self.list(queue, id).await?;
        Ok(true)
    }

    pub(super) async fn send_again(&self, queue: &str, id: &TaskId) -> Result<(), TaskError> {
        let submission = Uuid::new_v4().simple().to_string();
        let lifetime = milliseconds(self.settings.lifetime);
        let changed = self.records.change(id, |record| {
            if record.queue != queue || record.state != TaskState::Dead {
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
                    kept: record.kept,
                    ..Record::of_unread(queue, &record.submission)
                };
                return true;
            }
            let Some(letter) = &mut record.letter else {
                return false;
            };
            letter.submission.clone_from(&submission);
            letter.expires = now().saturating_add(lifetime);
            letter.due = Some(now());
            // The id is kept as long as before, not for the new lifetime.
            letter.once = false;
            // The record keeps the letter until an attempt starts, because enqueueing may fail.
            *record = Record {
                letter: Some(letter.clone()),
                kept: record.kept,
                ..Record::new(letter)
            };
            true
        });
        let not_found = || TaskError::NotFound { id: id.clone() };
        let record = match changed.await? {
            Changed::Yes(record) => {
                self.meters
                    .letter_changed(queue, LetterChange::SentAgain, 1);
                record
            }
            // An earlier call changed the record but may not have enqueued the task.
            Changed::No(record) if record.queue == queue => record,
            Changed::No(_) | Changed::Gone => return Err(not_found()),
        };
        if let Some(unread) = &record.unread {
            // Another envelope, which the queue does not know yet, for the same submission.
            let envelope = format!("{id}/{}{AGAIN}{submission}", record.submission);
            self.enqueue_payload(queue, envelope, unread.payload())
                .await?;
        } else {
            let letter = record.letter.as_ref().ok_or_else(not_found)?;
            self.send(letter, Duration::ZERO, letter.priority()).await?;
        }
        self.announce(id, News::Changed).await;
        Ok(self.unlist(queue, id).await?)
    }

    pub(super) async fn discard(&self, queue: &str, id: &TaskId) -> Result<(), TaskError> {
        let time_to_live = self.settings.retention;
        let changed = self.records.change(id, |record| {
            let is_dead =
                record.queue == queue && record.state == TaskState::Dead && record.is_kept();
            if is_dead {
                record.end(TaskState::Dead, time_to_live);
            }
            is_dead
        });
        match changed.await? {
            Changed::Yes(_) => {
                self.meters
                    .letter_changed(queue, LetterChange::Discarded, 1);
                Ok(self.unlist(queue, id).await?)
            }
            Changed::No(_) | Changed::Gone => Err(TaskError::NotFound { id: id.clone() }),
        }
    }
}
