//! Limits by key: the slots of a key, and the tasks that wait for one.
//!
//! The state of a limit is in documents of the store, not in the queue. A queue would have to skip envelopes whose key
//! has no slot, which a message broker cannot do, and each delivery that finds no slot would come back again and again.
//! So a task with a limit first waits in the store, *parked*, and enters the queue when it has a slot. The queue only
//! contains tasks that may run, and a parked task causes no call until its turn.
//!
//! Each key has a document [`Slots`], with the submissions that hold a slot, and for each priority a line of numbers.
//! A parked task is a value of its own at the next number of its line. Documents change with compare-and-set. All calls
//! need the same number of steps, however many tasks and keys wait.
//!
//! A slot belongs to the submission of a task, not to a worker. The queue delivers the task of a killed worker again,
//! which then still has its slot, and only the end of an attempt releases it, before the envelope is settled. So no
//! slot has a lease of its own, and no clock decides about it.
//!
//! Between two steps a process may end. The envelope that it has not settled is then delivered again and repeats the
//! steps, and every process that sees a slot whose task is not in the queue yet enqueues the task. A task that is parked
//! twice runs once: each entry has a submission of its own and names the one that it replaces in the record of the task,
//! and only one entry can replace it. The record says that its submission is that of an entry (`is_admitted`). Such a
//! submission is enqueued by [`Core::admit`] only, because the queue ignores the id of an envelope that has recently ended,
//! and it is not parked again while it waits for a worker: a task that is submitted again calls [`Core::fill_limit`] instead.

use super::record::{Letter, Record};
use super::records::Changed;
use super::slots::{Holder, Keys, Parked, Place, Slots};
use super::tasks::Core;
use super::{TaskState, observe};
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::timeout;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::now;
use tower_promises_backend::kit::documents::{Update, encode};
use uuid::Uuid;

/// How much longer than any of its tasks a document is kept.
const GRACE: Duration = Duration::from_secs(60 * 60);

/// The number of entries after which the progress along a line is stored.
const STEPS: usize = 100;

/// The next task in the lines of a key.
enum Next {
    /// Its slot.
    Parked(Box<Holder>),
    /// Many entries did not count. More may follow.
    More,
    Nothing,
}

impl Core {
    /// Parks a task until it has a slot.
    pub(super) async fn park(&self, letter: &Letter, attempt: u32) -> Result<(), BackendError> {
        let (Some(keys), Some(limit)) = (Keys::of(letter), &letter.limit) else {
            return Ok(());
        };
        let backend = &self.records.backend;
        let line = letter.line();
        let time_to_live = self.slots_time_to_live(letter);
        let parked = Parked {
            letter: Letter {
                submission: Uuid::new_v4().simple().to_string(),
                ..letter.clone()
            },
            replaces: letter.submission.clone(),
            attempt,
        };
        let _turn = self.turn(&keys).await;
        let mut placed = None;
        loop {
            let found = backend.read_revision::<Slots>(&keys.slots()).await?;
            let (slots, revision) = found.unzip();
            let mut slots = slots.unwrap_or_default();
            let found = &mut slots.lines[line];
            if let Some(number) = placed.take_if(|number| *number < found.first) {
                // The line has moved on since the document was read.
                backend.delete(&keys.parked(Place(line, number))).await?;
            }
            let number = match placed {
                Some(number) => number,
                None => {
                    let mut number = found.next;
                    let key = |number| keys.parked(Place(line, number));
                    while !backend.create(&key(number), &parked, time_to_live).await? {
                        number += 1;
                    }
                    number
                }
            };
            placed = Some(number);
            found.next = found.next.max(number + 1);
            slots.at_once = limit.at_once();
            slots.name(letter, limit.key());
            let is_settled = slots.is_settled();
            let value = encode(&slots)?;
            if !backend
                .set(&keys.slots(), revision, value, time_to_live)
                .await?
            {
                continue;
            }
            if is_settled {
                return Ok(());
            }
            self.fill_slots(&keys, time_to_live, None).await?;
            return Ok(());
        }
    }

