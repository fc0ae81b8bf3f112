//! Durable operations that the application resumes, sends again, or lets forget.

use super::recording::Recording;
use super::takeover::{LOST, recall};
use super::wake::{self, Reason};
use crate::changes::CHANGED;
use crate::instance::Instance;
use crate::memory::{Durable, Entry};
use crate::observe;
use crate::open::open_again;
use crate::record::{Key, OperationStatus, Record, random};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::clock::milliseconds;
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::kit::journal::Journal;

/// Begins a run of a suspended operation now. Returns whether the operation is suspended.
pub(crate) async fn resume(instance: &Instance, key: &Key) -> Result<bool, BackendError> {
    let Some((record, _)) = instance.records.read(key).await? else {
        return Ok(false);
    };
    let durable = record.durable.as_deref();
    let Some(durable) = durable.filter(|_| !record.status.is_terminal()) else {
        return Ok(false);
    };
    if !durable.is_suspended() {
        return Ok(false);
    }
    let envelope = wake::envelope(instance, key, durable.turn, Reason::Begin)?;
    instance.records.backend.enqueue(envelope).await?;
    Ok(true)
}

/// Returns what an operation remembers.
pub(crate) async fn recorded(
    instance: &Instance,
    key: &Key,
) -> Result<Option<Recording>, BackendError> {
    let Some((record, _)) = instance.records.read(key).await? else {
        return Ok(None);
    };
    let Some(durable) = record.durable.as_deref() else {
        return Ok(None);
    };
    Ok(Some(Recording::of(recall(instance, key, durable).await?)))
}

/// Begins a run of an operation that is lost, with all that it remembers. Returns whether this call did so.
pub(crate) async fn send_again(instance: &Instance, key: &Key) -> Result<bool, BackendError> {
    change(instance, key, is_lost, |entries| entries).await
}

/// Forgets a promise and all that was remembered after it. A suspended operation continues. Returns whether the promise
/// was remembered and is forgotten now.
pub(crate) async fn forget_from(
    instance: &Instance,
    key: &Key,
    name: &str,
) -> Result<bool, BackendError> {
    let Some((record, _)) = instance.records.read(key).await? else {
        return Ok(false);
    };
    let Some(durable) = record.durable.as_deref() else {
        return Ok(false);
    };
    let entries = recall(instance, key, durable).await?;
    if !entries.iter().any(|entry| entry.name == name) {
        return Ok(false);
    }
    let is_idle = |record: &Record| {
        let durable = record.durable.as_deref();
        is_lost(record)
            || (!record.status.is_terminal() && durable.is_some_and(Durable::is_suspended))
    };
    let keep = |entries: Vec<Entry>| {
        let kept = entries.into_iter().take_while(|entry| entry.name != name);
        kept.collect()
    };
    change(instance, key, is_idle, keep).await
}

fn is_lost(record: &Record) -> bool {
    let error = record.error.as_ref();
    record.status == OperationStatus::Failed && error.is_some_and(|error| error.code == LOST)
}

/// Stores what an idle operation remembers anew, and begins a run. An operation that is lost begins its lifetime again.
async fn change(
    instance: &Instance,
    key: &Key,
    may: impl Fn(&Record) -> bool,
    keep: impl Fn(Vec<Entry>) -> Vec<Entry>,
) -> Result<bool, BackendError> {
    let backend = &instance.records.backend;
    loop {
        let Some((mut record, revision)) = instance.records.read(key).await? else {
            return Ok(false);
        };
        if !may(&record) {
            return Ok(false);
        }
        let Some(mut durable) = record.durable.take() else {
            return Ok(false);
        };
        let entries = keep(recall(instance, key, &durable).await?);
        let request = backend.get_pieces(&key.request(), durable.request).await?;
        let request =
            request.ok_or_else(|| BackendError::unavailable("the stored request is missing"))?;
        let had_ended = record.status.is_terminal();
        if had_ended {
            let now = instance.settings.now();
            durable.begun = now;
            record.status = OperationStatus::NotStarted;
            (record.error, record.finished, record.result) = (None, None, None);
            record.expires = now.saturating_add(milliseconds(instance.settings.longest()));
        }
        let time_to_live = record.time_to_live_of_parts();
        durable.turn += 1;
        durable.holder = None;
        durable.fence.clear();
        durable.recoveries = 0;
        durable.waiting.clear();
        durable.journal = Journal::default();
        let prefix = key.memory();
        for entry in entries {
            let bytes = entry.bytes();
            let journal = &mut durable.journal;
            journal.push(entry, bytes);
            let part = random()?;
            journal
                .move_out(backend, &prefix, part, time_to_live)
                .await?;
        }
        durable.request = backend
            .put_pieces(&key.request(), request, time_to_live)
            .await?;
        record.touch();
        let turn = durable.turn;
        record.durable = Some(durable);
        if had_ended {
            instance.records.watch_end(key, &mut record).await?;
        }
        if had_ended {
            open_again(&instance.records, &instance.settings, &record).await?;
        }
        let precaution = wake::precaution(instance, key, turn, Reason::Begin)?;
        backend.enqueue(precaution).await?;
        let (name, value) = (key.record(), encode(&record)?);
        let time_to_live = record.time_to_live();
        if !backend
            .set(&name, Some(revision), value, time_to_live)
            .await?
        {
            continue;
        }
        instance.records.bury(key, &record).await?;
        let envelope = wake::envelope(instance, key, turn, Reason::Begin)?;
        backend.enqueue(envelope).await?;
        observe::sent_again(key);
        instance.announce(key, CHANGED).await;
        return Ok(true);
    }
}