    /// Waits for the turn to change the slots of a key. While the backend fails, no call waits longer than one call to
    /// the backend may take.
    async fn turn(&self, keys: &Keys) -> Option<MutexGuard<'_, ()>> {
        let turn = self.turns[keys.turn()].lock();
        timeout(self.settings.backend_timeout, turn).await.ok()
    }

    /// Whether a delivered task may begin. Otherwise it is parked, and this delivery has ended.
    pub(super) async fn has_slot(&self, letter: &Letter) -> Result<bool, BackendError> {
        let Some(keys) = Keys::of(letter) else {
            return Ok(true);
        };
        let slots: Option<Slots> = self.records.backend.read(&keys.slots()).await?;
        if slots.is_some_and(|slots| slots.holds(&letter.submission)) {
            return Ok(true);
        }
        let time_to_live = self.settings.retention;
        let changed = self.records.change(&letter.id, |record| {
            let has_crashed =
                record.submission == letter.submission && record.state == TaskState::Running;
            if has_crashed {
                // Only the store can have lost the slot.
                record.lose_worker();
                record.queue_again(time_to_live);
            }
            has_crashed
        });
        let changed = changed.await?;
        if let Changed::Yes(record) = &changed {
            self.meters.of(letter).lost();
            if record.state == TaskState::Cancelled {
                self.meters
                    .ended(&letter.queue, &letter.task, TaskState::Cancelled);
            }
        }
        let attempt = match changed {
            Changed::Yes(record) | Changed::No(record) => {
                if record.submission != letter.submission || record.state.is_terminal() {
                    // Needs no slot, because it does not begin.
                    return Ok(true);
                }
                record.attempt
            }
            Changed::Gone => {
                let record = Record::new(letter);
                self.records.create(&letter.id, &record).await?;
                record.attempt
            }
        };
        observe::parked(letter);
        self.park(letter, attempt).await?;
        Ok(false)
    }

    /// Releases the slot of a submission, and passes it on. May be repeated.
    pub(super) async fn release(&self, letter: &Letter) -> Result<(), BackendError> {
        let Some(keys) = Keys::of(letter) else {
            return Ok(());
        };
        let time_to_live = self.slots_time_to_live(letter);
        let _turn = self.turn(&keys).await;
        let ended = Some(&*letter.submission);
        self.fill_slots(&keys, time_to_live, ended).await?;
        Ok(())
    }

    /// Gives the free slots of the limit of a task to those that wait for one, and enqueues the tasks that have one. Parks
    /// the task if the store has lost the slots. May be repeated.
    pub(super) async fn fill_limit(&self, letter: &Letter) -> Result<(), BackendError> {
        let Some(keys) = Keys::of(letter) else {
            return Ok(());
        };
        let time_to_live = self.slots_time_to_live(letter);
        let turn = self.turn(&keys).await;
        let found = self.fill_slots(&keys, time_to_live, None).await?;
        drop(turn);
        if !found && !letter.is_reminder {
            self.park(letter, 0).await?;
        }
        Ok(())
    }

    /// Releases the slot of the submission `ended`, and gives the free slots of a key to the tasks that wait longest,
    /// in one change where possible. Returns when no slot is free or no task waits, and all tasks with a slot are in the
    /// queue: whether the store has the slots.
    async fn fill_slots(
        &self,
        keys: &Keys,
        time_to_live: Duration,
        ended: Option<&str>,
    ) -> Result<bool, BackendError> {
        let backend = &self.records.backend;
        let key = keys.slots();
        loop {
            let found = backend.read_revision::<Slots>(&key).await?;
            let Some((mut slots, revision)) = found else {
                return Ok(false);
            };
            let before = slots.holders.len();
            slots
                .holders
                .retain(|holder| Some(&*holder.submission) != ended);
            let mut has_changed = slots.holders.len() != before;
            for holder in &mut slots.holders {
                if !holder.is_enqueued {
                    self.admit(keys, holder.place).await?;
                    holder.is_enqueued = true;
                    has_changed = true;
                }
            }
            if slots.is_unchecked() {
                self.check_slots(&mut slots).await?;
                has_changed = true;
            }
            let mut skipped = Vec::new();
            let next = if slots.has_room() {
                self.next_parked(keys, &mut slots, &mut skipped).await?
            } else {
                Next::Nothing
            };
            let is_last = matches!(next, Next::Nothing);
            if let Next::Parked(holder) = next {
                slots.holders.push(*holder);
                has_changed = true;
            }
            if !has_changed && skipped.is_empty() && is_last {
                return Ok(true);
            }
            let value = encode(&slots)?;
            let set = backend.set(&key, Some(revision), value, time_to_live);
            // The revision proves that no slot was given or released since the records were read.
            if !set.await? {
                continue;
            }
            // Only now: another process may have given a slot to an entry that has been cancelled since.
            for place in skipped {
                backend.delete(&keys.parked(place)).await?;
            }
            if is_last {
                return Ok(true);
            }
        }
    }

    /// Returns the first task that waits, and makes its next submission the present one. Skips entries that do not
    /// count.
    async fn next_parked(
        &self,
        keys: &Keys,
        slots: &mut Slots,
        skipped: &mut Vec<Place>,
    ) -> Result<Next, BackendError> {
        let backend = &self.records.backend;
        for line in 0..slots.lines.len() {
            while slots.lines[line].first < slots.lines[line].next {
                let place = Place(line, slots.lines[line].first);
                let found: Option<Parked> = backend.read(&keys.parked(place)).await?;
                slots.lines[line].first += 1;
                if let Some(parked) = found {
                    if self.is_waiting(&parked).await? {
                        return Ok(Next::Parked(Box::new(Holder {
                            id: parked.letter.id,
                            submission: parked.letter.submission,
                            place,
                            is_enqueued: false,
                        })));
                    }
                }
                skipped.push(place);
                if skipped.len() == STEPS {
                    return Ok(Next::More);
                }
            }
        }
        Ok(Next::Nothing)
    }

    /// Whether a parked task still waits. Its next submission then is the present one.
    async fn is_waiting(&self, parked: &Parked) -> Result<bool, BackendError> {
        let submission = &parked.letter.submission;
        let update = |found: Option<Record>| match found {
            Some(mut record)
                if record.state == TaskState::Queued && record.attempt == parked.attempt =>
            {
                if record.submission == *submission {
                    return Update::Keep(true);
                }
                if record.submission != parked.replaces {
                    return Update::Keep(false);
                }
                record.submission.clone_from(submission);
                record.is_admitted = true;
                let time_to_live = record.time_to_live();
                Update::Set(record, time_to_live, true)
            }
            // The task runs or has ended, by another entry, or has expired.
            _ => Update::Keep(false),
        };
        let key = parked.letter.id.record();
        self.records.backend.change(&key, update).await
    }

    /// Enqueues a task that has a slot, if its entry is still there.
    async fn admit(&self, keys: &Keys, place: Place) -> Result<(), BackendError> {
        let backend = &self.records.backend;
        let key = keys.parked(place);
        let Some(Parked { letter, .. }) = backend.read(&key).await? else {
            return Ok(());
        };
        self.enqueue(&letter, Duration::ZERO, letter.priority())
            .await?;
        backend.delete(&key).await?;
        Ok(())
    }

    /// Takes back slots whose tasks have ended.
    async fn check_slots(&self, slots: &mut Slots) -> Result<(), BackendError> {
        slots.checked = now();
        for holder in std::mem::take(&mut slots.holders) {
            let record = self.records.read(&holder.id).await?;
            let is_held = record.is_some_and(|record| {
                record.submission == holder.submission && !record.state.is_terminal()
            });
            if is_held {
                slots.holders.push(holder);
            }
        }
        Ok(())
    }

    /// Returns how long the documents of a limit are kept. They must outlive each task with a slot.
    fn slots_time_to_live(&self, letter: &Letter) -> Duration {
        let queue = self.queues.get(&*letter.queue);
        let longest = queue.map_or(Duration::ZERO, |queue| queue.timeout);
        longest.max(self.settings.lifetime).saturating_add(GRACE)
    }
}
